"""Law: a node is one parent's child at a time; what it keeps goes along when it changes to the other.

Which of two parents is followed is `core.fallback`'s to decide. This shell runs the node's child there, and while that
is the second, listens to the first. A change looks like the end of a process and the start of another: the node's will
below the old parent, then its birth below the new one, so that the old one sees it leave on whichever broker.

Until a broker was reached, what is wrong with it ends the node, as it does where there is no second parent; from then
on it sends the node to the other one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NoReturn

from headwater.core import fallback
from headwater.core.fallback import Following, Heard, Tick, Unusable
from headwater.node.child import Child, Rest, Work
from headwater.node.heartbeat import beat_up
from headwater.node.identity import Identity
from headwater.node.news import News
from headwater.node.service import together
from headwater.schemas.errors import AccessRefused, BrokerUnreachable, ConfigError
from headwater.schemas.messages import Alive
from headwater.schemas.settings import BrokerSettings, FallbackSettings
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode
from headwater.transport.session import Caller, Connect, Connection, LinkDown, Session

log = logging.getLogger("headwater.node")

RETRY_AFTER_S: Final = 5.0
"""Pause after a broker that could not be used, before any is tried again."""

MakeChild = Callable[[Connect, Identity], Child]
"""This node's side towards a parent. What a node keeps is shared by all that it makes."""


@dataclass(frozen=True, slots=True)
class Second:
    """The parent to fall back to, and the way to its broker."""

    rule: FallbackSettings
    connect: Connect


_WHY: Final[dict[type[fallback.Event], str]] = {
    Heard: "the first parent is back",
    Tick: "the first parent is silent",
    Unusable: "this parent's broker cannot be used",
}


def second_of(settings: FallbackSettings | None, identity: Identity, broker: BrokerSettings) -> Second | None:
    """The second parent that a service's settings name. `identity` names the first, whose broker is `broker`.

    Raises:
        ConfigError: it is the node itself, or the first parent on the same broker.
    """
    if settings is None:
        return None
    its_broker = settings.broker or broker
    if settings.parent == identity.node or (settings.parent == identity.parent and its_broker == broker):
        whom = "this node itself" if settings.parent == identity.node else "the first parent, on the same broker"
        raise ConfigError(f"fallback.parent: {settings.parent} is {whom}; name another, or take the fallback out")
    return Second(settings, partial(Session, its_broker))


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node stands with the parent that it follows. `silent_s` is the time since the parent's last word in this
    stay; None where there was none yet."""

    parent: str
    connected: bool
    silent_s: float | None


class _Changed(Exception):
    """The other parent is to be followed."""


class Parents:
    """One node's side towards the parent that it follows.

    Args:
        connect: to the broker of the first parent, which `identity` names.
        make: called at the beginning of each stay with a parent.
        heartbeat_s: how often the parent hears that this node is alive.
        second: None where the first parent is all there is.
    """

    def __init__(
        self,
        connect: Connect,
        identity: Identity,
        make: MakeChild,
        *,
        heartbeat_s: float,
        second: Second | None = None,
    ) -> None:
        self._connect = connect
        self._identity = identity
        self._make = make
        self._heartbeat_s = heartbeat_s
        self._second = second
        self._following = Following("first", since=0.0)
        self._child: Child | None = None
        self._reached = False
        self._news = News()

    async def run(self, work: Work, rest: Rest | None = None) -> None:
        """Do `work` for every plan of the parent that is followed, `rest` when it has none. Runs until cancelled.

        Raises:
            BrokerUnreachable, AccessRefused: a broker is at fault, and none was reached yet.
            ConfigError: a file that a link needs cannot be used, and no broker was reached yet.
        """
        self._following = fallback.begin(self._now())
        while True:
            try:
                await self._stay(work, rest)
            except _Changed:
                continue
            except (AccessRefused, BrokerUnreachable, ConfigError) as error:
                if self._second is None or not self._may_try_the_other(error):
                    raise
                log.error("%s", error)
                self._judge(Unusable(), self._second)
                await asyncio.sleep(RETRY_AFTER_S)

    @property
    def session(self) -> Connection | None:
        """To the parent that is followed; None between two."""
        return self._child.session if self._child is not None else None

    async def tell_status(self) -> None:
        """Say who this node is and what data it has. Raises LinkDown where nobody hears it."""
        await self._present().tell_status()

    async def tell_status_soon(self) -> None:
        """The same, now or with the next connection, which tells it too."""
        with contextlib.suppress(LinkDown):
            await self.tell_status()

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Hand a message to the broker of the parent that is followed. Raises LinkDown."""
        await self._present().session.publish(topic, payload, qos=qos, retain=retain)

    def standing(self) -> Standing:
        """How this node stands now; between two parents it is not connected."""
        parent = self._second.rule.parent if self._second and self._following.place == "second" else None
        child = self._child
        heard_at = child.heard_at if child is not None else None
        return Standing(
            parent=parent or str(self._identity.parent),
            connected=child is not None and child.session.connected,
            silent_s=None if heard_at is None else self._now() - heard_at,
        )

    def _present(self) -> Child:
        if self._child is None:
            raise LinkDown(f"{self._identity.node}: between two parents")
        return self._child

    # ── a stay with one parent ──────────────────────────────────────────────────────────────────────────────────

    async def _stay(self, work: Work, rest: Rest | None) -> None:
        """Be a child of the parent that is followed. Raises _Changed when it is to be the other's."""
        connect, identity = self._connect, self._identity
        if self._second is not None and self._following.place == "second":
            connect, identity = self._second.connect, replace(identity, parent=self._second.rule.parent)
        child = self._child = self._make(connect, identity)
        services = [
            child.session.run(),
            child.follow(work, rest),
            beat_up(child.session, identity, self._heartbeat_s),
            self._note_reached(child.session),
        ]
        if self._second is not None:
            if self._following.place == "first":
                services.append(self._until_silent(child, self._second))
            else:
                services += [self._listen(self._second), self._until_back()]
        try:
            await together(*services)
        finally:
            self._child = None

    async def _note_reached(self, session: Connection) -> None:
        await session.wait_connected()
        self._reached = True

    def _may_try_the_other(self, error: Exception) -> bool:
        return self._reached or (isinstance(error, BrokerUnreachable) and self._following.place == "first")

    async def _until_silent(self, child: Child, second: Second) -> None:
        while self._following.place == "first":
            await asyncio.sleep(max(0.0, self._following.silent_at(second.rule) - self._now()))
            if child.heard_at is not None:
                self._following = fallback.step(self._following, Heard(), second.rule, child.heard_at)
            self._judge(Tick(), second)
        self._change()

    async def _until_back(self) -> None:
        while self._following.place == "second":
            await self._news.wait()
        self._change()

    def _change(self) -> NoReturn:
        # Nobody may say anything for this node after its goodbye.
        self._child = None
        raise _Changed

    # ── the first parent, heard from afar ───────────────────────────────────────────────────────────────────────

    async def _listen(self, second: Second) -> None:
        """Hear the first parent's signs of life, on a connection of its own. Runs until cancelled."""
        topic = Topics(self._identity.fleet).down(str(self._identity.parent), "alive")

        def on_message(topic: str, payload: bytes, retained: bool) -> None:
            if retained:
                # What a broker kept is no word of anyone who is there.
                return
            try:
                alive = decode(payload, Alive)
            except WireError as error:
                log.warning("dropped a message on %s: %s", topic, error)
                return
            self._judge(Heard(alive.every_s), second)

        while True:
            caller = Caller(
                fleet=self._identity.fleet,
                node=self._identity.node,
                client=f"{self._identity.node}.first",
                filters=(topic,),
                on_message=on_message,
                on_connect=_nothing_to_say,
            )
            try:
                await self._connect(caller).run()
            except (AccessRefused, BrokerUnreachable, ConfigError) as error:
                log.info("the first parent is out of hearing: %s", error)
            await asyncio.sleep(RETRY_AFTER_S)

    def _judge(self, event: fallback.Event, second: Second) -> None:
        before = self._following
        self._following = fallback.step(before, event, second.rule, self._now())
        if self._following.place != before.place:
            to = self._identity.parent if self._following.place == "first" else second.rule.parent
            log.warning("%s: following %s from now on", _WHY[type(event)], to)
            self._news.tell()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def _nothing_to_say() -> None:
    """An ear says nothing of the node whose ear it is."""
