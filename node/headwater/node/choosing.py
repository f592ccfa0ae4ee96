"""Law: a parent learns of its children from the rounds that it hosted and from their own words, and asks by that.

What it knows is of this process alone. After a restart it begins anew: a child of which nothing is known is a new one
to every rule, which then asks it early. A round that was open goes on with whom it chooses now, and with what the
journal has of those it chose before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from headwater.core.round import Round
from headwater.core.select import Candidate, Chosen, Situation, chosen, in_their_place
from headwater.node.hosting import Contribution, Hosted
from headwater.node.pacing import Pacing
from headwater.schemas.limits import MAX_CHILDREN
from headwater.schemas.messages import Plan
from headwater.schemas.statuses import NodeStatus

REPLACED_WITHIN: Final = 0.5
"""Of a round's time: who is asked later than that in place of a child that declined has too little left."""


@dataclass(frozen=True, slots=True)
class Known:
    """One child, by the training rounds of its parent: of which number the last was that asked it (0: none), and the
    last that heard a loss."""

    asked_in: int = 0
    heard_in: int = 0
    loss: float | None = None
    examples: int | None = None


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """What `rounds` hosted training rounds told of the children, `MAX_CHILDREN` at most."""

    rounds: int = 0
    children: Mapping[str, Known] = field(default_factory=dict)

    def after(self, round_: Round, contributions: Iterable[Contribution]) -> "Acquaintance":
        """With one more round that ended. Of an update that was late the loss counts as this round's."""
        number = self.rounds + 1
        given = {contribution.node: contribution for contribution in contributions}
        children = dict(self.children)
        for node in sorted(round_.cohort | given.keys()):
            before = children.get(node)
            if before is None and len(children) >= MAX_CHILDREN:
                continue
            known = before or Known()
            if node in round_.cohort:
                known = replace(known, asked_in=number)
            if node in given:
                known = _heard(known, given[node], number)
            children[node] = known
        return Acquaintance(number, children)

    def kept(self, members: Iterable[str]) -> "Acquaintance":
        """Without those who are no members any more."""
        return replace(self, children={node: self.children[node] for node in members if node in self.children})

    def candidate(self, status: NodeStatus, data: str, round_s: float | None) -> Candidate:
        """A child as a choice sees it: its own word on its data where it has one, or what its last update counted."""
        known = self.children.get(status.node, Known())
        own = status.data.get(data)
        number = self.rounds + 1
        return Candidate(
            status.node,
            examples=own.train_examples if own is not None else known.examples,
            loss=known.loss,
            loss_age_rounds=number - known.heard_in,
            round_s=round_s,
            waited_rounds=number - known.asked_in if known.asked_in else None,
            histogram=own.histogram if own is not None else (),
            battery_percent=status.battery_percent,
        )


def _heard(known: Known, contribution: Contribution, number: int) -> Known:
    known = replace(known, examples=contribution.examples)
    return known if contribution.loss is None else replace(known, heard_in=number, loss=contribution.loss)


class Choosing:
    """Whom one parent asks."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._acquaintance = Acquaintance()

    def chosen(self, plan: Plan, eligible: Mapping[str, NodeStatus]) -> Chosen:
        """The cohort of a round that opens."""
        situation = self._situation(plan, eligible) if plan.cohort < 1 else Situation()
        return chosen(eligible, plan.cohort, plan.over_selection, plan.seed, plan.key, situation)

    def in_place_of(self, hosted: Hosted, eligible: Mapping[str, NodeStatus], now: float) -> str | None:
        """Whom to ask instead of one of the cohort that declines now; None where all are asked or it is too late.

        No more are asked in this way than were chosen.
        """
        round_, plan = hosted.round, hosted.plan
        if (
            round_.open_to_all
            or hosted.reserves == []
            or now - round_.opened_at > REPLACED_WITHIN * (round_.deadline_at - round_.opened_at)
        ):
            return None
        if hosted.reserves is None:
            situation = self._situation(plan, eligible)
            others = eligible.keys() - round_.cohort
            found = in_their_place(others, len(round_.cohort), plan.seed, plan.key, situation)
            hosted.reserves = list(reversed(found))
        while hosted.reserves:
            node = hosted.reserves.pop()
            if node in eligible and node not in round_.cohort:
                return node
        return None

    def learn(self, plan: Plan, round_: Round, contributions: Iterable[Contribution]) -> None:
        """What a round that ended tells; only training is learned from."""
        if plan.task == "train":
            self._acquaintance = self._acquaintance.after(round_, contributions)

    def forget_others_than(self, members: Iterable[str]) -> None:
        """Those who are no members any more make room for new ones."""
        self._acquaintance = self._acquaintance.kept(members)

    def _situation(self, plan: Plan, eligible: Mapping[str, NodeStatus]) -> Situation:
        times_s = self._pacing.times_s(plan.task)
        known = {
            node: self._acquaintance.candidate(status, plan.data, times_s.get(node))
            for node, status in eligible.items()
        }
        return Situation(plan.learning.selection, known, self._acquaintance.rounds, plan.deadline_s)
