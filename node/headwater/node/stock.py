"""Law: what a node needs to be a child is opened once, and is the same below whichever parent it follows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from headwater.node.child import Child, Refused
from headwater.node.envelope import now_utc, trust_of
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.parents import MakeChild
from headwater.node.releases import Software
from headwater.node.store import NodeStore
from headwater.node.watching import Gauge
from headwater.schemas.settings import DeviceSettings, GatewaySettings
from headwater.schemas.statuses import DataStatus
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect

if TYPE_CHECKING:
    from headwater.node.trusting import Trust


@dataclass(frozen=True, slots=True)
class Account:
    """What a child says of itself when it is asked, and who hears which of its deltas were not taken."""

    data: Callable[[], Mapping[str, DataStatus]]
    refused: Refused
    battery: Callable[[], float | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Stock:
    """What a child keeps on disk and in memory, what it signs with, and what it hears of its software."""

    store: NodeStore
    objects: ObjectStore
    outbox: Outbox
    trust: "Trust | None"
    software: Software

    def making(self, account: Account) -> MakeChild:
        """This node's side towards any of its parents."""

        def child(connect: Connect, identity: Identity) -> Child:
            return Child(
                connect,
                identity,
                self.objects,
                self.outbox,
                data=account.data,
                refused=account.refused,
                battery=account.battery,
                trust=self.trust,
                software=self.software,
            )

        return child

    @property
    def gauges(self) -> dict[str, Gauge]:
        return {
            "headwater_outbox_bytes": lambda: self.outbox.size_bytes,
            "headwater_journal_bytes": lambda: self.store.file_bytes,
        }


def open_stock(
    settings: DeviceSettings | GatewaySettings,
    *,
    has_two_parents: bool,
    saves_first: bool = False,
    clock: Callable[[], datetime] = now_utc,
) -> Stock:
    """What these settings describe; its store is the caller's to close.

    Args:
        has_two_parents, saves_first: as the outbox takes them.
        clock: UTC, by which certificates are judged.

    Raises:
        ConfigError: what it would sign with is of no use.
    """
    store = NodeStore(settings.state / f"{settings.node}.db", settings.kept_size_bytes)
    return Stock(
        store,
        ObjectStore(settings.store_size_bytes),
        Outbox(store, has_two_parents=has_two_parents, saves_first=saves_first),
        trust_of(settings.trust, settings.fleet, settings.node, store, clock),
        Software(),
    )
