"""Law: the cloud is a history, a link and a coordinator, for as long as it holds its fleet's lease; else it stands by.

Who stands by has no link: the coordinator of a fleet has one name, and whoever leads bears it.
"""

import logging
import os
import platform
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from headwater.cloud.coordinator import Coordinator
from headwater.cloud.history import History, LeaseLost, open_history
from headwater.cloud.leading import Leadership
from headwater.node.identity import Identity, new_boot
from headwater.node.parent import Parent
from headwater.node.service import together
from headwater.schemas.settings import CloudSettings
from headwater.schemas.statuses import RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect, LinkDown, Session

log = logging.getLogger("headwater.cloud")


def _where() -> str:
    return f"on {platform.node() or 'an unnamed host'}, process {os.getpid()}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a coordinator reads from where it runs.

    `name` tells people which process leads, `boot` tells one start of it from the next, `now` is UTC time, `chance`
    uniform in [0, 1).
    """

    name: str = field(default_factory=_where)
    boot: str = field(default_factory=new_boot)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    chance: Callable[[], float] = random.random


async def serve(settings: CloudSettings) -> None:
    """Lead the fleet, or stand by, until told to stop.

    Raises:
        HistoryError: the database cannot be opened, or is damaged.
        BrokerUnreachable, AccessRefused: the broker, at the first connection.
        ConfigError: another coordinator leads, and this one may not stand by.
    """
    history = open_history(settings.database.get_secret_value())
    try:
        await coordinate(settings, history, partial(Session, settings.broker), Machine())
    finally:
        history.close()


async def coordinate(settings: CloudSettings, history: History, connect: Connect, machine: Machine) -> None:
    """Lead the fleet, or stand by, whatever carries the messages. Raises what `serve` raises behind the opening."""
    leadership = Leadership(
        history.leases,
        settings.fleet,
        f"{settings.node} {machine.name}"[:256],
        lease_s=settings.lease_s,
        standby=settings.standby,
        now=machine.now,
    )
    while True:
        lease = await leadership.gain()
        try:
            await lead(settings, history.led(lease), partial(leadership.keep, lease), connect, machine)
        except LeaseLost as lost:
            log.warning("%s", lost)
        finally:
            await leadership.give_back(lease)


async def lead(
    settings: CloudSettings,
    history: History,
    keep_lease: Callable[[], Awaitable[None]],
    connect: Connect,
    machine: Machine,
) -> None:
    """Coordinate the fleet. Raises LeaseLost, with nothing said to the fleet, when another leads it."""
    identity = Identity(settings.fleet, settings.node, "cloud", None, machine.boot)
    topics = Topics(settings.fleet)
    store = ObjectStore(settings.store_size_bytes)

    async def tell_of_round(status: RoundStatus) -> None:
        await parent.session.publish(topics.round, encode_status(status), retain=True)

    async def tell_of_run(status: RunStatus) -> None:
        try:
            await parent.session.publish(topics.run, encode_status(status), retain=True)
        except LinkDown as error:
            log.debug("a status for people was lost with the link: %s", error)

    async def be_born() -> None:
        birth = identity.status("online", {})
        await parent.session.publish(birth.topic, birth.payload, retain=True)

    parent = Parent(
        connect,
        identity,
        store,
        client=settings.node,
        tell_people=tell_of_round,
        journal=history.journal,
        heartbeat_s=settings.heartbeat_s,
        will=identity.status("offline", {}),
        on_connect=be_born,
    )
    coordinator = Coordinator(
        settings.fleet, parent, history, store, tell_people=tell_of_run, now=machine.now, chance=machine.chance
    )
    try:
        await together(parent.run(), _or_quietly(parent, coordinator.serve()), _or_quietly(parent, keep_lease()))
    finally:
        await parent.drain()


async def _or_quietly(parent: Parent, service: Awaitable[None]) -> None:
    try:
        await service
    except LeaseLost:
        # The next leader has this node's name, and may have said already that it is online.
        parent.session.leave_quietly()
        raise
