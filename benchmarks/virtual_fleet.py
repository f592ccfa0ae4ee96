"""Law: the deployed shells learn for real; only their machines and links are stood in for, and a seed says all of it.

Cloud, gateways and devices are wired as their services wire them, over virtual brokers, in one process. A device waits
as long as the benchmark says that its machine would take, and then trains with numpy; the history is SQLite.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

from reference import accuracy, epoch

from headwater.cloud.coordinator import Coordinator
from headwater.cloud.history import History, open_history
from headwater.core.aggregate import difference, weighted
from headwater.core.batches import minibatches, shuffling
from headwater.device.sources.dataset import Dataset
from headwater.gateway.relay import Relay
from headwater.node.child import Assignment, Child
from headwater.node.hosting import RoundResult
from headwater.node.identity import Identity
from headwater.node.parent import Parent
from headwater.node.service import together
from headwater.node.store import NodeStore
from headwater.schemas.messages import Delta, Model, Plan
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import DataStatus, RoundStatus, RunStatus
from headwater.schemas.tensors import decode_tensor, decode_tensors, encode_tensors, parameter_specs
from headwater.schemas.wire import decode_object
from headwater.testbed.virtual.broker import Broker
from headwater.testbed.virtual.connection import VirtualConnection
from headwater.testbed.virtual.links import Links
from headwater.testbed.virtual.loop import VirtualLoop, run_virtually
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Caller, Connect

CLOUD: Final = "cloud"
FLEET: Final = "bench"
RUN: Final = "run"
DATA: Final = "digits"
ROUNDS: Final = 1_000_000
"""More than any run takes: it is stopped when it is there, or out of time."""

STORE_SIZE_BYTES: Final = 10_000_000
HERE: Final = Links(latency_s=0.0, jitter_s=0.0)
"""A parent runs beside its broker."""

LOCAL: Final = Links()

GATEWAYS_COME_AFTER_S: Final = 1.0
CLOUD_COMES_AFTER_S: Final = 2.0
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
SHM: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Scene:
    """A fleet, its machines and its aim.

    Args:
        clusters: each gateway's devices; the gateway named "" stands for the cloud itself.
        shards: each device's data, with the test part that all share.
        work_s: how long a device's machine takes for a plan, in virtual seconds.
        target: test accuracy at which the run is stopped.
        limit_s: virtual seconds from the first round's opening after which it is stopped all the same.
        device_links, gateway_links: to the broker of the parent.
    """

    description: RunDescription
    clusters: Mapping[str, tuple[str, ...]]
    shards: Mapping[str, Dataset]
    work_s: Callable[[str, Plan], float]
    target: float
    limit_s: float
    device_links: Links = LOCAL
    gateway_links: Links = LOCAL
    seed: int = 0


@dataclass(frozen=True)
class Version:
    """A model that the cloud made, `at_s` after the first round opened."""

    number: int
    at_s: float
    accuracy: float


@dataclass(frozen=True)
class Course:
    """How a run went.

    `staleness` has how many versions old each update was that is in a version, and `finished` how many plans each
    device had done by the end, used or not.
    """

    versions: tuple[Version, ...]
    staleness: tuple[int, ...]
    finished: Mapping[str, int]
    target: float

    @property
    def reached_s(self) -> float | None:
        """When the target was reached; None where it was not."""
        last = self.versions[-1] if self.versions else None
        return last.at_s if last is not None and last.accuracy >= self.target else None


def run(scene: Scene) -> Course:
    """The whole run, from an empty history to its last version."""
    with TemporaryDirectory(dir=SHM if SHM.is_dir() else None, prefix="headwater-bench-") as folder:
        return run_virtually(World(scene, Path(folder)).run, VirtualLoop(until_s=2 * scene.limit_s + 60))


class WatchedParent(Parent):
    """A parent that tells how each of its rounds ended."""

    tell: Callable[[RoundResult], None]

    async def host(self, *arguments: Any, **options: Any) -> RoundResult:
        result = await super().host(*arguments, **options)
        self.tell(result)
        return result


class World:
    """A scene under way, from the first birth to the run's end."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._scene = scene
        self._folder = folder
        self._brokers: dict[str, Broker] = {}
        self._over = asyncio.Event()
        self._opened_at: float | None = None
        self._versions: list[Version] = []
        self._staleness: list[int] = []
        self._finished: dict[str, int] = {}

    async def run(self) -> Course:
        loop = asyncio.get_running_loop()
        for name in (CLOUD, *filter(None, self._scene.clusters)):
            self._brokers[name] = Broker(name, loop, Random(f"{self._scene.seed}/broker/{name}"))
        life = asyncio.create_task(together(*self._services()))
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait((life, over), return_when=asyncio.FIRST_COMPLETED)
        if life.done():
            life.result()
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life
        return Course(tuple(self._versions), tuple(self._staleness), self._finished, self._scene.target)

    def _services(self) -> Iterator[Awaitable[None]]:
        for gateway, devices in self._scene.clusters.items():
            for device in devices:
                yield self._device(device, gateway or CLOUD)
            if gateway:
                yield self._gateway(gateway)
        yield self._cloud()

    # ── the nodes ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _device(self, node: str, parent: str) -> None:
        data = self._scene.shards[node]
        status = {DATA: DataStatus(train_examples=len(data.train_x), test_examples=len(data.test_x))}
        identity = Identity(FLEET, node, "device", parent)
        connect = self._connect(parent, self._scene.device_links)
        child = Child(connect, identity, ObjectStore(STORE_SIZE_BYTES), self._store(node), data=lambda: status)
        await together(child.session.run(), child.follow(partial(self._train, node)))

    async def _gateway(self, node: str) -> None:
        await asyncio.sleep(GATEWAYS_COME_AFTER_S)
        identity, objects = Identity(FLEET, node, "gateway", CLOUD), ObjectStore(STORE_SIZE_BYTES)
        store = self._store(node)
        child = Child(self._connect(CLOUD, self._scene.gateway_links), identity, objects, store, data=dict)
        connect = self._connect(node, HERE)
        parent = Parent(connect, identity, objects, client=f"{node}.site", tell_people=_tell_nobody, journal=store)
        relay = Relay(node, parent, objects, store)
        await together(child.session.run(), parent.run(), child.follow(relay.work, rest=parent.close))

    async def _cloud(self) -> None:
        await asyncio.sleep(CLOUD_COMES_AFTER_S)
        history = open_history(f"sqlite:///{self._folder / 'history.db'}")
        history.enqueue_run(RUN, FLEET, self._scene.description, None, self._now())
        objects = ObjectStore(STORE_SIZE_BYTES)
        parent = WatchedParent(
            self._connect(CLOUD, HERE),
            Identity(FLEET, CLOUD, "cloud", None),
            objects,
            client=CLOUD,
            tell_people=_tell_nobody,
            journal=self._store(CLOUD),
        )
        parent.tell = self._on_result
        watch = partial(self._on_status, history)
        coordinator = Coordinator(FLEET, parent, history, objects, tell_people=watch, now=self._now)
        try:
            await together(parent.run(), coordinator.serve())
        finally:
            history.close()

    def _connect(self, broker: str, links: Links) -> Connect:
        def connect(caller: Caller) -> VirtualConnection:
            rng = Random(f"{self._scene.seed}/{caller.client}")
            return VirtualConnection(self._brokers[broker], caller, rng, links)

        return connect

    def _store(self, node: str) -> NodeStore:
        return NodeStore(self._folder / f"{node}.db", STORE_SIZE_BYTES)

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())

    # ── what they do and tell ───────────────────────────────────────────────────────────────────────────────────

    async def _train(self, node: str, assignment: Assignment) -> Delta:
        plan, data = assignment.plan, self._scene.shards[node]
        await asyncio.sleep(self._scene.work_s(node, plan))
        base = decode_tensors(assignment.model.tensors, parameter_specs(assignment.bundle.manifest.parameters))
        rng = shuffling(plan.seed, plan.key, node)
        order, mask = minibatches(len(data.train_x), plan.batch_size, plan.local_epochs, rng)
        model = epoch(base, data.train_x, data.train_y, order, mask, plan.learning_rate)
        self._finished[node] = self._finished.get(node, 0) + 1
        return Delta(
            key=plan.key,
            sender=node,
            task=plan.task,
            weight=float(len(data.train_x)),
            examples=len(data.train_x),
            devices=1,
            tensors=encode_tensors(weighted(difference(model, base), float(len(data.train_x)))),
        )

    def _on_result(self, result: RoundResult) -> None:
        """Of one of the cloud's rounds."""
        if self._opened_at is None:
            self._opened_at = result.round.opened_at
        self._staleness += [result.plan.key.round - given.key.round for given in result.contributions]

    async def _on_status(self, history: History, status: RunStatus) -> None:
        """Every version is measured when it is there, and the run stopped with the first that is good enough."""
        if status.state != "running":
            self._over.set()
        elif self._opened_at is not None and status.round > len(self._versions):
            at_s = asyncio.get_running_loop().time() - self._opened_at
            number, model = history.model_of(RUN)
            parameters = [decode_tensor(tensor, "model") for tensor in decode_object(model, Model).tensors]
            data = next(iter(self._scene.shards.values()))
            version = Version(number, at_s, accuracy(parameters, data.test_x, data.test_y))
            self._versions.append(version)
            if version.accuracy >= self._scene.target or at_s > self._scene.limit_s:
                history.request_stop(RUN, self._now())


async def _tell_nobody(status: RoundStatus) -> None:
    return None
