"""Who misses pieces of an object is served, also when everybody asked while there was no room to serve anyone."""

import asyncio
import random

import pytest

from headwater.node.providing import MAX_SERVED_AT_ONCE, Provider
from headwater.node.tasks import Background
from headwater.schemas.limits import CHUNK_SIZE_BYTES
from headwater.schemas.messages import Want
from headwater.schemas.topics import Topics
from headwater.testbed.virtual.broker import Broker
from headwater.testbed.virtual.connection import VirtualConnection
from headwater.testbed.virtual.loop import run_virtually
from headwater.transport.objects import ObjectStore, chunks
from headwater.transport.session import Caller

NODES = [f"d{i}" for i in range(MAX_SERVED_AT_ONCE + 3)]


@pytest.mark.parametrize(
    ("indices", "offsets"),
    [
        pytest.param(None, [0, CHUNK_SIZE_BYTES], id="all"),
        pytest.param((1,), [CHUNK_SIZE_BYTES], id="one"),
        pytest.param((1, 0), [CHUNK_SIZE_BYTES, 0], id="in the order asked for"),
        pytest.param((0,) * 256, [0], id="a small message does not ask for one piece many times"),
        pytest.param((2, 99), [], id="what it does not have"),
    ],
)
def test_each_piece_that_is_asked_for_is_given_once(indices: tuple[int, ...] | None, offsets: list[int]) -> None:
    assert [chunk.offset for chunk in chunks(bytes(CHUNK_SIZE_BYTES + 1), indices)] == offsets


async def nothing() -> None:
    return None


def test_wants_that_came_while_too_much_was_under_way_are_served_when_they_come_again() -> None:
    async def play() -> set[str]:
        broker, topics = Broker("site", asyncio.get_running_loop(), random.Random(1)), Topics("plant")
        heard: set[str] = set()

        def connection(node: str, *filters: str) -> VirtualConnection:
            def on_message(topic: str, payload: bytes, retained: bool) -> None:
                heard.add(topic)

            caller = Caller("plant", node, node, filters, on_message, nothing)
            return VirtualConnection(broker, caller, random.Random(2))

        parent, everyone = connection("gw"), connection("all", topics.all_inbox("+"))
        running = [asyncio.create_task(node.run()) for node in (parent, everyone)]
        await parent.wait_connected()
        await everyone.wait_connected()
        store, tasks, ended = ObjectStore(1000), Background(1), asyncio.Event()
        want = Want(object=store.put(b"model"), missing=(0,))
        provider = Provider(parent, topics, "gw", store, tasks)

        async def under_way() -> None:
            await ended.wait()

        tasks.start(under_way())
        for node in NODES:
            provider.wanted(node, want)
        ended.set()
        await asyncio.sleep(1.0)
        provider.wanted(NODES[0], want)
        await asyncio.sleep(1.0)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return heard

    topics = Topics("plant")
    assert run_virtually(play) == {topics.inbox(node, "chunk") for node in NODES}
