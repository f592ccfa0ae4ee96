"""What was seen makes at most one event; what is told twice is one; of one kind there is never a flood."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum
from headwater.node.events import MAX_A_SECOND, Ledger, Writer, draft_of, step
from headwater.node.hosting import RoundResult
from headwater.node.observing import (
    Came,
    Declined,
    Ended,
    Enrolled,
    NotEnrolled,
    NotTaken,
    Opened,
    RunTold,
    Seen,
    Taken,
    Went,
)
from headwater.schemas.messages import Plan, RoundKey
from headwater.schemas.statuses import Event, EventData, RunState, RunStatus
from headwater.schemas.wire import decode_status, encode_status, reference
from headwater.transport.session import Traffic

KEY = RoundKey(run="r", round=3, step=1, attempt=2)
NOON = datetime(2026, 1, 31, 12, 0, 0, 250_999, tzinfo=UTC)
WRITER = Writer("plant", "gw1", "b007")


def ended(state: rounds.State) -> Ended:
    ref = reference(b"of no interest here")
    plan = Plan(key=KEY, task="train", data="d", model=ref, bundle=ref)
    opened = rounds.open_round(KEY, ["d0", "d1"], quorum=1.0, deadline_s=1.0, now=0.0)
    return Ended(RoundResult(plan, replace(opened, state=state), WeightedSum(()), (), (), 0, 1.0, Traffic()))


def run(state: RunState, round_: int = 0, run: str = "r", detail: str = "", pauses: int = 0) -> RunTold:
    status = RunStatus(run=run, name="n", state=state, round=round_, rounds=9, detail=detail, pauses=pauses)
    return RunTold(status)


IN_ROUND = {"run": "r", "round": 3, "step": 1, "attempt": 2}


@pytest.mark.parametrize(
    ("seen", "kind", "subject", "data", "name"),
    [
        (Opened(KEY, "train", 2), "round.opened", "r/3", IN_ROUND, "r/3.1.2/opened"),
        (ended("closed"), "round.closed", "r/3", IN_ROUND, "r/3.1.2/closed"),
        (
            ended("failed"),
            "round.failed",
            "r/3",
            IN_ROUND | {"reason": "no_quorum", "detail": "0 of the 2 updates that it needs, by the deadline"},
            "r/3.1.2/failed",
        ),
        (Came("d1"), "node.online", "d1", {"node": "d1"}, ""),
        (Went("d1", "silent"), "node.offline", "d1", {"node": "d1", "reason": "silent"}, ""),
        (
            NotTaken("d1", KEY, "stale", "it is over"),
            "delta.refused",
            "d1",
            IN_ROUND | {"node": "d1", "reason": "stale", "detail": "it is over"},
            "",
        ),
        (
            NotTaken("eve", None, "unauthorised", "no child"),
            "delta.refused",
            "eve",
            {"node": "eve", "reason": "unauthorised", "detail": "no child"},
            "",
        ),
        (
            Enrolled("d1", "00ff"),
            "node.enrolled",
            "d1",
            {"node": "d1", "detail": "by token 00ff"},
            "enrolled/00ff",
        ),
        (
            NotEnrolled("d1", "00ff", "was used already"),
            "enrolment.refused",
            "d1",
            {"node": "d1", "reason": "unauthorised", "detail": "token 00ff: was used already"},
            "",
        ),
        (
            Declined("d1", KEY, "not_now", "on battery"),
            "plan.declined",
            "d1",
            IN_ROUND | {"node": "d1", "reason": "not_now", "detail": "on battery"},
            "",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_told(seen: Seen, kind: str, subject: str, data: dict[str, Any], name: str) -> None:
    draft = draft_of(seen)
    assert draft is not None
    assert (draft.type, draft.subject, draft.name) == (f"headwater.{kind}", subject, name)
    assert draft.data == EventData.model_validate(data)


def test_of_a_delta_that_was_taken_there_is_no_event() -> None:
    assert draft_of(Taken("d1", 100)) is None


def told(*seen: Seen) -> list[Event]:
    ledger, events = Ledger(), []
    for one in seen:
        ledger, more = step(ledger, WRITER, one, 0.0, NOON)
        events += more
    return events


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param([run("running"), run("running", 1)], ["started"], id="each round tells of the run again"),
        pytest.param([run("running", 5)], [], id="one that is taken up did not start now"),
        pytest.param([run("running", 8), run("finished", 9)], ["finished"], id="to its end"),
        pytest.param(
            [run("running"), run("paused", 2), run("paused", 2), run("running", 2), run("stopped", 3)],
            ["started", "paused", "resumed", "stopped"],
            id="paused, and stopped later",
        ),
        pytest.param(
            [run("paused", 2, pauses=1), run("paused", 2, pauses=2)], ["paused", "paused"], id="it went on in between"
        ),
        pytest.param([run("paused", 2), run("stopped", 2)], ["paused", "stopped"], id="stopped while it rests"),
        pytest.param([run("failed", 0, detail="no quorum")], ["failed"], id="failed"),
        pytest.param([run("finished", 9), run("running", run="r2")], ["finished", "started"], id="one after another"),
        pytest.param([run("queued")], [], id="nobody works on it yet"),
    ],
)
def test_a_run_is_told_of_where_its_state_changes(seen: list[RunTold], expected: list[str]) -> None:
    assert [event.type.removeprefix("headwater.run.") for event in told(*seen)] == expected


def test_an_event_is_cloudevents_in_its_structured_mode() -> None:
    (event,) = told(Declined("d1", KEY, "not_now", "on battery"))
    assert (event.specversion, event.source, event.id) == ("1.0", "/hw/plant/gw1", "b007.0")
    assert event.time == "2026-01-31T12:00:00.250Z"
    assert decode_status(encode_status(event), Event) == event


def test_what_a_process_tells_again_after_a_restart_is_the_same_event() -> None:
    reborn = replace(WRITER, boot="b008")
    for seen in (Opened(KEY, "train", 2), ended("closed"), run("failed"), run("paused", 2)):
        _, (before,) = step(Ledger(), WRITER, seen, 0.0, NOON)
        _, (after,) = step(Ledger(), reborn, seen, 0.0, NOON)
        assert (before.source, before.id) == (after.source, after.id)
    _, (before,) = step(Ledger(), WRITER, Came("d1"), 0.0, NOON)
    _, (after,) = step(Ledger(), reborn, Came("d1"), 0.0, NOON)
    assert before.id != after.id


PAUSED_TWICE_BEHIND_A_ROUND = [
    run("paused", 2, pauses=1),
    run("running", 2, pauses=1),
    run("paused", 2, pauses=2),
    run("running", 2, pauses=2),
]


def test_each_pause_is_an_event_of_its_own_and_told_again_the_same_one() -> None:
    before = told(run("running", 2), *PAUSED_TWICE_BEHIND_A_ROUND)
    assert [event.id for event in before] == ["r/paused/1", "r/resumed/1", "r/paused/2", "r/resumed/2"]
    # A process that begins while the run rests for the second time.
    _, (again,) = step(Ledger(), replace(WRITER, boot="b008"), PAUSED_TWICE_BEHIND_A_ROUND[2], 0.0, NOON)
    assert (again.source, again.id, again.data) == (before[2].source, before[2].id, before[2].data)


@given(st.lists(st.sampled_from(["pause", "resume", "tell"]), max_size=40), st.integers(0, 40))
def test_however_often_a_run_is_paused_an_id_is_one_happening(asks: list[str], restarts_at: int) -> None:
    ledger, paused, pauses, happened = Ledger(), False, 0, 0
    ids: list[str] = []
    for place, ask in enumerate(asks):
        if place == restarts_at:
            ledger = Ledger()
        if ask == "pause" and not paused:
            paused, pauses, happened = True, pauses + 1, happened + 1
        elif ask == "resume" and paused:
            paused = False
            # Where the process that told of the pause is gone, nobody tells that it is over.
            happened += ledger.run is not None
        ledger, events = step(
            ledger, WRITER, run("paused" if paused else "running", 2, pauses=pauses), place * 1.0, NOON
        )
        ids += [event.id for event in events]
    assert len(set(ids)) == happened
    assert len(ids) <= happened + 1, "told again by whoever began anew"


def test_a_flood_is_told_as_its_number_when_the_second_is_over() -> None:
    ledger, events = Ledger(), []
    for _ in range(MAX_A_SECOND + 7):
        ledger, more = step(ledger, WRITER, NotTaken("eve", None, "malformed", "noise"), 0.5, NOON)
        events += more
    assert len(events) == MAX_A_SECOND
    ledger, others = step(ledger, WRITER, Came("d1"), 0.6, NOON)
    assert [event.type for event in others] == ["headwater.node.online"]
    assert step(ledger, WRITER, None, 0.9, NOON)[1] == []
    ledger, (number,) = step(ledger, WRITER, None, 1.5, NOON)
    assert (number.type, number.subject) == ("headwater.delta.refused", "gw1")
    assert (number.data.reason, number.data.detail) == ("more", "7 more of this kind")
    assert step(ledger, WRITER, None, 3.0, NOON)[1] == []


@given(st.lists(st.tuples(st.floats(0, 0.5), st.sampled_from(["a", "b"])), max_size=200))
def test_nothing_is_lost_without_being_counted_and_no_two_share_an_id(seen: list[tuple[float, str]]) -> None:
    ledger, events, now = Ledger(), [], 0.0
    for pause_s, node in seen:
        now += pause_s
        ledger, more = step(ledger, WRITER, Came(node), now, NOON)
        events += more
    events += step(ledger, WRITER, None, now + 1.0, NOON)[1]
    counted = sum(int(e.data.detail.split()[0]) if e.data.reason == "more" and e.data.detail else 1 for e in events)
    assert counted == len(seen)
    assert len({event.id for event in events}) == len(events)
