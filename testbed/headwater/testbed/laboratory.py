"""Law: a whole tree in one process: real devices, real gateways and the cloud's real step, and no wire between them.

What a run would learn over MQTT it learns here, bit by bit, in a fraction of the time: so strategies are compared, and
a scenario has its reference. Whoever is asked answers at once, one after the other; nobody is late, nothing is lost.
"""

import asyncio
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, cast

from headwater.cloud.course import Course, after, begun, with_places
from headwater.cloud.history import RunRecord
from headwater.cloud.plans import needs_statistics, plan
from headwater.cloud.preparation import prepare
from headwater.core import round as rounds
from headwater.core.compress.prune import Mask
from headwater.core.graph.outputs import output_axes
from headwater.core.local import Memory
from headwater.core.select import Situation, chosen
from headwater.device.agent import Agent, Means
from headwater.device.memory import in_use
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.sources import Fixed
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.gateway.relay import Relay
from headwater.node.child import Assignment, Decline
from headwater.node.hosting import Arrival, Opening, RoundResult, checked_tensors, fold, open_hosted, result_of
from headwater.node.parent import Parent
from headwater.node.store import NodeStore
from headwater.schemas.base import Split, Task
from headwater.schemas.errors import RunFailed
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Bundle, Delta, Model, Plan
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import Array, models_of
from headwater.schemas.wire import decode_object, encode
from headwater.testbed.spread import Spread, spread_of
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Traffic

STORE_SIZE_BYTES: Final = 256 * 2**20
LIMIT_S: Final = 600.0
MEMORY: Final = Path("/dev/shm")
"""A disk on which syncing costs nothing, where the machine has one."""

RUN: Final = "laboratory"

Clusters = Mapping[str, Sequence[str]]
"""Each gateway's devices; a gateway named "" stands for devices right below the cloud."""


class Child(Protocol):
    """A device or a gateway, as its parent sees it."""

    async def work(self, assignment: Assignment) -> Delta | Decline: ...


@dataclass(frozen=True, slots=True)
class Told:
    """What a round showed. Accuracies, or losses where there are no classes, by split and device; bytes of all deltas
    that devices sent."""

    round: int
    by_device: Mapping[Split, Mapping[str, float]]
    bytes_up: int

    def spread(self, split: Split, *, low_is_worst: bool = True) -> Spread:
        """Mean and worst decile over devices."""
        return spread_of(self.by_device[split].values(), low_is_worst=low_is_worst)


class _Connected:
    """A session that is always there."""

    async def wait_connected(self) -> None:
        return None


@dataclass(slots=True)
class Host:
    """A parent's rounds, without a wire. `deltas` are those of the last round, by child."""

    node: str
    children: dict[str, Child]
    objects: ObjectStore
    situation: Situation = field(default_factory=Situation)
    session: _Connected = field(default_factory=_Connected)
    deltas: dict[str, Delta] = field(default_factory=dict)

    async def host(
        self,
        plan: Plan,
        manifest: Manifest,
        *,
        models: int = 1,
        places: tuple[str, ...] = (),
        masks: tuple[Mask, ...] = (),
    ) -> RoundResult:
        """As `Parent.host`. Raises TensorError, WireError where a child's delta is none."""
        members = frozenset(self.children)
        cohort = chosen(members, plan.cohort, plan.over_selection, plan.seed, plan.key, self.situation)
        opening = Opening(members=members, chosen=cohort, models=models, places=places, masks=masks)
        hosted = open_hosted(plan, manifest, opening, Traffic(), now=0.0)
        self.deltas = {}
        for node in sorted(members if cohort.cohort is None else cohort.cohort):
            answer = await self.children[node].work(self._assignment(plan, masks))
            if isinstance(answer, Decline):
                hosted.round, _ = rounds.step(hosted.round, rounds.Declined(plan.key, node), 0.0)
                continue
            arrival = Arrival(answer, checked_tensors(answer, node, hosted), encode(answer), is_kept=False)
            hosted.round, effects = rounds.step(hosted.round, rounds.Arrived.of(answer), 0.0)
            for effect in effects:
                if isinstance(effect, rounds.Fold):
                    fold(hosted, arrival, effect.factor, 0.0)
            self.deltas[node] = answer
        return result_of(hosted, Traffic(), 0.0)

    def _assignment(self, plan: Plan, masks: tuple[Mask, ...]) -> Assignment:
        payloads = self.objects.get(plan.model), self.objects.get(plan.bundle)
        if payloads[0] is None or payloads[1] is None:
            raise RunFailed("laboratory: an object does not fit into its store")
        model, bundle = decode_object(payloads[0], Model), decode_object(payloads[1], Bundle)
        return Assignment(plan, model, bundle, asyncio.get_running_loop().time(), masks)


class Laboratory:
    """A run of a fleet. Use as a context manager.

    Args:
        data: by device.
        clusters: gateways and their devices; by default all devices are right below the cloud.
        forward: the owner's model, where the run is of one.
        folder: what outlives a reboot, by default a temporary one.
        worker: what runs the graphs, by default one of this laboratory's own.
    """

    def __init__(
        self,
        description: RunDescription,
        data: Mapping[str, Dataset],
        *,
        clusters: Clusters | None = None,
        forward: bytes | None = None,
        folder: Path | None = None,
        worker: Worker | None = None,
    ) -> None:
        self.description = description
        self.data = dict(data)
        self._temporary = (
            tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) if folder is None else None
        )
        self._folder = folder or Path(cast(tempfile.TemporaryDirectory[str], self._temporary).name)
        self._own_worker = Worker(Bounds(niceness=0)) if worker is None else None
        self._worker = cast(Worker, worker or self._own_worker)
        self._objects = ObjectStore(STORE_SIZE_BYTES)
        self.hosts = self._grown(clusters or {"": tuple(self.data)})
        self.course = self._begun(forward)
        self.told: list[Told] = []

    def __enter__(self) -> "Laboratory":
        return self

    def __exit__(self, *_: object) -> None:
        if self._own_worker is not None:
            self._own_worker.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def run(self) -> "Laboratory":
        """All rounds of the run, and the last model's measurement. `told[r]` is of the model of round r."""
        asyncio.run(self.rounds())
        return self

    async def rounds(self) -> None:
        """As `run`, in a loop that runs already."""
        if needs_statistics(self.description):
            await self.round("statistics", 0)
        for number in range(self.course.round + 1, self.description.rounds + 1):
            await self.round("train", number)
        await self.round("evaluate", self.description.rounds + 1)

    async def round(self, task: Task, number: int) -> None:
        """One round. Raises RunFailed where nobody gives anything, or the model is no longer finite."""
        top, description = self.hosts["cloud"], self.description
        self.course, model = with_places(self.course, frozenset(top.children))
        if model is not None:
            self._objects.put(model)
        asked = plan(RUN, description, task, number, 0, model=self.course.model, bundle=self.course.bundle)
        clusters = self.course.models.clusters
        places = clusters if description.learning.has_places else ()
        result = await top.host(
            asked, self.course.manifest, models=len(clusters) or 1, places=places, masks=self.course.mask
        )
        if not result.closed:
            raise RunFailed(f"round {number}: nobody gave anything")
        fleet_weight = sum(data.weight for data in self.data.values())
        behind = after(self.course, result, fleet_weight=fleet_weight)
        if behind.model is not None:
            self._objects.put(behind.model)
        self.course = behind.course
        if asked.evaluate or task == "evaluate":
            self.told.append(self._measured(number - 1))

    def reboot(self, device: str) -> None:
        """The device begins anew, with nothing but its disk."""
        for host in self.hosts.values():
            if device in host.children:
                host.children[device] = self._device(device)

    def memory(self, device: str) -> Memory:
        """What a device keeps of the run."""
        return LocalState(self._folder / device).memory(RUN)

    def personal(self, device: str) -> tuple[Array, ...]:
        """The model that a device uses."""
        payload = self._objects.get(self.course.model)
        if payload is None:
            raise RunFailed("laboratory: the model does not fit into its store")
        manifest = self.course.manifest
        return in_use(manifest, models_of(manifest, decode_object(payload, Model)), self.memory(device).kept)

    # ── the tree ────────────────────────────────────────────────────────────────────────────────────────────────

    def _grown(self, clusters: Clusters) -> dict[str, Host]:
        hosts = {"cloud": Host("cloud", {}, self._objects)}
        for gateway, devices in clusters.items():
            own: dict[str, Child] = {device: self._device(device) for device in devices}
            if not gateway:
                hosts["cloud"].children |= own
                continue
            hosts[gateway] = Host(gateway, own, self._objects)
            store = NodeStore(self._folder / f"{gateway}.db", STORE_SIZE_BYTES)
            # Of a parent a relay needs its rounds and its session, and no more.
            hosts["cloud"].children[gateway] = Relay(gateway, cast(Parent, hosts[gateway]), self._objects, store)
        return hosts

    def _device(self, device: str) -> Agent:
        means = Means(worker=self._worker, state=LocalState(self._folder / device))
        source = {self.description.data: Fixed(self.data[device])}
        return Agent(device, source, time_limit_s=LIMIT_S, means=means)

    def _begun(self, forward: bytes | None) -> Course:
        prepared = prepare(RUN, self.description, forward)
        bundle = self._objects.put(prepared.bundle)
        self._objects.put(prepared.model)
        now = datetime.now(UTC)
        run = RunRecord(RUN, "laboratory", RUN, "running", self.description, 0, False, "", now, now, None)
        course = begun(run, prepared.manifest, bundle, prepared.model, 0, None)
        names = [parameter.name for parameter in prepared.manifest.shared]
        return replace(course, outputs=output_axes(prepared.forward, names))

    def _measured(self, version: int) -> Told:
        deltas = [
            (node, delta)
            for host in self.hosts.values()
            for node, delta in host.deltas.items()
            if node not in self.hosts
        ]
        told: dict[Split, dict[str, float]] = {}
        for node, delta in deltas:
            for split, value in _figures(delta).items():
                told.setdefault(split, {})[node] = value
        return Told(version, told, sum(len(encode(delta)) for _, delta in deltas))


def _figures(delta: Delta) -> dict[Split, float]:
    """A device's accuracy by split, or its loss where there are no classes."""
    means = {(m.split, m.name): m.total / m.weight for m in delta.metrics if m.weight > 0}
    splits: Iterable[Split] = {split for split, _ in means}
    return {split: means.get((split, "correct"), means.get((split, "loss"), 0.0)) for split in splits}
