"""Law: a node says who it is in one place: its birth and its last will differ in the state alone."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version

from headwater.schemas.base import Role
from headwater.schemas.learning import CODECS
from headwater.schemas.statuses import DataStatus, NodeState, NodeStatus, RolloutStatus, UpdateStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.transport.session import Publication


def new_boot() -> str:
    """A name for one start of a process."""
    return secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which node this is, below which parent. `boot` tells one start of the process from the next."""

    fleet: str
    node: str
    role: Role
    parent: str | None
    boot: str = field(default_factory=new_boot)

    def status(
        self,
        state: NodeState,
        data: Mapping[str, DataStatus],
        battery_percent: float | None = None,
        certificate: str = "",
        *,
        update: UpdateStatus | None = None,
        rollout: RolloutStatus | None = None,
    ) -> Publication:
        """The retained word on this node."""
        status = NodeStatus(
            node=self.node,
            role=self.role,
            parent=self.parent,
            state=state,
            boot=self.boot,
            software=software(),
            data=dict(data),
            codecs=() if self.role == "cloud" else CODECS[1:],
            battery_percent=battery_percent,
            certificate=certificate,
            update=update,
            rollout=rollout,
        )
        return Publication(Topics(self.fleet).status(self.node), encode_status(status), retain=True)


@cache
def software() -> str:
    """The version of what runs here."""
    # Looked up once: it is read from the package's files, and a birth is told at every connection.
    return version("headwater")
