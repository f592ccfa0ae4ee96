"""Law: an object goes out a few chunks at a time, so that a control message never waits behind all of it."""

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from headwater.schemas.messages import Chunk
from headwater.schemas.wire import encode
from headwater.transport.session import Connection

WINDOW_CHUNKS: Final = 4


async def send_chunks(session: Connection, topic: str, pieces: Iterable[Chunk]) -> None:
    """Publish the pieces in order, `WINDOW_CHUNKS` on the way at once.

    Raises:
        LinkDown: the connection went; pieces may be missing at the receiver, who asks for them.
    """
    remaining = iter(pieces)
    while window := list(islice(remaining, WINDOW_CHUNKS)):
        if len(window) == 1:
            await session.publish(topic, encode(window[0]))
        else:
            await asyncio.gather(*(session.publish(topic, encode(piece)) for piece in window))
