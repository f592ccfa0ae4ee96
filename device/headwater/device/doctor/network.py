"""Law: the doctor listens beside a running agent and takes nothing from it: another client name, and no subscription
to what is meant for the agent alone.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final, Literal

from headwater.device.doctor.facts import Login
from headwater.schemas.errors import AccessRefused, BrokerUnreachable
from headwater.schemas.messages import Announcement
from headwater.schemas.settings import DeviceSettings
from headwater.schemas.statuses import NodeStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode, decode_status
from headwater.transport.session import Caller, Session

CONNECT_LIMIT_S: Final = 10.0
RETAINED_LIMIT_S: Final = 2.0
"""Within it a broker has handed over what it kept."""


@dataclass(slots=True)
class _Ear:
    """What was heard so far."""

    topics: Topics
    parent_said: Literal["nothing", "no_plan", "a_plan"] = "nothing"
    agent: NodeStatus | None = None
    alive: asyncio.Event = field(default_factory=asyncio.Event)

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        parsed = self.topics.parse(topic)
        if parsed is None:
            return
        with contextlib.suppress(WireError):
            if parsed.branch == "status":
                self.agent = decode_status(payload, NodeStatus)
                return
            if parsed.leaf == "announcement":
                self.parent_said = "no_plan" if decode(payload, Announcement).plan is None else "a_plan"
        if not retained:
            self.alive.set()


async def log_in(settings: DeviceSettings, listen_s: float) -> Login:
    """Log in as the node, hear oneself, and listen for the parent.

    Args:
        listen_s: at most so long for a sign of life.
    """
    topics = Topics(settings.fleet)
    ear = _Ear(topics)
    limit_s = min(settings.broker.connect_timeout_s, CONNECT_LIMIT_S)
    session = Session(
        settings.broker.model_copy(update={"connect_timeout_s": limit_s}),
        Caller(
            fleet=settings.fleet,
            node=settings.node,
            client=f"{settings.node}.doctor",
            filters=(
                topics.down(settings.parent, "announcement"),
                topics.down(settings.parent, "alive"),
                topics.status(settings.node),
            ),
            on_message=ear.on_message,
            on_connect=_nothing_to_say,
        ),
    )
    connection = asyncio.ensure_future(session.run())
    try:
        return await _listen(connection, session, ear, listen_s)
    except (AccessRefused, BrokerUnreachable) as error:
        return Login(fault=error)
    finally:
        connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)


async def _listen(connection: "asyncio.Future[None]", session: Session, ear: _Ear, listen_s: float) -> Login:
    connected = asyncio.ensure_future(session.wait_connected())
    await asyncio.wait((connection, connected), return_when=asyncio.FIRST_COMPLETED)
    if connection.done():
        connected.cancel()
        connection.result()
    loop = asyncio.get_running_loop()
    began = loop.time()
    heard_after_s = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(listen_s):
            await ear.alive.wait()
            heard_after_s = loop.time() - began
    await asyncio.sleep(max(0.0, min(RETAINED_LIMIT_S, listen_s) - (loop.time() - began)))
    return Login(None, ear.parent_said, heard_after_s, loop.time() - began, ear.agent)


async def _nothing_to_say() -> None:
    """The agent's birth is the agent's."""
