"""Law: all that a dashboard knows of a fleet is one frozen value, and each part of it has a bound.

A mapping or a tuple in it is never changed, only replaced. Times are seconds since 1970, by this machine's clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from headwater.schemas.statuses import NodeStatus, RoundStatus, RunStatus

MAX_NODES: Final = 20_000
MAX_RUNS: Final = 32
MAX_ROUNDS: Final = 2_000
"""Closed rounds kept of each run; the oldest go first."""

MAX_TURNS: Final = 200
"""Rounds kept of each node: in which it took part, or not."""

MAX_HAPPENINGS: Final = 2_000

LinkState = Literal["connecting", "up", "away", "refused"]
MemberState = Literal["waiting", "received", "left", "refused", "idle"]


@dataclass(frozen=True, slots=True)
class Link:
    """One broker as it is reached from here; `since` when it is so, `problem` is a sentence."""

    name: str
    where: str
    state: LinkState
    since: float
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node by its own word. `since` is when its state last changed, None where that was before anybody listened;
    `alive_at` its last sign of life: a birth or a contribution that came while somebody did."""

    status: NodeStatus
    since: float | None
    alive_at: float | None


class RoundName(NamedTuple):
    """Which round of which run at which parent."""

    parent: str
    run: str
    round: int
    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A parent's newest round, as it was heard last at `at`. Rates are payload bytes a second between two tellings."""

    status: RoundStatus
    at: float
    rate_down: float = 0.0
    rate_up: float = 0.0


class Turn(NamedTuple):
    """One node in one closed round of its parent's. `share` is its part of that round's examples."""

    round: RoundName
    task: str
    at: float
    state: MemberState
    examples: int
    share: float | None
    after_s: float | None = None
    loss: float | None = None
    train_s: float | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Closed:
    """A round of the cloud's that has ended, without its members."""

    status: RoundStatus
    at: float


@dataclass(frozen=True, slots=True)
class RunHeard:
    """A run as far as it was heard: its newest status, and the cloud's rounds that ended, in order."""

    status: RunStatus | None = None
    rounds: tuple[Closed, ...] = ()


class Happening(NamedTuple):
    """What a person may want to know of. `kind` is a CloudEvents type without `headwater.`.

    `about` is the same for one thing whoever tells of it; `is_told` says that the cloud or a gateway did, in an event,
    and not that it was seen from here.
    """

    id: str
    at: float
    kind: str
    node: str
    run: str = ""
    round: int | None = None
    reason: str = ""
    detail: str = ""
    about: str = ""
    is_told: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    """What was heard of a fleet. `rounds` holds the newest round at each parent; `revision` counts changes.

    Args:
        cloud: the parent whose round is the fleet's, "" until one was heard.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    nodes: Mapping[str, Seen] = field(default_factory=dict)
    cloud: str = ""
    run: RunStatus | None = None
    runs: Mapping[str, RunHeard] = field(default_factory=dict)
    rounds: Mapping[str, Heard] = field(default_factory=dict)
    turns: Mapping[str, tuple[Turn, ...]] = field(default_factory=dict)
    happenings: tuple[Happening, ...] = ()
    unreadable: int = 0
    revision: int = 0
