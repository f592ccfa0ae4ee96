"""What becomes of a run when somebody asks: the whole table, and what its coordinator then does."""

import pytest

from headwater.cloud.history.faults import RunConflict
from headwater.cloud.history.states import Request, Standing, asked, held
from headwater.schemas.statuses import RunState

TABLE: list[tuple[RunState, Request, Standing | str]] = [
    ("queued", "stop", Standing("stopped", stop_requested=True)),
    ("queued", "pause", "is queued, and has not begun; pause it once it runs, or stop it now"),
    ("queued", "resume", "is queued, and has not begun"),
    ("running", "stop", Standing("running", stop_requested=True)),
    ("running", "pause", Standing("running", pause_requested=True)),
    ("running", "resume", Standing("running")),
    ("paused", "stop", Standing("paused", stop_requested=True, pause_requested=True)),
    ("paused", "pause", Standing("paused", pause_requested=True)),
    ("paused", "resume", Standing("running")),
    *(
        (ended, request, f"is {ended} already; start another one")  # type: ignore[misc]
        for ended in ("finished", "stopped", "failed")
        for request in ("stop", "pause", "resume")
    ),
]


@pytest.mark.parametrize(("state", "request_", "becomes"), TABLE, ids=lambda value: str(value)[:24])
def test_a_request_has_one_answer_in_each_state(state: RunState, request_: Request, becomes: Standing | str) -> None:
    standing = Standing(state, pause_requested=state == "paused")
    if isinstance(becomes, Standing):
        assert asked("r", standing, request_) == becomes
        return
    with pytest.raises(RunConflict, match=becomes):
        asked("r", standing, request_)


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
    assert held(standing).state == rests
