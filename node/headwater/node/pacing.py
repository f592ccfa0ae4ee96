"""Law: a parent learns how long its children take from the rounds that it hosted, for each task by itself."""

from collections.abc import Iterable, Mapping

from headwater.core import deadline
from headwater.core.round import Round
from headwater.node.hosting import Contribution
from headwater.schemas.base import Task
from headwater.schemas.messages import Plan


class Pacing:
    """The times of one parent's children, for adaptive deadlines and for a choice by speed."""

    def __init__(self) -> None:
        self._times: dict[Task, deadline.Times] = {}
        self._is_first = True

    def deadline_s(self, plan: Plan, cohort: frozenset[str]) -> float:
        """How long this round waits: as the past suggests where the plan allows that, or as long as it says."""
        if not plan.adaptive_deadline:
            return plan.deadline_s
        return deadline.suggest(self._times.get(plan.task, {}), cohort, plan.quorum, plan.deadline_s)

    def times_s(self, task: Task) -> Mapping[str, float]:
        """How long each child takes in the mean, of whom that is known."""
        typical = ((node, pace.typical_s) for node, pace in self._times.get(task, {}).items())
        return {node: seconds for node, seconds in typical if seconds is not None}

    def learn(self, plan: Plan, round_: Round, contributions: tuple[Contribution, ...], ended_at: float) -> None:
        """What a round that ended tells of everyone's pace.

        The first one tells nothing: an earlier process may have begun it, and then its children were done sooner here.
        """
        is_first, self._is_first = self._is_first, False
        if is_first or not (plan.adaptive_deadline or plan.learning.selection.by == "utility"):
            return
        after_s = {given.node: given.after_s for given in contributions if given.key == plan.key}
        times = deadline.arrived(self._times.get(plan.task, {}), after_s, plan.deadline_s)
        if ended_at >= round_.deadline_at:
            waited_s = round_.deadline_at - round_.opened_at
            times = deadline.missed(times, sorted(round_.waiting), waited_s, plan.deadline_s)
        self._times[plan.task] = times

    def forget_others_than(self, members: Iterable[str]) -> None:
        """Those who are no members any more make room for new ones."""
        known = tuple(members)
        self._times = {task: deadline.kept(times, known) for task, times in self._times.items()}
