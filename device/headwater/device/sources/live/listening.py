"""Law: one connection a broker, however many sources listen there."""

from collections.abc import Awaitable, Iterable

from headwater.device.sources.live.sensors import LiveSource
from headwater.device.sources.source import Source
from headwater.schemas.links import BrokerSettings
from headwater.transport.listener import Listener


def services(node: str, broker: BrokerSettings, sources: Iterable[Source]) -> list[Awaitable[None]]:
    """What runs beside a device's link where it has live sources: listeners, and the sources."""
    live = tuple(source for source in sources if isinstance(source, LiveSource))
    if not live:
        return []
    return [
        *(listener.run() for listener in listeners(node, broker, live)),
        *(source.run() for source in live),
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
