"""Law: one seed, one world. Nodes, brokers and time are run as the scenario says, and all of it is written down.

The nodes are the deployed ones; what is here kills them, starts them again with only their disks, breaks their links
and fills their disks, until faults stop. Then the run has to come to its end, and everyone to rest.
"""

import asyncio
import gc
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, mkdtemp
from typing import Final

import numpy as np

from headwater.cloud.history import ClosedRound, LeaseLost, open_history
from headwater.node import parents
from headwater.node.hosting import RoundResult
from headwater.schemas.errors import HeadwaterError
from headwater.schemas.messages import Bundle, Model
from headwater.schemas.tensors import decode_tensor, encode_tensors
from headwater.schemas.wire import decode_object, encode
from headwater.testbed.virtual.broker import Broker
from headwater.testbed.virtual.connection import VirtualConnection
from headwater.testbed.virtual.loop import Deadlock, Spinning, VirtualLoop
from headwater.transport.session import Caller, Connect, LinkDown, Publication
from sim.doors import CURRENT, DoorConnection, Killed, Life, doors_before_disks, own_tasks, windows
from sim.nodes import EPOCH, MANIFEST, Place, live
from sim.scenario import (
    CLOUD,
    FAULTS_END_S,
    KEEPALIVE_S,
    MUST_END_S,
    STANDBY,
    BrokerRestart,
    Crash,
    Cut,
    Fault,
    FullDisk,
    Replay,
    Reset,
    Scenario,
)
from sim.trace import FLEET, TOPICS, Trace, label

RUN: Final = "run"
RESTART_S: Final = 1.0
"""After which a supervisor starts a service again that ended by itself."""

SETTLE_S: Final = 35.0
"""By when all are at rest after the run and the last fault: longer than any wait of a node."""

LOOK_EVERY_S: Final = 3.0
"""How often it is looked whether they are."""

LAST_TURNS: Final = 20
"""In which the tasks of a world that is over end, each told again."""

MEANT: Final = (HeadwaterError, LinkDown, LeaseLost, parents._Changed)
"""Errors by which a node's parts tell each other something."""

SAMPLE_EVERY_S: Final = 2.0
SHM: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Row:
    """A round of the cloud as SQL has it; `given` are its contributions: node and weight."""

    round: int
    attempt: int
    task: str
    state: str
    weight: float
    given: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Observed:
    """A world that is over.

    `state` is the run's in SQL, `models` each version's parameters and hash. `trouble` says what ended the world before
    its time, `errors` what failed unexpectedly, `restless` who was not idle at the end, `most` the largest number seen
    of each thing that is bounded: by (node, thing).
    """

    scenario: Scenario
    trace: Trace
    state: str
    ended_at: float
    rows: tuple[Row, ...]
    models: dict[int, tuple[str, tuple[float, ...]]]
    trouble: str
    errors: tuple[str, ...]
    restless: tuple[str, ...]
    most: dict[tuple[str, str], int]


@dataclass
class _Process:
    """A node over its lives."""

    starts: int = 0
    life: Life | None = None
    full_disks: int = 0


class World:
    """A scenario under way. It oversees the doors of its nodes."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self._scenario = scenario
        self._folder = folder
        self.trace = Trace()
        self._loop = VirtualLoop(until_s=2 * MUST_END_S, thread_latency_s=self._thread_latency_s)
        self._loop.set_task_factory(own_tasks)  # type: ignore[arg-type]
        self._loop.set_exception_handler(self._on_loop_error)
        self._rng = Random(f"{scenario.seed}/world")
        cloud = (CLOUD, STANDBY) if scenario.standby else (CLOUD,)
        self._processes = {name: _Process() for name in (*cloud, *scenario.parents)}
        self._armed: list[tuple[Crash, list[int]]] = []
        self._over = asyncio.Event()
        self._errors: list[str] = []
        self._most: dict[tuple[str, str], int] = {}
        self._closing = False
        self._brokers = {name: self._broker(name) for name in scenario.brokers}

    def run(self) -> Observed:
        """The whole of it."""
        asyncio.set_event_loop(self._loop)
        trouble = ""
        restless: tuple[str, ...] = ()
        try:
            restless = self._loop.run_until_complete(self._main())
        except (Deadlock, Spinning) as error:
            trouble = str(error)
        ended_at = self._loop.time()
        self._shut()
        return _observed(self, self._scenario, self._folder, ended_at, trouble, restless)

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(self._errors)

    @property
    def most(self) -> dict[tuple[str, str], int]:
        return self._most

    async def _main(self) -> tuple[str, ...]:
        for name in self._processes:
            # Nobody on a site is switched on in the same instant.
            self._loop.call_later(self._rng.random(), self._start, name)
        for fault in self._scenario.faults:
            self._loop.call_at(fault.at_s, self._strike, fault)
        self._loop.call_at(FAULTS_END_S, self._armed.clear)
        sampling = asyncio.create_task(self._sample())
        try:
            await asyncio.wait_for(self._over.wait(), MUST_END_S)
        except TimeoutError:
            return ("the run is not over",)
        self._note(CLOUD, "the run is over")
        await asyncio.sleep(max(0.0, FAULTS_END_S - self._loop.time()) + LOOK_EVERY_S)
        for _ in range(round(SETTLE_S / LOOK_EVERY_S)):
            if not any(self._restless()):
                break
            await asyncio.sleep(LOOK_EVERY_S)
        sampling.cancel()
        return tuple(self._restless())

    # ── lives ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, name: str) -> None:
        process = self._processes[name]
        if self._closing or process.life is not None:
            return
        process.starts += 1
        node = CLOUD if name == STANDBY else name
        life = process.life = Life(name, node, f"{name}-{process.starts}", self)
        self._note(node, "starts", said=life.boot)
        context = copy_context()
        context.run(CURRENT.set, life)
        task = context.run(self._loop.create_task, live(self._place(life)))
        task.add_done_callback(lambda done: self._on_exit(life))

    def _place(self, life: Life) -> Place:
        scenario, node = self._scenario, life.node
        folder = self._folder / node
        folder.mkdir(exist_ok=True)
        rng = Random(f"{scenario.seed}/{life.boot}")

        def connect(broker: str) -> Connect:
            def to(caller: Caller) -> DoorConnection:
                def inner(guarded: Caller) -> VirtualConnection:
                    return VirtualConnection(self._brokers[broker], guarded, rng, scenario.links)

                return DoorConnection(life, inner, caller)

            return to

        def work_s() -> float:
            return rng.uniform(0.05, 1.5) * scenario.slowness.get(node, 1.0)

        return Place(scenario, life, folder, connect, work_s, rng.random)

    def _on_exit(self, life: Life) -> None:
        """A service that ended by itself is started again, as its supervisor does."""
        if life.over:
            return
        self._note(life.node, "exits")
        self._end(life, noticed_after_s=0.0, down_s=RESTART_S)

    def _end(self, life: Life, *, noticed_after_s: float | None, down_s: float) -> None:
        life.end(noticed_after_s=noticed_after_s)
        for close in life.closing:
            # Not in the middle of the transaction that it dies in.
            self._loop.call_soon(close)
        self._processes[life.process].life = None
        self._loop.call_later(down_s, self._start, life.process)

    def _shut(self) -> None:
        """The end of the world: nothing of it has an effect any more."""
        self._closing = True
        for process in self._processes.values():
            if process.life is not None:
                process.life.end(noticed_after_s=None)
                for close in process.life.closing:
                    close()
        for _ in range(LAST_TURNS):
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()
        asyncio.set_event_loop(None)
        self._loop.close()

    # ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _strike(self, fault: Fault) -> None:
        self._note("world", type(fault).__name__, said=str(fault))
        match fault:
            case Crash(skip=skip):
                self._armed.append((fault, [skip]))
            case BrokerRestart(broker=broker, down_s=down_s):
                self._brokers[broker].stop()
                self._loop.call_later(down_s, self._brokers[broker].start)
            case Cut(broker=broker, client=client, for_s=for_s):
                self._brokers[broker].cut(client, for_s)
            case Reset(broker=broker, client=client):
                self._brokers[broker].reset(client)
            case Replay():
                self._replay(fault)
            case FullDisk(node=node, for_s=for_s):
                self._processes[node].full_disks += 1
                self._loop.call_later(for_s, self._free_disk, node)

    def _replay(self, replay: Replay) -> None:
        said = [
            event.value for event in self.trace.of("says") if event.value.topic.endswith(("/announcement", "/delta"))
        ]
        if not said:
            return
        again: Publication = said[int(replay.pick * len(said))]
        topic = TOPICS.parse(again.topic)
        assert topic is not None
        first = topic.parent or topic.node
        brokers = {first: again.topic}
        if replay.elsewhere and topic.branch == "up":
            others = {self._scenario.parents.get(topic.node), self._scenario.second_parents.get(topic.node)}
            brokers |= {other: TOPICS.up(topic.node, other, "delta") for other in others - {None, first} if other}
        for broker, where in brokers.items():
            self._brokers[broker].forge(replace(again, topic=where, retain=replay.kept and again.retain))

    def _free_disk(self, node: str) -> None:
        self._processes[node].full_disks -= 1

    def heard(self, node: str, said: str) -> None:
        """A node logged something."""
        self._note(node, "logs", said=said.replace(str(self._folder), ""))

    # ── what the doors ask and tell ─────────────────────────────────────────────────────────────────────────────

    def effect(self, life: Life, what: str) -> None:
        self._note(life.node, what)
        if what == "after commit finish run":
            self._over.set()
        for armed in self._armed:
            crash, skip = armed
            if crash.process != life.process:
                continue
            if skip[0]:
                skip[0] -= 1
                continue
            self._armed.remove(armed)
            self._note(life.node, "dies", said="power cut" if crash.power_cut else "killed")
            self._end(life, noticed_after_s=None if crash.power_cut else 0.01, down_s=crash.down_s)
            return

    def disk_is_full(self, node: str) -> bool:
        return self._processes[node].full_disks > 0

    def says(self, life: Life, publication: Publication) -> None:
        self._note(life.node, "says", publication)

    def committed(self, life: Life, closed: ClosedRound) -> None:
        said = f"{closed.round}.{closed.attempt} {closed.task} {closed.state}"
        self._note(life.node, "committed", closed, said)

    def failed(self, life: Life, what: str, error: BaseException) -> None:
        if isinstance(error, MEANT):
            # Meant, and handled by whoever waits: told, and not held against anyone.
            self._note(life.node, "error", said=f"{what}: {error}")
            return
        self._errors.append(f"{life.node}: {what}: {type(error).__name__}: {error}")
        self._note(life.node, "unexpected", said=self._errors[-1])

    def ended(self, life: Life, result: RoundResult) -> None:
        given = ", ".join(sorted(contribution.node for contribution in result.contributions))
        said = f"{label(result.plan.key)} {result.plan.task} {result.round.state}: {given}"
        self._note(life.node, "result", result, said)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if not isinstance(error, Killed) and not self._closing:
            self._errors.append(f"loop: {context.get('message')}: {error!r}")

    def _note(self, who: str, what: str, value: object = None, said: str = "") -> None:
        self.trace.add(self._loop.time(), who, what, value, said)

    def _thread_latency_s(self) -> float:
        return self._rng.uniform(0.0, 0.02)

    def _broker(self, name: str) -> Broker:
        def observe(happening: str, client: str, publication: Publication | None) -> None:
            self.trace.add(self._loop.time(), client, happening, publication)

        rng = Random(f"{self._scenario.seed}/broker/{name}")
        return Broker(
            name,
            self._loop,
            rng,
            keepalive_s=KEEPALIVE_S,
            persistent=self._scenario.persistent,
            observe=observe,
        )

    # ── looking into the nodes ──────────────────────────────────────────────────────────────────────────────────

    async def _sample(self) -> None:
        while True:
            for process in self._processes.values():
                for node, thing, number in _sizes(process):
                    self._most[node, thing] = max(number, self._most.get((node, thing), 0))
            await asyncio.sleep(SAMPLE_EVERY_S)

    def _restless(self) -> Iterator[str]:
        for name, process in self._processes.items():
            yield from (f"{name}: {why}" for why in _unrest(process.life))
        if not any(life and any(parent.session.connected for parent in life.parents[-1:]) for life in self._clouds()):
            yield "cloud: no process of it is connected"

    def _clouds(self) -> list[Life | None]:
        return [process.life for name, process in self._processes.items() if name in (CLOUD, STANDBY)]


def _unrest(life: Life | None) -> Iterator[str]:
    """Why a process is not at rest."""
    if life is None:
        yield "is down"
        return
    for parent in life.parents[-1:]:
        if parent._hosted is not None and parent._hosted.round.state == "open":
            yield f"still hosts {label(parent._hosted.plan.key)}"
        if parent._provider._wants:
            yield f"still serves {len(parent._provider._wants)} wants"
        if not parent.session.connected and life.node != CLOUD:
            yield "is not connected below"
    for child in life.children[-1:]:
        for key in child._outbox._entries:
            yield f"still sends {label(key)}"
        if not child.session.connected:
            yield "is not connected above"


def _sizes(process: _Process) -> Iterator[tuple[str, str, int]]:
    """(node, thing, how many of it there are now)."""
    life = process.life
    if life is None:
        return
    yield life.node, "tasks", len(life.tasks)
    for parent in life.parents[-1:]:
        yield life.node, "assemblies below", len(parent._assemblies)
        yield life.node, "owed receipts", len(parent._receipts._owed)
        yield life.node, "wants", len(parent._provider._wants)
        yield life.node, "background below", len(parent._tasks)
        yield life.node, "members", len(parent.members)
        yield life.node, "held", len(parent._held)
        yield life.node, "waiters below", len(parent._news._waiters)
    for child in life.children[-1:]:
        yield life.node, "assemblies above", len(child._assemblies)
        yield life.node, "background above", len(child._tasks)
        yield life.node, "waiters above", len(child._news._waiters)
        yield life.node, "outgoing", len(child._outbox._entries)


# ── before and after ────────────────────────────────────────────────────────────────────────────────────────────


def run_world(scenario: Scenario) -> Observed:
    """Everything from an empty disk to the judges' view of it."""
    with TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder, _without_collection():
        _prepare(scenario, Path(folder))
        world = World(scenario, Path(folder))
        with _logged_to(world), doors_before_disks(), windows():
            return world.run()


class _Listening(logging.Handler):
    """What nodes log is part of what happens."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        life = CURRENT.get()
        self._world.heard(life.node if life else "world", record.getMessage())


@contextmanager
def _logged_to(world: World) -> Iterator[None]:
    log, handler = logging.getLogger("headwater"), _Listening(world)
    log.addHandler(handler)
    log.propagate, propagated = False, log.propagate
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagated


@contextmanager
def _without_collection() -> Iterator[None]:
    """When garbage is collected is nobody's to say, and finalizers would run then."""
    was_on = gc.isenabled()
    gc.disable()
    # What is there before is no garbage of this world's, and is not looked through after it.
    gc.freeze()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
        gc.collect()
        gc.unfreeze()


@lru_cache(maxsize=1)
def _template() -> Path:
    """A migrated, empty database, made once in a process."""
    folder = Path(mkdtemp(dir=SHM if SHM.is_dir() else None))
    _AT_EXIT.append(folder)
    open_history(f"sqlite:///{folder / 'history.db'}").close()
    return folder / "history.db"


_AT_EXIT: list[Path] = []


def _prepare(scenario: Scenario, folder: Path) -> None:
    (folder / CLOUD).mkdir()
    file = folder / CLOUD / "history.db"
    shutil.copyfile(_template(), file)
    history = open_history(f"sqlite:///{file}")
    model = Model(run=RUN, version=0, tensors=encode_tensors([np.zeros(3, np.float32)]))
    bundle = encode(Bundle(manifest=MANIFEST, graphs={"train": b"none"}))
    history.enqueue_run(RUN, FLEET, scenario.description, b"none", EPOCH)
    history.record_start(RUN, b"none", bundle, encode(model), EPOCH)
    history.close()


def _observed(
    world: World, scenario: Scenario, folder: Path, ended_at: float, trouble: str, restless: tuple[str, ...]
) -> Observed:
    sql = sqlite3.connect(folder / CLOUD / "history.db")
    try:
        state = sql.execute("SELECT state FROM runs").fetchone()[0]
        rows = tuple(
            Row(*row, tuple(sql.execute(_GIVEN, row[:3]).fetchall()))
            for row in sql.execute("SELECT round, attempt, task, state, weight FROM rounds ORDER BY round, attempt")
        )
        models = {
            version: (bytes(sha256).hex(), _parameters(payload)) for version, sha256, payload in sql.execute(_MODELS)
        }
    finally:
        sql.close()
    return Observed(scenario, world.trace, state, ended_at, rows, models, trouble, world.errors, restless, world.most)


_GIVEN: Final = "SELECT node, weight FROM contributions WHERE round = ? AND attempt = ? AND task = ?"
_MODELS: Final = "SELECT version, models.sha256, payload FROM models JOIN objects ON models.sha256 = objects.sha256"


def _parameters(payload: bytes) -> tuple[float, ...]:
    (tensor,) = decode_object(payload, Model).tensors
    return tuple(float(value) for value in decode_tensor(tensor, "w"))
