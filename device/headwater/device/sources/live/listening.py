"""Law: one connection a broker, however many sources listen there; growth is told when it matters, no oftener."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from headwater.device.sources.live.sensors import LiveSource
from headwater.device.sources.source import Source
from headwater.schemas.links import BrokerSettings
from headwater.schemas.statuses import DataStatus
from headwater.transport.link import LinkDown
from headwater.transport.listener import Listener

log = logging.getLogger("headwater.device")

LOOK_EVERY_S: Final = 5.0
NOTICEABLE: Final = 0.1
"""Relative change of a count that is worth a message."""


def services(
    node: str,
    broker: BrokerSettings,
    sources: Iterable[Source],
    data: Callable[[], Mapping[str, DataStatus]],
    tell: Callable[[], Awaitable[None]],
) -> list[Awaitable[None]]:
    """What runs beside a device's link where it has live sources: listeners, the sources, and word of their growth."""
    live = tuple(source for source in sources if isinstance(source, LiveSource))
    if not live:
        return []
    return [
        *(listener.run() for listener in listeners(node, broker, live)),
        *(source.run() for source in live),
        tell_growth(data, tell),
    ]


def listeners(node: str, default: BrokerSettings, sources: tuple[LiveSource, ...]) -> list[Listener]:
    """What hears the sources' topics; a source without a broker of its own listens at the device's."""
    groups: list[tuple[BrokerSettings, list[LiveSource]]] = []
    for source in sources:
        broker = source.spec.broker or default
        group = next((group for known, group in groups if known == broker), None)
        if group is None:
            groups.append((broker, [source]))
        else:
            group.append(source)
    return [_listener(f"{node}-sensors-{number}", broker, group) for number, (broker, group) in enumerate(groups, 1)]


def _listener(client: str, broker: BrokerSettings, sources: list[LiveSource]) -> Listener:
    readers: dict[str, list[LiveSource]] = {}
    for source in sources:
        for topic in source.topics:
            readers.setdefault(topic, []).append(source)

    def on_message(topic: str, payload: bytes, retained: bool) -> None:
        for source in readers.get(topic, ()):
            source.on_message(topic, payload, retained)

    return Listener(broker, client=client, topics=tuple(readers), on_message=on_message)


async def tell_growth(data: Callable[[], Mapping[str, DataStatus]], tell: Callable[[], Awaitable[None]]) -> None:
    """Call `tell` when the counts have changed noticeably, at most once in `LOOK_EVERY_S`. Runs until cancelled."""
    told = data()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        now = data()
        if not is_noticeable(told, now):
            continue
        try:
            await tell()
        except LinkDown as error:
            log.debug("the status waits for the link, and is told with it: %s", error)
            continue
        told = now


def is_noticeable(told: Mapping[str, DataStatus], now: Mapping[str, DataStatus]) -> bool:
    if told.keys() != now.keys():
        return True
    pairs = [
        (before, after)
        for key in now
        for before, after in (
            (told[key].train_examples, now[key].train_examples),
            (told[key].test_examples, now[key].test_examples),
        )
    ]
    return any(abs(after - before) > NOTICEABLE * before for before, after in pairs)
