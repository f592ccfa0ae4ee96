"""Law: a gateway has two links, one relay between them, and one identity on both."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, NoReturn

from headwater.gateway import releasing
from headwater.gateway.relay import Relay
from headwater.node.announcing import UNSIGNED, Voice
from headwater.node.enrolling import enrol_if_new
from headwater.node.envelope import epoch_at, looking_after, now_utc
from headwater.node.herald import Herald
from headwater.node.identity import Identity
from headwater.node.journal import JournalFull
from headwater.node.parent import Audience, Parent, SiteLink
from headwater.node.parents import Parents, Second, second_of
from headwater.node.service import together
from headwater.node.stock import Account, Stock, open_stock
from headwater.node.store import NodeStore
from headwater.node.watching import UNWATCHED, Sights, Watch, disk, metrics
from headwater.schemas.settings import GatewaySettings
from headwater.schemas.statuses import RoundStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.transport.session import Connect, Session

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
    stock = open_stock(settings, has_two_parents=second is not None, saves_first=True, clock=clock)
    account = Account(lambda: parent.data(), lambda key: relay.refused(key))
    parents = Parents(uplink, identity, stock.making(account), heartbeat_s=settings.heartbeat_s, second=second)
    voice = Voice(stock.trust, _epoch(stock.store, clock())) if stock.trust is not None else UNSIGNED
    parent = Parent(
        SiteLink(site, f"{settings.node}.site"),
        identity,
        stock.objects,
        stock.store,
        Audience(lambda status: _tell_people(settings, parents, parent, status), watch.saw),
        voice=voice,
        heartbeat_s=settings.heartbeat_s,
    )
    relay = Relay(settings.node, parent, stock.objects, stock.store)
    outlets = [parents.publish] + ([parent.session.publish] if settings.site != settings.uplink else [])
    try:
        await together(
            parents.run(watch.working(relay.work), rest=parent.close),
            parent.run(),
            _tell_data(parent, parents),
            watch.run(_sights(settings, stock, parent, parents), *outlets),
            *looking_after(stock.trust, parents.tell_status_soon, parent.say_again),
            releasing.relay(stock.software, parent, parents.tell_status_soon),
        )
    finally:
        await parent.drain()
        stock.store.close()


async def _tell_people(settings: GatewaySettings, parents: Parents, parent: Parent, status: RoundStatus) -> None:
    """Above, for the whole fleet's dashboards, and on the site, for whoever stands there. Raises LinkDown."""
    topic, payload = Topics(settings.fleet).cluster(settings.node), encode_status(status)
    await parents.publish(topic, payload, retain=True)
    if settings.site != settings.uplink:
        await parent.session.publish(topic, payload, retain=True)


def _sights(settings: GatewaySettings, stock: Stock, parent: Parent, parents: Parents) -> Sights:
    return Sights(
        links={"uplink": lambda: parents.session, "site": lambda: parent.session},
        members=lambda: parent.members,
        data=parent.data,
        gauges={**disk(settings.state), **stock.gauges},
    )


def _epoch(store: NodeStore, now: datetime) -> int:
    """Of this start's words to the cluster. With a disk that is full the clock alone says that it is a later one."""
    after = partial(epoch_at, now)
    try:
        return store.next_epoch(after)
    except JournalFull as error:
        log.warning("the epoch of this gateway's words is in memory alone: %s", error)
        return after(0)


async def _tell_data(parent: Parent, parents: Parents) -> NoReturn:
    """Say anew what the cluster has whenever that changed, for the cloud counts its fleet by it."""
    told = parent.data()
    while True:
        await parent.news.wait()
        await asyncio.sleep(TELL_DATA_AFTER_S)
        held = parent.data()
        if held != told:
            await parents.tell_status_soon()
            told = held
