"""Law: what was found out is a value; None is what could not be found out here, which is no fault.

No fact holds a secret or an example. Times are UTC.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from headwater.schemas.errors import HeadwaterError
from headwater.schemas.settings import DeviceSettings
from headwater.schemas.statuses import NodeStatus
from headwater.transport.probing import Road


@dataclass(frozen=True, slots=True)
class Clock:
    """`later_than` is the newest time that this board itself knows to be past: when `witness` was written."""

    now: datetime
    is_synchronised: bool | None
    later_than: datetime
    witness: str


@dataclass(frozen=True, slots=True)
class Software:
    """What runs here. `word_bits` is the size of an address: 32 or 64."""

    version: str
    python: str
    machine: str
    word_bits: int
    board: str = ""


@dataclass(frozen=True, slots=True)
class Heat:
    """`throttled` are the bits that a Raspberry Pi's firmware gives (vcgencmd get_throttled)."""

    temperature_c: float | None
    throttled: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """`is_limitable`: whether this kernel lets systemd bound a service's memory."""

    total_bytes: int
    available_bytes: int
    is_limitable: bool | None


@dataclass(frozen=True, slots=True)
class Disk:
    """The state folder, or the folder that it would be made in. `sync_s` is how long 4 kB took to be on the disk;
    `errors` what the file system has counted of its own; `trouble` why nothing can be written."""

    folder: str
    free_bytes: int = 0
    size_bytes: int = 0
    free_files_share: float = 1.0
    sync_s: float | None = None
    errors: int | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Whether the worker started, below its limits, and how long that took."""

    start_s: float | None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Examples:
    """What a data source has. `is_live`: its sensors are still to bring it."""

    key: str
    kind: str
    train: int = 0
    test: int = 0
    is_live: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Leave:
    """Whether training may go on now: the sensors that a rule needs and that are not here, what stands in the way, and
    why the owner's function cannot be asked."""

    missing: tuple[str, ...] = ()
    obstacle: str | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Papers:
    """A certificate of this node's own. `trouble`: why it cannot be read."""

    file: str
    holder: str = ""
    until: datetime | None = None
    trouble: str = ""


Enrolment = Literal["none", "done", "to_come", "no_token"]
"""Whether this node gets its certificate by a one-time token, and whether it has it, or has at least the token."""


@dataclass(frozen=True, slots=True)
class Login:
    """What the broker said: `fault` is None where this node may speak and hears itself.

    `parent_said` is what is retained of the parent's; `heard_after_s` when its first sign of life came, of `listened_s`
    that were listened; `agent` is what this node's own agent says of itself there.
    """

    fault: HeadwaterError | None = None
    parent_said: Literal["nothing", "no_plan", "a_plan"] = "nothing"
    heard_after_s: float | None = None
    listened_s: float = 0.0
    agent: NodeStatus | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """What the agent's store takes of the disk, updates on their way up in it."""

    size_bytes: int
    bound_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found out. `login` is None where the road to the broker ended before."""

    settings: DeviceSettings
    secret_trouble: str
    clock: Clock
    software: Software
    heat: Heat
    memory: Memory
    disk: Disk
    kept: Kept
    running: Running
    examples: tuple[Examples, ...]
    leave: Leave
    enrolment: Enrolment
    papers: tuple[Papers, ...]
    road: Road
    login: Login | None
