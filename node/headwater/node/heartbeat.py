"""Law: a node says at a steady pace that it is alive, and nobody's silence is judged but by that.

A sign of life is worth nothing late: it goes out at QoS 0, one that is lost is not sent again, and while the link is
down there are none.
"""

import asyncio
import contextlib

from headwater.node.identity import Identity
from headwater.schemas.messages import Alive
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode
from headwater.transport.session import Connection, LinkDown


async def beat_up(session: Connection, identity: Identity, every_s: float) -> None:
    """Tell the parent every `every_s` seconds that this node is alive. Runs until cancelled."""
    if identity.parent is None:
        raise ValueError("parent: a child has one")
    await _beat(session, Topics(identity.fleet).up(identity.node, identity.parent, "alive"), identity, every_s)


async def beat_down(session: Connection, identity: Identity, every_s: float) -> None:
    """Tell all children every `every_s` seconds that this node is alive. Runs until cancelled."""
    await _beat(session, Topics(identity.fleet).down(identity.node, "alive"), identity, every_s)


async def _beat(session: Connection, topic: str, identity: Identity, every_s: float) -> None:
    payload = encode(Alive(sender=identity.node, boot=identity.boot, every_s=every_s))
    while True:
        await session.wait_connected()
        with contextlib.suppress(LinkDown):
            await session.publish(topic, payload, qos=0)
        await asyncio.sleep(every_s)
