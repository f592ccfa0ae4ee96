"""Law: what becomes of a run when somebody asks follows from its state by one table; here nothing is read or written.

              stop              pause             resume
    queued    stopped           refused           refused
    running   after its round   after its round   goes on
    paused    as soon as heard  stays paused      running
    ended     refused           refused           refused

A coordinator looks between two attempts at a round: a stop comes before a pause. How often a run rested, and for how
long, is kept with its state: people are told of each rest once, and of the time for which it worked.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from headwater.cloud.history.faults import Conflict
from headwater.schemas.statuses import RunState

Request = Literal["stop", "pause", "resume"]
Wish = Literal["go on", "pause", "stop"]

ACTIVE: Final[tuple[RunState, ...]] = ("running", "paused")
"""Of these a fleet has one run at most."""

ENDED: Final[tuple[RunState, ...]] = ("finished", "stopped", "failed")


@dataclass(frozen=True, slots=True)
class Rest:
    """How a run rested: `pauses` times, the one that goes on included, `over_s` in those that are over, and in the one
    that goes on `since` then."""

    pauses: int = 0
    over_s: float = 0.0
    since: datetime | None = None

    def begun(self, now: datetime) -> "Rest":
        return Rest(self.pauses + 1, self.over_s, now)

    def ended(self, now: datetime) -> "Rest":
        return Rest(self.pauses, self.over_s + (_between_s(self.since, now) if self.since is not None else 0.0))

    def worked_s(self, started_at: datetime, until: datetime) -> float:
        """For how long a run was at work since it began: without the time for which it rested."""
        return max(0.0, _between_s(started_at, until) - self.ended(until).over_s)


def _between_s(before: datetime, after: datetime) -> float:
    # Two machines' clocks may have told them.
    return max(0.0, (after - before).total_seconds())


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run is, and what was asked of it that its coordinator has not heard yet."""

    state: RunState
    stop_requested: bool = False
    pause_requested: bool = False
    rest: Rest = field(default_factory=Rest)

    @property
    def wish(self) -> Wish:
        """What a coordinator shall do between two attempts."""
        return "stop" if self.stop_requested else "pause" if self.pause_requested else "go on"


def asked(run: str, standing: Standing, request: Request, now: datetime) -> Standing:
    """The standing behind a request at this time.

    Raises:
        Conflict: the run cannot do that any more, or not yet.
    """
    match standing.state, request:
        case "queued", "stop":
            return replace(standing, state="stopped", stop_requested=True)
        case "queued", _:
            raise Conflict(f"run {run!r}: is queued, and has not begun; {request} it once it runs, or stop it now")
        case (("running" | "paused"), "stop"):
            return replace(standing, stop_requested=True)
        case (("running" | "paused"), "pause"):
            return replace(standing, pause_requested=True)
        case "running", "resume":
            return replace(standing, pause_requested=False)
        case "paused", "resume":
            return replace(standing, state="running", pause_requested=False, rest=standing.rest.ended(now))
        case _:
            raise Conflict(f"run {run!r}: is {standing.state} already; start another one")


def held(standing: Standing, now: datetime) -> Standing:
    """A run that is asked to pause, between two attempts; nothing changes where somebody has thought better of it."""
    if standing.state == "running" and standing.wish == "pause":
        return replace(standing, state="paused", rest=standing.rest.begun(now))
    return standing
