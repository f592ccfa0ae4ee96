"""Law: what a node sees is told once, as a value, where it sees it; who listens changes nothing of what it does.

Listeners are called inside the event loop: they note, and do not block.
"""

from collections.abc import Callable
from dataclasses import dataclass

from headwater.core.members import Absence
from headwater.node.hosting import RoundResult
from headwater.schemas.base import Task
from headwater.schemas.messages import Delta, Reason, RoundKey
from headwater.schemas.statuses import RoundStatus, RunStatus


@dataclass(frozen=True, slots=True)
class Opened:
    """A round, at the parent that hosts it, with so many children asked."""

    key: RoundKey
    task: Task
    cohort: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A round, closed or failed."""

    result: RoundResult


@dataclass(frozen=True, slots=True)
class Recorded:
    """A round of the cloud, with all its times; its new model was written down within `commit_s`."""

    status: RoundStatus
    commit_s: float


@dataclass(frozen=True, slots=True)
class Taken:
    """A child's delta, into the sum."""

    node: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A child's delta, or another word of whoever it is. `key` None: it is of no round."""

    node: str
    key: RoundKey | None
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A plan, by a child."""

    node: str
    key: RoundKey
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Came:
    """A child that was not there."""

    node: str


@dataclass(frozen=True, slots=True)
class Went:
    """A child that was there."""

    node: str
    why: Absence


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A node, by the token of this id; told again where its answer was lost."""

    node: str
    token_id: str


@dataclass(frozen=True, slots=True)
class NotEnrolled:
    """Whoever asked to be this node, and why it is not: it may be a thief."""

    node: str
    token_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class RunTold:
    """Where a run stands, as people are told; often the same."""

    status: RunStatus


@dataclass(frozen=True, slots=True)
class Worked:
    """This node's own work on a plan of its parent: a delta, or why there is none."""

    key: RoundKey
    delta: Delta | None
    reason: Reason | None = None


Seen = Opened | Ended | Recorded | Taken | NotTaken | Declined | Came | Went | Enrolled | NotEnrolled | RunTold | Worked
Observer = Callable[[Seen], None]


def nobody(_: Seen) -> None:
    """Listens to nothing."""
