"""What a fleet's devices predict, as a viewer hears it."""

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import aiomqtt

from headwater.schemas.statuses import Prediction
from headwater.schemas.topics import Topics
from headwater.schemas.wire import decode_status

Heard = queue.Queue[Prediction]


@contextmanager
def overheard(port: int, fleet: str = "plant") -> Iterator[Heard]:
    """The predictions from now on."""
    heard: Heard = queue.Queue()
    loop = asyncio.new_event_loop()
    there = threading.Event()

    async def listen() -> None:
        async with aiomqtt.Client("127.0.0.1", port) as client:
            await client.subscribe(Topics(fleet).predictions())
            there.set()
            async for message in client.messages:
                assert not message.retain
                heard.put(decode_status(bytes(message.payload), Prediction))

    task = loop.create_task(listen())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.gather(task, return_exceptions=True)))
    thread.start()
    assert there.wait(10)
    try:
        yield heard
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        loop.close()


def drain(heard: Heard) -> None:
    while not heard.empty():
        heard.get_nowait()
