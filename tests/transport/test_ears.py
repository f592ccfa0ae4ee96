"""Whoever hears beside a node on its one connection gets its own topics, and is no part of what the node received."""

import asyncio

from headwater.schemas.links import BrokerSettings
from headwater.transport.session import Caller, Ear, Session, with_ears
from support.brokers import broker


async def test_an_ear_hears_its_topics_alone_and_counts_as_no_traffic() -> None:
    own: list[tuple[str, bytes]] = []
    beside: list[tuple[str, bytes]] = []
    heard = asyncio.Event()

    def ear(topic: str, payload: bytes, retained: bool) -> None:
        beside.append((topic, payload))
        heard.set()

    async def nothing_to_say() -> None: ...

    caller = Caller(
        fleet="f",
        node="cloud",
        client="cloud",
        filters=("own/+",),
        on_message=lambda topic, payload, retained: own.append((topic, payload)),
        on_connect=nothing_to_say,
    )
    with broker("embedded") as port:
        connect = with_ears(lambda caller: Session(BrokerSettings(port=port), caller), Ear("beside/+/x", ear))
        session = connect(caller)
        running = asyncio.ensure_future(session.run())
        await session.wait_connected()
        before = session.traffic.received_bytes
        await session.publish("own/a", b"mine")
        await session.publish("beside/b/x", b"not mine")
        await asyncio.wait_for(heard.wait(), 10)
        assert (own, beside) == ([("own/a", b"mine")], [("beside/b/x", b"not mine")])
        assert session.traffic.received_bytes - before == len(b"mine")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
