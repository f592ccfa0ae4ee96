"""Law: the deployed shells learn for real; only their machines and links are stood in for, and a seed says all of it.

Cloud, gateways and devices are wired as their services wire them, over virtual brokers, in one process. A device waits
as long as the benchmark says that its machine would take, and then trains with numpy; the history is SQLite.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from plain_fedavg import accuracy, epoch

from headwater.cloud import service as cloud_service
from headwater.cloud.history import open_history
from headwater.core.aggregate import difference, weighted
from headwater.core.batches import minibatches, shuffling
from headwater.device.sources.dataset import Dataset
from headwater.gateway import service as gateway_service
from headwater.node.child import Assignment, Child
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.service import together
from headwater.node.store import NodeStore
from headwater.schemas.messages import Delta, Model, Plan
from headwater.schemas.run import RunDescription
from headwater.schemas.settings import CloudSettings, GatewaySettings
from headwater.schemas.statuses import DataStatus, RoundStatus, RunStatus
from headwater.schemas.tensors import decode_tensor, decode_tensors, encode_tensors, parameter_specs
from headwater.schemas.topics import Topics
from headwater.schemas.wire import decode_object, decode_status
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
"""More than any run takes: it ends when its model is good enough, or out of time."""

STORE_SIZE_BYTES: Final = 10_000_000
HERE: Final = Links(latency_s=0.0, jitter_s=0.0)
"""A parent runs beside its broker."""

LOCAL: Final = Links()

GATEWAYS_COME_AFTER_S: Final = 1.0
CLOUD_COMES_AFTER_S: Final = 2.0
LEASE_S: Final = 600.0
"""Nobody contends for it."""

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
ENDS_AFTER_S: Final = 60.0
"""Beyond twice its limit: a world without a version for so long is an error."""

SHM: Final = Path("/dev/shm")


@dataclass(frozen=True)
class Scene:
    """A fleet, its machines and its aim.

    Args:
        clusters: each gateway's devices; the gateway named "" stands for the cloud itself.
        shards: each device's data, with the test part that all share.
        work_s: how long a device's machine takes for a plan, in virtual seconds.
        target: test accuracy with which the run ends.
        limit_s: virtual seconds from the first round's opening after which it ends with the next version.
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
        loop = VirtualLoop(until_s=2 * scene.limit_s + ENDS_AFTER_S)

        async def live() -> Course:
            return await World(scene, Path(folder)).run()

        return run_virtually(live, loop)


class World:
    """A scene under way, from the first birth to the last version that is looked for."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._scene = scene
        self._folder = folder
        self._brokers: dict[str, Broker] = {}
        self._history = open_history(f"sqlite:///{folder / 'history.db'}")
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened_at: float | None = None
        self._versions: list[Version] = []
        self._finished = dict.fromkeys(scene.shards, 0)

    async def run(self) -> Course:
        loop = asyncio.get_running_loop()
        for name in (CLOUD, *filter(None, self._scene.clusters)):
            self._brokers[name] = Broker(name, loop, Random(f"{self._scene.seed}/broker/{name}"))
        self._history.enqueue_run(RUN, FLEET, self._scene.description, None, self._now())
        life = asyncio.create_task(together(*self._services()))
        try:
            done, _ = await asyncio.wait((life, self._over), return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
            return Course(tuple(self._versions), self._staleness(), dict(self._finished), self._scene.target)
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            self._history.close()

    def _services(self) -> Iterator[Awaitable[None]]:
        for gateway, devices in self._scene.clusters.items():
            for device in devices:
                yield self._device(device, gateway or CLOUD)
            if gateway:
                yield self._gateway(gateway)
        yield self._cloud()
        yield self._watch()

    # ── the nodes ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _device(self, node: str, parent: str) -> None:
        data = self._scene.shards[node]
        status = {DATA: DataStatus(train_examples=len(data.train_x), test_examples=len(data.test_x))}
        identity = Identity(FLEET, node, "device", parent)
        connect = self._connect(parent, self._scene.device_links)
        with closing(NodeStore(self._folder / f"{node}.db", STORE_SIZE_BYTES)) as store:
            child = Child(connect, identity, ObjectStore(STORE_SIZE_BYTES), Outbox(store), data=lambda: status)
            await together(child.session.run(), child.follow(partial(self._train, node)))

    async def _gateway(self, node: str) -> None:
        await asyncio.sleep(GATEWAYS_COME_AFTER_S)
        settings = GatewaySettings(fleet=FLEET, node=node, parent=CLOUD, state=self._folder)
        uplink, site = self._connect(CLOUD, self._scene.gateway_links), self._connect(node, HERE)
        await gateway_service.join(settings, Identity(FLEET, node, "gateway", CLOUD), uplink, site)

    async def _cloud(self) -> None:
        await asyncio.sleep(CLOUD_COMES_AFTER_S)
        settings = CloudSettings(fleet=FLEET, node=CLOUD, lease_s=LEASE_S)
        machine = cloud_service.Machine(now=self._now, chance=Random(f"{self._scene.seed}/cloud").random)
        await cloud_service.coordinate(settings, self._history, self._connect(CLOUD, HERE), machine)

    def _connect(self, broker: str, links: Links) -> Connect:
        def connect(caller: Caller) -> VirtualConnection:
            rng = Random(f"{self._scene.seed}/{caller.client}")
            return VirtualConnection(self._brokers[broker], caller, rng, links)

        return connect

    def _now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())

    # ── a device's work ─────────────────────────────────────────────────────────────────────────────────────────

    async def _train(self, node: str, assignment: Assignment) -> Delta:
        plan, data = assignment.plan, self._scene.shards[node]
        await asyncio.sleep(self._scene.work_s(node, plan))
        base = decode_tensors(assignment.model.tensors, parameter_specs(assignment.bundle.manifest.parameters))
        rng = shuffling(plan.seed, plan.key, node)
        order, mask = minibatches(len(data.train_x), plan.batch_size, plan.local_epochs, rng)
        model = epoch(base, data.train_x, data.train_y, order, mask, plan.learning_rate)
        self._finished[node] += 1
        return Delta(
            key=plan.key,
            sender=node,
            task=plan.task,
            weight=float(len(data.train_x)),
            examples=len(data.train_x),
            devices=1,
            tensors=encode_tensors(weighted(difference(model, base), float(len(data.train_x)))),
        )

    # ── looking on ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        """As anyone may: by the topics for people."""

        async def connected() -> None:
            return None

        topics = Topics(FLEET)
        filters = (topics.run, topics.round)
        caller = Caller(FLEET, "watcher", "watcher", filters, partial(self._on_message, topics), connected)
        await self._connect(CLOUD, HERE)(caller).run()

    def _on_message(self, topics: Topics, topic: str, payload: bytes, retained: bool) -> None:
        now = asyncio.get_running_loop().time()
        if topic == topics.run:
            self._on_run(decode_status(payload, RunStatus), now)
        elif topic == topics.round and self._opened_at is None:
            self._opened_at = now - decode_status(payload, RoundStatus).elapsed_s

    def _on_run(self, status: RunStatus, now: float) -> None:
        if self._over.done():
            return
        if status.state != "running":
            self._over.set_exception(RuntimeError(f"the run is {status.state}: {status.detail}"))
        elif self._opened_at is not None and status.round > len(self._versions):
            self._on_version(status.round, now - self._opened_at)

    def _on_version(self, number: int, at_s: float) -> None:
        """Measured when it is there; the world ends with the first that is good enough."""
        _, model = self._history.model_of(RUN, number)
        parameters = [decode_tensor(tensor, "model") for tensor in decode_object(model, Model).tensors]
        data = next(iter(self._scene.shards.values()))
        version = Version(number, at_s, accuracy(parameters, data.test_x, data.test_y))
        self._versions.append(version)
        if version.accuracy >= self._scene.target or at_s > self._scene.limit_s:
            self._over.set_result(None)

    def _staleness(self) -> tuple[int, ...]:
        """Of each update that the cloud took, as the history has it."""
        with closing(sqlite3.connect(self._folder / "history.db")) as sql:
            return tuple(
                staleness for (staleness,) in sql.execute("SELECT staleness FROM contributions ORDER BY round")
            )
