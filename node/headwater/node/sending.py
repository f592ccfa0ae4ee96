"""Law: an object goes out a few chunks at a time, so that a control message never waits behind all of it."""

import asyncio
from collections.abc import Coroutine, Iterable
from itertools import islice
from typing import Any, Final

from headwater.schemas.messages import Chunk
from headwater.schemas.wire import encode
from headwater.transport.session import Connection

WINDOW_CHUNKS: Final = 4


async def send_chunks(session: Connection, topic: str, pieces: Iterable[Chunk]) -> None:
    """Publish the pieces in order, `WINDOW_CHUNKS` on the way at once.

    Raises:
        LinkDown: the connection went; pieces may be missing at the receiver, who asks for them.
    """
    await in_windows((session.publish(topic, encode(piece)) for piece in pieces), WINDOW_CHUNKS)


async def in_windows(works: Iterable[Coroutine[Any, Any, None]], most: int) -> None:
    """Do the works in order, `most` on the way at once. Raises what the first that fails does."""
    remaining = iter(works)
    while window := list(islice(remaining, most)):
        if len(window) == 1:
            await window[0]
        else:
            await asyncio.gather(*window)
