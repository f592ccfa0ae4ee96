"""Law: a process has doors: what it publishes, what it writes, what its database commits. A dead one's are closed.

Every effect passes a door twice, before and after, and may be the last: the world is asked each time. Doors wrap the
real connection, store and history; nothing behind them is changed.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol
from unittest.mock import patch

import sqlalchemy.exc

from headwater.cloud.history import ClosedRound, History
from headwater.cloud.history.transactions import Transactions
from headwater.node.child import Child
from headwater.node.hosting import RoundResult
from headwater.node.parent import Parent
from headwater.node.store import NodeStore
from headwater.testbed.virtual.connection import VirtualConnection
from headwater.transport.session import Caller, Publication, Traffic

CURRENT: ContextVar["Life | None"] = ContextVar("CURRENT", default=None)
"""Whose code is running. Tasks and callbacks inherit it."""


class Killed(BaseException):
    """What a process meets when it is no more. No handler of the node's own catches it."""


class Overseer(Protocol):
    """What the doors ask and tell."""

    def effect(self, life: "Life", what: str) -> None:
        """An effect is about to happen, or has. Kills the life, if this is its moment."""
        ...

    def disk_is_full(self, node: str) -> bool: ...

    def says(self, life: "Life", publication: Publication) -> None:
        """A node hands a message over."""
        ...

    def committed(self, life: "Life", closed: ClosedRound) -> None:
        """A round is in the database."""
        ...

    def ended(self, life: "Life", result: RoundResult) -> None:
        """A round that a node hosted has ended."""
        ...

    def failed(self, life: "Life", what: str, error: BaseException) -> None:
        """Something went wrong that nobody expected."""
        ...


@dataclass(eq=False)
class Life:
    """One start of one process of a node, until it dies or its world ends."""

    process: str
    node: str
    boot: str
    overseer: Overseer
    over: bool = False
    tasks: dict["asyncio.Task[Any]", None] = field(default_factory=dict)
    connections: list[VirtualConnection] = field(default_factory=list)
    closing: list[Callable[[], None]] = field(default_factory=list)
    closing_round: ClosedRound | None = None
    # In the order in which they were made; a cloud that leads again has another parent.
    parents: list[Parent] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)

    def pass_door(self, what: str) -> None:
        """Raises Killed where the life is over, or ends here."""
        if not self.over:
            self.overseer.effect(self, what)
        if self.over:
            raise Killed(f"{self.node}: {what}")

    def end(self, *, noticed_after_s: float | None) -> None:
        """At once: nothing that this process still does has an effect."""
        self.over = True
        for connection in self.connections:
            connection.die(noticed_after_s=noticed_after_s)
        for task in tuple(self.tasks):
            task.cancel()


def own_tasks(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
    """A task factory: each task belongs to the life that made it, and its unexpected errors are told."""
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
    life = CURRENT.get()
    if life is not None:
        life.tasks[task] = None
        task.add_done_callback(_done(life))
        if life.over:
            task.cancel()
    return task


def _done(life: Life) -> Callable[["asyncio.Task[Any]"], None]:
    def done(task: "asyncio.Task[Any]") -> None:
        life.tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Killed) and not life.over:
            life.overseer.failed(life, task.get_coro().__qualname__, error)  # type: ignore[union-attr]

    return done


class DoorConnection:
    """A virtual connection of one life."""

    def __init__(self, life: Life, connect: Callable[[Caller], VirtualConnection], caller: Caller) -> None:
        self._life = life
        ears = tuple(replace(ear, on_message=_guarded(life, ear.on_message)) for ear in caller.ears)
        self._inner = connect(replace(caller, on_message=_guarded(life, caller.on_message), ears=ears))
        life.connections.append(self._inner)

    @property
    def traffic(self) -> Traffic:
        return self._inner.traffic

    @property
    def connected(self) -> bool:
        return self._inner.connected

    async def wait_connected(self) -> None:
        await self._inner.wait_connected()

    async def run(self) -> None:
        await self._inner.run()

    def leave_quietly(self) -> None:
        self._inner.leave_quietly()

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        publication = Publication(topic, payload, qos, retain)
        self._life.pass_door("before publish")
        self._life.overseer.says(self._life, publication)
        await self._inner.publish(topic, payload, qos=qos, retain=retain)
        self._life.pass_door("after publish")


def _guarded(life: Life, hear: Callable[[str, bytes, bool], None]) -> Callable[[str, bytes, bool], None]:
    def on_message(topic: str, payload: bytes, retained: bool) -> None:
        if life.over:
            return
        try:
            hear(topic, payload, retained)
        except Exception as error:
            life.overseer.failed(life, f"on_message {topic}", error)

    return on_message


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def windows() -> Iterator[None]:
    """For the time of a world a life knows its two sides, and how each round ends that it hosts is seen."""
    with (
        patch.object(Parent, "__init__", _known(Parent.__init__, lambda life: life.parents)),
        patch.object(Child, "__init__", _known(Child.__init__, lambda life: life.children)),
        patch.object(Parent, "host", _watched(Parent.host)),
    ):
        yield


def _known(init: Callable[..., None], among: Callable[[Life], list[Any]]) -> Callable[..., None]:
    def known(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        life = CURRENT.get()
        if life is not None:
            among(life).append(self)

    return known


def _watched(host: Callable[..., Any]) -> Callable[..., Any]:
    async def watched(self: Parent, *arguments: Any, **options: Any) -> RoundResult:
        result: RoundResult = await host(self, *arguments, **options)
        life = CURRENT.get()
        if life is not None:
            life.overseer.ended(life, result)
        return result

    return watched


# ── disks ───────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def doors_before_disks() -> Iterator[None]:
    """For the time of a world every transaction of every store passes its node's door as it begins, before its commit
    and after it. Whose code it is says the context, which threads inherit too."""
    with (
        patch.object(Transactions, "_transaction", _history_door(Transactions._transaction)),
        patch.object(History, "record_round", _recording(History.record_round)),
        patch.object(NodeStore, "_write", _store_door(NodeStore._write)),
    ):
        yield


def _history_door(transaction: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def door(self: Transactions, name: str) -> Iterator[Any]:
        life = CURRENT.get()
        if life is None:
            with transaction(self, name) as session:
                yield session
            return
        life.pass_door(f"begin {name}")
        closing, life.closing_round = life.closing_round, None
        with transaction(self, name) as session:
            yield session
            life.pass_door(f"before commit {name}")
            if not name.startswith(_READING) and life.overseer.disk_is_full(life.node):
                raise sqlalchemy.exc.OperationalError(name, {}, _full())
        if closing is not None:
            life.overseer.committed(life, closing)
        life.pass_door(f"after commit {name}")

    return door


_READING: Final = ("read", "list", "show", "load")


def _recording(record_round: Callable[..., None]) -> Callable[..., None]:
    def recording(self: History, closed: ClosedRound, *arguments: Any, **options: Any) -> None:
        life = CURRENT.get()
        if life is not None:
            life.closing_round = closed
        record_round(self, closed, *arguments, **options)

    return recording


def _store_door(write: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def door(self: NodeStore) -> Iterator[Any]:
        life = CURRENT.get()
        if life is None:
            with write(self) as connection:
                yield connection
            return
        life.pass_door("begin store")
        with write(self) as connection:
            yield connection
            life.pass_door("before commit store")
            if life.overseer.disk_is_full(life.node):
                raise _full()
        life.pass_door("after commit store")

    return door


def _full() -> sqlite3.OperationalError:
    return sqlite3.OperationalError("database or disk is full")
