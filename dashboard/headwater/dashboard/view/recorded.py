"""Law: what the history answers becomes the same values as what was heard, so that a page draws one kind of thing."""

from dataclasses import dataclass
from typing import Final, get_args

from headwater.dashboard.view.course import Point, spread
from headwater.dashboard.view.runs import RunRow
from headwater.dashboard.view.state import Happening, MemberState, RoundName, Turn
from headwater.schemas.http import NodeDetail, Part, RefusalEntry, Round, Run

_STATES: Final[tuple[MemberState, ...]] = get_args(MemberState)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A node's parts in rounds, oldest first, and what was refused of it, newest first."""

    turns: tuple[Turn, ...] = ()
    refusals: tuple[Happening, ...] = ()


def row(run: Run) -> RunRow:
    began = run.started_at.timestamp() if run.started_at else None
    return RunRow(run.run, run.name, run.state, run.round, run.rounds, began, run.failure or run.waits_for)


def point(told: Round) -> Point:
    mean, worst = spread(told.test)
    personal_mean, personal_worst = spread(told.personal)
    return Point(
        round=told.round,
        attempt=told.attempt,
        task=told.task,
        state=told.state,
        at=told.opened_at.timestamp() + told.elapsed_s,
        elapsed_s=told.elapsed_s,
        cohort=told.cohort,
        received=told.received,
        refused=told.refused,
        devices=told.devices,
        examples=told.examples,
        bytes_down=told.bytes_down,
        bytes_up=told.bytes_up,
        loss=told.loss,
        test_loss=told.test_loss,
        accuracy=told.accuracy,
        mean=mean,
        worst=worst,
        personal_mean=personal_mean,
        personal_worst=personal_worst,
        times=told.times,
    )


def turns_and_refusals(node: NodeDetail) -> Recorded:
    return Recorded(
        tuple(_turn(part) for part in reversed(node.contributions)), tuple(_refusal(told) for told in node.refusals)
    )


def _turn(part: Part) -> Turn:
    return Turn(
        RoundName(part.parent or "", part.run, part.round, part.step, part.attempt),
        part.task,
        part.at.timestamp(),
        next((state for state in _STATES if state == part.state), "received"),
        part.examples,
        part.share,
        part.after_s,
        part.loss,
        part.train_s,
        part.size_bytes,
    )


def _refusal(told: RefusalEntry) -> Happening:
    name = f"{told.parent}/{told.run}/{told.round}/{told.step}/{told.attempt}/{told.node}/{told.at.timestamp()}"
    return Happening(
        name, told.at.timestamp(), "delta.refused", told.node, told.run, told.round, told.reason, told.detail
    )
