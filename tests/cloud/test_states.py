"""What becomes of a run when somebody asks: the whole table, and what its coordinator then does."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.cloud.history.faults import Conflict
from headwater.cloud.history.states import Request, Rest, Standing, asked, held
from headwater.schemas.statuses import RunState

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
RESTS = Rest(2, 30.0, NOW - timedelta(seconds=12))
RESTED = Rest(2, 42.0)
TABLE: list[tuple[RunState, Request, Standing | str]] = [
    ("queued", "stop", Standing("stopped", stop_requested=True)),
    ("queued", "pause", "is queued, and has not begun; pause it once it runs, or stop it now"),
    ("queued", "resume", "is queued, and has not begun"),
    ("running", "stop", Standing("running", stop_requested=True)),
    ("running", "pause", Standing("running", pause_requested=True)),
    ("running", "resume", Standing("running")),
    ("paused", "stop", Standing("paused", stop_requested=True, pause_requested=True, rest=RESTS)),
    ("paused", "pause", Standing("paused", pause_requested=True, rest=RESTS)),
    ("paused", "resume", Standing("running", rest=RESTED)),
    *(
        (ended, request, f"is {ended} already; start another one")  # type: ignore[misc]
        for ended in ("finished", "stopped", "failed")
        for request in ("stop", "pause", "resume")
    ),
]


@pytest.mark.parametrize(("state", "request_", "becomes"), TABLE, ids=lambda value: str(value)[:24])
def test_a_request_has_one_answer_in_each_state(state: RunState, request_: Request, becomes: Standing | str) -> None:
    standing = Standing(state, pause_requested=True, rest=RESTS) if state == "paused" else Standing(state)
    if isinstance(becomes, Standing):
        assert asked("r", standing, request_, NOW) == becomes
        return
    with pytest.raises(Conflict, match=becomes):
        asked("r", standing, request_, NOW)


@pytest.mark.parametrize(
    ("standing", "wish", "rests"),
    [
        (Standing("running"), "go on", "running"),
        (Standing("running", pause_requested=True), "pause", "paused"),
        (Standing("paused", pause_requested=True), "pause", "paused"),
        (Standing("running", stop_requested=True, pause_requested=True), "stop", "running"),
        (Standing("paused", stop_requested=True, pause_requested=True), "stop", "paused"),
    ],
)
def test_between_two_attempts_a_stop_comes_before_a_pause(standing: Standing, wish: str, rests: RunState) -> None:
    assert standing.wish == wish
    assert held(standing, NOW).state == rests


def test_each_rest_is_counted_once_however_often_a_coordinator_looks() -> None:
    standing = Standing("running", pause_requested=True, rest=RESTED)
    rests = held(standing, NOW)
    assert rests.rest == Rest(3, 42.0, NOW)
    assert held(rests, NOW + timedelta(seconds=5)) == rests


@given(st.lists(st.tuples(st.sampled_from(["pause", "resume"]), st.floats(0, 1e6)), max_size=20), st.booleans())
def test_what_a_run_did_not_rest_it_worked(asks: list[tuple[Request, float]], looks: bool) -> None:
    standing, now, worked_s = Standing("running"), NOW, 0.0
    for request, later_s in asks:
        later = now + timedelta(seconds=later_s)
        worked_s += (later - now).total_seconds() if standing.state == "running" else 0.0
        now = later
        standing = asked("r", standing, request, now)
        standing = held(standing, now) if looks else standing
    assert standing.rest.worked_s(NOW, now) == pytest.approx(worked_s, abs=1e-3)


def test_a_clock_that_is_behind_anothers_gives_no_time_back() -> None:
    rests = Rest(1, 5.0, NOW)
    assert rests.ended(NOW - timedelta(seconds=60)).over_s == 5.0
    assert rests.worked_s(NOW, NOW + timedelta(seconds=1)) == 0.0
