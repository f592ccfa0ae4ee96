"""Law: what becomes of a run when somebody asks follows from its state by one table; here nothing is read or written.

              stop              pause             resume
    queued    stopped           refused           refused
    running   after its round   after its round   goes on
    paused    as soon as heard  stays paused      running
    ended     refused           refused           refused

A coordinator looks between two attempts at a round: a stop comes before a pause.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from headwater.cloud.history.faults import RunConflict
from headwater.schemas.statuses import RunState

Request = Literal["stop", "pause", "resume"]
Wish = Literal["go on", "pause", "stop"]

ACTIVE: Final[tuple[RunState, ...]] = ("running", "paused")
"""Of these a fleet has one run at most."""

ENDED: Final[tuple[RunState, ...]] = ("finished", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run is, and what was asked of it that its coordinator has not heard yet."""

    state: RunState
    stop_requested: bool = False
    pause_requested: bool = False

    @property
    def wish(self) -> Wish:
        """What a coordinator shall do between two attempts."""
        return "stop" if self.stop_requested else "pause" if self.pause_requested else "go on"


def asked(run: str, standing: Standing, request: Request) -> Standing:
    """The standing behind a request.

    Raises:
        RunConflict: the run cannot do that any more, or not yet.
    """
    match standing.state, request:
        case "queued", "stop":
            return replace(standing, state="stopped", stop_requested=True)
        case "queued", _:
            raise RunConflict(f"run {run!r}: is queued, and has not begun; {request} it once it runs, or stop it now")
        case (("running" | "paused"), "stop"):
            return replace(standing, stop_requested=True)
        case (("running" | "paused"), "pause"):
            return replace(standing, pause_requested=True)
        case (("running" | "paused"), "resume"):
            return replace(standing, state="running", pause_requested=False)
        case _:
            raise RunConflict(f"run {run!r}: is {standing.state} already; start another one")


def held(standing: Standing) -> Standing:
    """A run that is asked to pause, between two attempts; nothing changes where somebody has thought better of it."""
    return replace(standing, state="paused") if standing.state == "running" and standing.wish == "pause" else standing
