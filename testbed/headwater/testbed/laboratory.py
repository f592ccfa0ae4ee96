"""Law: a whole tree in one process: real devices, real gateways and the cloud's real step, and no wire between them.

What a run would learn over MQTT it learns here, bit by bit, in a fraction of the time: so strategies are compared, and
a scenario has its reference. Whoever is asked answers, one after the other, and nothing is lost. How long it takes is
what the caller says, on a clock of the laboratory's own; nobody is late.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np

from headwater.cloud.course import Course, after, begun, with_places
from headwater.cloud.history import RunRecord
from headwater.cloud.plans import needs_statistics, plan
from headwater.cloud.preparation import prepare
from headwater.core import round as rounds
from headwater.core.compress.prune import Mask
from headwater.core.graph.outputs import output_axes
from headwater.core.local import Memory
from headwater.device.agent import Agent, Means
from headwater.device.memory import in_use
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.runtime.trainer import Trainer
from headwater.device.sharing import Sharing
from headwater.device.sources import Fixed
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.gateway.relay import Relay
from headwater.node.child import Assignment, Decline
from headwater.node.choosing import Choosing
from headwater.node.hosting import (
    Arrival,
    Opening,
    Refused,
    RoundResult,
    checked_tensors,
    fold,
    open_hosted,
    result_of,
    status_of,
)
from headwater.node.pacing import Pacing
from headwater.node.parent import Parent, data_of
from headwater.node.store import NodeStore
from headwater.schemas.base import Role, Split, Task
from headwater.schemas.errors import RunFailed
from headwater.schemas.manifest import STANDING_METRICS, Manifest
from headwater.schemas.messages import Bundle, Delta, Model, ObjectRef, Plan
from headwater.schemas.run import RunDescription
from headwater.schemas.settings import SharingSettings
from headwater.schemas.statuses import NodeStatus
from headwater.schemas.tensors import Array
from headwater.schemas.wire import decode_object, encode_object
from headwater.testbed.spread import Spread, spread_of
from headwater.transport.objects import ObjectStore, travelling_bytes
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
    """What a round showed. Accuracies, or losses where there are no classes, by split and device; payload bytes of all
    deltas that devices sent."""

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


def _no_time(_: str) -> float:
    return 0.0


@dataclass(slots=True)
class Host:
    """A parent's rounds, without a wire.

    `takes_s` says how long a device's next plan takes it, `below` are the hosts of those children that are gateways.
    `deltas` are those of the last round, by child; `clock_s` is how long all rounds so far took. `traffic` counts what
    would have travelled of them: models or patches once for all children, and each child's deltas.
    """

    node: str
    children: dict[str, Child]
    objects: ObjectStore
    takes_s: Callable[[str], float] = _no_time
    below: Mapping[str, "Host"] = field(default_factory=dict)
    session: _Connected = field(default_factory=_Connected)
    deltas: dict[str, Delta] = field(default_factory=dict)
    clock_s: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)
    pacing: Pacing = field(init=False, default_factory=Pacing)
    choosing: Choosing = field(init=False)

    def __post_init__(self) -> None:
        self.choosing = Choosing(self.pacing)

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
        statuses = self.statuses()
        members, cohort = frozenset(statuses), self.choosing.chosen(plan, statuses)
        opening = Opening(members=members, chosen=cohort, models=models, places=places, masks=masks)
        hosted = open_hosted(plan, manifest, opening, self.traffic, now=0.0)
        self._count(Traffic(sent_bytes=travelling_bytes(self._object(plan.patch.patch if plan.patch else plan.model))))
        self.deltas, elapsed_s = {}, 0.0
        for node in sorted(members if cohort.cohort is None else cohort.cohort):
            answer, after_s = await self._answered(node, self._assignment(plan, masks))
            elapsed_s = max(elapsed_s, after_s)
            if isinstance(answer, Decline):
                hosted.refuse(Refused(node, answer.reason, answer.detail))
                hosted.round, _ = rounds.step(hosted.round, rounds.Declined(plan.key, node), 0.0)
                continue
            arrival = Arrival(answer, checked_tensors(answer, node, hosted), encode_object(answer), is_kept=False)
            self._count(Traffic(received_bytes=travelling_bytes(arrival.payload)))
            hosted.round, effects = rounds.step(hosted.round, rounds.Arrived.of(answer), 0.0)
            for effect in effects:
                if isinstance(effect, rounds.Fold):
                    fold(hosted, arrival, effect.factor, after_s)
            self.deltas[node] = answer
        self.clock_s += elapsed_s
        told = status_of(hosted, self.node, statuses, self.traffic, elapsed_s)
        result = result_of(hosted, told, self.traffic)
        self.pacing.learn(plan, hosted.round, result.contributions, 0.0)
        self.choosing.learn(plan, hosted.round, result.contributions)
        return result

    def statuses(self) -> dict[str, NodeStatus]:
        """What the children say of themselves, by name."""
        return {node: self._status(node) for node in self.children}

    def _status(self, node: str) -> NodeStatus:
        child, below = self.children[node], self.below.get(node)
        if below is not None:
            data = data_of(below.statuses().values())
        else:
            data = child.data() if isinstance(child, Agent) else {}
        role: Role = "device" if below is None else "gateway"
        return NodeStatus(node=node, role=role, parent=self.node, state="online", data=data)

    async def _answered(self, node: str, assignment: Assignment) -> tuple[Delta | Decline, float]:
        """A child's answer, and after how many seconds it comes: a gateway's rounds take as long as theirs below."""
        below = self.below.get(node)
        began_s = below.clock_s if below else 0.0
        answer = await self.children[node].work(assignment)
        return answer, below.clock_s - began_s if below else self.takes_s(node)

    def _assignment(self, plan: Plan, masks: tuple[Mask, ...]) -> Assignment:
        model = decode_object(self._object(plan.model), Model)
        bundle = decode_object(self._object(plan.bundle), Bundle)
        return Assignment(plan, model, bundle, asyncio.get_running_loop().time(), masks)

    def _object(self, ref: ObjectRef) -> bytes:
        payload = self.objects.get(ref)
        if payload is None:
            raise RunFailed("laboratory: an object does not fit into its store")
        return payload

    def _count(self, more: Traffic) -> None:
        so_far = self.traffic
        self.traffic = Traffic(so_far.sent_bytes + more.sent_bytes, so_far.received_bytes + more.received_bytes)


class Laboratory:
    """A run of a fleet. Use as a context manager.

    Args:
        data: by device.
        clusters: gateways and their devices; by default all devices are right below the cloud.
        forward: the owner's model, where the run is of one.
        folder: what outlives a reboot, by default a temporary one.
        worker: what runs the graphs, by default one of this laboratory's own.
        takes_s: how long a device's next plan takes it.
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
        takes_s: Callable[[str], float] = _no_time,
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
        self.hosts = self._grown(clusters or {"": tuple(self.data)}, takes_s)
        self.course = self._begun(forward)
        self.told: list[Told] = []

    def __enter__(self) -> "Laboratory":
        return self

    def __exit__(self, *_: object) -> None:
        if self._own_worker is not None:
            self._own_worker.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def run(self, look: Callable[[int], bool] = lambda number: True) -> "Laboratory":
        """All rounds of the run, and the last model's measurement. `told[r]` is of the model of round r.

        After each round of training `look` is told its number, and says whether to go on.
        """
        asyncio.run(self.rounds(look))
        return self

    async def rounds(self, look: Callable[[int], bool] = lambda number: True) -> None:
        """As `run`, in a loop that runs already."""
        if needs_statistics(self.description):
            await self.round("statistics", 0)
        for number in range(self.course.round + 1, self.description.rounds + 1):
            await self.round("train", number)
            if not look(number):
                break
        await self.round("evaluate", self.course.round + 1)

    async def round(self, task: Task, number: int) -> None:
        """One round. Raises RunFailed where too few give anything, or the model is no longer finite."""
        top, description = self.hosts["cloud"], self.description
        self.course, model = with_places(self.course, frozenset(top.children))
        if model is not None:
            self._objects.put(model)
        course = self.course
        asked = plan(RUN, description, task, number, 0, model=course.model, bundle=course.bundle, patch=course.patch)
        clusters = self.course.models.clusters
        places = clusters if description.learning.has_places else ()
        result = await top.host(
            asked, self.course.manifest, models=len(clusters) or 1, places=places, masks=self.course.mask
        )
        if not result.closed:
            why = "; ".join(f"{refused.node}: {refused.detail}" for refused in result.refusals)
            raise RunFailed(f"round {number}: no quorum: {why}")
        behind = after(self.course, result, fleet={child: self._weight_of(child) for child in top.children})
        for payload in (behind.model, behind.patch):
            if payload is not None:
                self._objects.put(payload)
        self.course = behind.course
        if asked.evaluate or task == "evaluate":
            self.told.append(self._measured(number - 1))

    def _weight_of(self, node: str) -> float:
        """Of a device, or of all devices below a gateway."""
        devices = self.hosts[node].children if node in self.hosts else (node,)
        return sum(self.data[device].weight for device in devices)

    def reboot(self, device: str) -> None:
        """The device begins anew, with nothing but its disk."""
        for host in self.hosts.values():
            if device in host.children:
                host.children[device] = self._device(device)

    def memory(self, device: str) -> Memory:
        """What a device keeps of the run."""
        return LocalState(self._folder / device).memory(RUN)

    @property
    def clock_s(self) -> float:
        """How long the rounds so far took, as `takes_s` says."""
        return self.hosts["cloud"].clock_s

    def trainer(self) -> Trainer:
        """The run's graphs, to judge models by."""
        payload = self._objects.get(self.course.bundle)
        if payload is None:
            raise RunFailed("laboratory: the graphs do not fit into its store")
        return Trainer(decode_object(payload, Bundle), self._worker)

    def personal(self, device: str) -> tuple[Array, ...]:
        """The model that a device uses."""
        models = self.course.models
        received = models.parameters
        if self.description.learning.has_places:
            received = (received[models.clusters.index(self._place_of(device))],)
        return in_use(self.course.manifest, received, self.memory(device).kept)

    def _place_of(self, device: str) -> str:
        """The child of the cloud that a device is, or is below."""
        below = self.hosts["cloud"].below
        return next((gateway for gateway, host in below.items() if device in host.children), device)

    # ── the tree ────────────────────────────────────────────────────────────────────────────────────────────────

    def _grown(self, clusters: Clusters, takes_s: Callable[[str], float]) -> dict[str, Host]:
        below: dict[str, Host] = {}
        hosts = {"cloud": Host("cloud", {}, self._objects, takes_s, below)}
        for gateway, devices in clusters.items():
            own: dict[str, Child] = {device: self._device(device) for device in devices}
            if not gateway:
                hosts["cloud"].children |= own
                continue
            hosts[gateway] = below[gateway] = Host(gateway, own, self._objects, takes_s)
            store = NodeStore(self._folder / f"{gateway}.db", STORE_SIZE_BYTES)
            # Of a parent a relay needs its rounds and its session, and no more.
            hosts["cloud"].children[gateway] = Relay(gateway, cast(Parent, hosts[gateway]), self._objects, store)
        return hosts

    def _device(self, device: str) -> Agent:
        state = LocalState(self._folder / device)
        means = Means(worker=self._worker, state=state, sharing=self._sharing(device, state))
        source = {self.description.data: Fixed(self.data[device])}
        return Agent(device, source, time_limit_s=LIMIT_S, means=means)

    def _sharing(self, device: str, state: LocalState) -> Sharing | None:
        """What a device tells of its labels, where someone chooses by that: noise follows from the run's seed."""
        description, place = self.description, list(self.data).index(device)
        if description.cohort.selection.by != "diversity":
            return None
        classes, epsilon = {description.data: description.classes}, SharingSettings().epsilon
        sharing = Sharing(classes, epsilon, state, lambda: np.random.default_rng([description.seed, place]))
        sharing.saw(description.data, self.data[device])
        return sharing

    def _begun(self, forward: bytes | None) -> Course:
        prepared = prepare(RUN, self.description, forward)
        bundle = self._objects.put(prepared.bundle)
        self._objects.put(prepared.model)
        now = datetime.now(UTC)
        run = RunRecord(RUN, "laboratory", RUN, "running", self.description, 0, False, False, "", now, now, None)
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
        return Told(version, told, sum(travelling_bytes(encode_object(delta)) for _, delta in deltas))


def _figures(delta: Delta) -> dict[Split, float]:
    """A device's accuracy by split, or its loss where there are no classes."""
    told = [metric for metric in delta.metrics if metric.weight > 0 and metric.name not in STANDING_METRICS]
    means = {(m.split, m.name): m.total / m.weight for m in told}
    splits: Iterable[Split] = {split for split, _ in means}
    return {split: means.get((split, "correct"), means.get((split, "loss"), 0.0)) for split in splits}
