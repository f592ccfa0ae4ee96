"""Law: a gateway has two links, one relay between them, and one identity on both."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, NoReturn

from headwater.gateway import releasing
from headwater.gateway.relay import Relay
from headwater.node.announcing import UNSIGNED, Voice
from headwater.node.child import Child
from headwater.node.enrolling import enrol_if_new
from headwater.node.envelope import epoch_at, now_utc, trust_of
from headwater.node.herald import Herald
from headwater.node.identity import Identity
from headwater.node.journal import JournalFull
from headwater.node.outbox import Outbox
from headwater.node.parent import Audience, Parent, SiteLink
from headwater.node.parents import Parents, Second, second_of
from headwater.node.releases import Software
from headwater.node.service import together
from headwater.node.store import NodeStore
from headwater.node.watching import UNWATCHED, Sights, Watch, disk, metrics
from headwater.schemas.settings import GatewaySettings
from headwater.schemas.statuses import RoundStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect, LinkDown, Session

log = logging.getLogger("headwater.gateway")

TELL_DATA_AFTER_S: Final = 1.0
"""Changes of a cluster's data within so long are told together."""


async def serve(settings: GatewaySettings) -> None:
    """Run a gateway. Raises BrokerUnreachable or AccessRefused for any of its brokers, ConfigError for its fallback."""
    identity = Identity(settings.fleet, settings.node, "gateway", settings.parent)
    second = second_of(settings.fallback, identity, settings.uplink)
    await enrol_if_new(settings.enrol, settings.fleet, settings.node, settings.uplink, "uplink")
    with metrics(settings.metrics, identity) as counting:
        watch = Watch(Herald(identity), counting)
        links = partial(Session, settings.uplink), partial(Session, settings.site)
        await join(settings, identity, *links, second, watch)


async def join(
    settings: GatewaySettings,
    identity: Identity,
    uplink: Connect,
    site: Connect,
    second: Second | None = None,
    watch: Watch = UNWATCHED,
    clock: Callable[[], datetime] = now_utc,
) -> None:
    """Be the gateway between two links, whatever carries them. Raises what their connections raise."""
    topic = Topics(settings.fleet).cluster(settings.node)
    objects = ObjectStore(settings.store_size_bytes)
    store = NodeStore(settings.state / f"{settings.node}.db", settings.kept_size_bytes)
    outbox = Outbox(store, has_two_parents=second is not None, saves_first=True)
    trust = trust_of(settings.trust, settings.fleet, settings.node, store, clock)
    software = Software()

    def child(connect: Connect, identity: Identity) -> Child:
        return Child(
            connect, identity, objects, outbox, data=parent.data, refused=relay.refused, trust=trust, software=software
        )

    parents = Parents(uplink, identity, child, heartbeat_s=settings.heartbeat_s, second=second)

    async def tell_people(status: RoundStatus) -> None:
        # Above, for the whole fleet's dashboards, and on the site, for whoever stands there.
        payload = encode_status(status)
        await parents.publish(topic, payload, retain=True)
        if settings.site != settings.uplink:
            await parent.session.publish(topic, payload, retain=True)

    parent = Parent(
        SiteLink(site, f"{settings.node}.site"),
        identity,
        objects,
        store,
        Audience(tell_people, watch.saw),
        voice=Voice(trust, _epoch(store, clock())) if trust is not None else UNSIGNED,
        heartbeat_s=settings.heartbeat_s,
    )
    relay = Relay(settings.node, parent, objects, store)
    outlets = [parents.publish] + ([parent.session.publish] if settings.site != settings.uplink else [])
    sights = Sights(
        links={"uplink": lambda: parents.session, "site": lambda: parent.session},
        members=lambda: parent.members,
        data=parent.data,
        gauges={
            **disk(settings.state),
            "headwater_outbox_bytes": lambda: outbox.size_bytes,
            "headwater_journal_bytes": lambda: store.file_bytes,
        },
    )
    try:
        looking = [] if trust is None else [trust.look_after(partial(_tell_certificate, parent, parents))]
        await together(
            parents.run(watch.working(relay.work), rest=parent.close),
            parent.run(),
            _tell_data(parent, parents),
            watch.run(sights, *outlets),
            *looking,
            releasing.relay(software, parent, parents.tell_status),
        )
    finally:
        await parent.drain()
        store.close()


def _epoch(store: NodeStore, now: datetime) -> int:
    """Of this start's words to the cluster. With a disk that is full the clock alone says that it is a later one."""
    after = partial(epoch_at, now)
    try:
        return store.next_epoch(after)
    except JournalFull as error:
        log.warning("the epoch of this gateway's words is in memory alone: %s", error)
        return after(0)


async def _tell_certificate(parent: Parent, parents: Parents) -> None:
    # The next connection tells the status too.
    with contextlib.suppress(LinkDown):
        await parents.tell_status()
    await parent.say_again()


async def _tell_data(parent: Parent, parents: Parents) -> NoReturn:
    """Say anew what the cluster has whenever that changed, for the cloud counts its fleet by it."""
    told = parent.data()
    while True:
        await parent.news.wait()
        await asyncio.sleep(TELL_DATA_AFTER_S)
        held = parent.data()
        if held != told:
            # The next connection tells it too.
            with contextlib.suppress(LinkDown):
                await parents.tell_status()
            told = held
