"""Law: a simulated node is wired as its service wires it, from the same parts, behind doors.

What a real one reads from its machine (its connection, its boot's name, the time) comes from the world. Only a device's
training is stood in for: a wait, and a step that can be recomputed by hand.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from headwater.cloud.history import History, opening
from headwater.cloud.service import Machine, coordinate
from headwater.gateway import service as gateway_service
from headwater.node.child import Assignment, Child, Decline
from headwater.node.envelope import trust_of
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.parents import Parents, Second
from headwater.node.store import NodeStore
from headwater.node.uplink import Link, going
from headwater.schemas.base import Role
from headwater.schemas.links import BrokerSettings
from headwater.schemas.messages import Delta, Metric
from headwater.schemas.settings import CloudSettings, FallbackSettings, GatewaySettings, TrustSettings
from headwater.schemas.statuses import DataStatus
from headwater.schemas.tensors import Array, decode_tensors, parameter_specs
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect
from sim.doors import Life
from sim.pki import trust_settings
from sim.scenario import CLOUD, Scenario, is_device, weight_of
from sim.trace import FLEET
from support.deltas import manifest

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
STORE_SIZE_BYTES: Final = 1_000_000
HEARTBEAT_S: Final = 2.0
LEASE_S: Final = 6.0
MANIFEST: Final = manifest(3)


@dataclass(frozen=True)
class Place:
    """Where a life runs.

    `connect` makes a connection to the broker of the given name; `folder` is the node's disk; `work_s` draws how long a
    device trains, `chance` a number in [0, 1).
    """

    scenario: Scenario
    life: Life
    folder: Path
    connect: Callable[[str], Connect]
    work_s: Callable[[], float]
    chance: Callable[[], float]

    @property
    def identity(self) -> Identity:
        node = self.life.node
        role: Role = "device" if is_device(node) else "gateway"
        return Identity(FLEET, node, role, self.scenario.parents.get(node), self.life.boot)

    @property
    def trust_settings(self) -> TrustSettings | None:
        return trust_settings(self.folder, self.life.node) if self.scenario.signed else None

    def store(self) -> NodeStore:
        """The node's file, as it left it."""
        store = NodeStore(self.folder / "node.db", STORE_SIZE_BYTES)
        self.life.closing.append(store.close)
        return store


def now() -> datetime:
    """The world's, for whoever runs in it."""
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


async def live(place: Place) -> None:
    """Be the node, until it dies."""
    node = place.life.node
    await (_cloud(place) if node == CLOUD else _device(place) if is_device(node) else _gateway(place))


async def _cloud(place: Place) -> None:
    engine = opening._engine(opening._address(f"sqlite:///{place.folder / 'history.db'}"))
    place.life.closing.append(engine.dispose)
    settings = CloudSettings(
        fleet=FLEET, node=CLOUD, heartbeat_s=HEARTBEAT_S, lease_s=LEASE_S, trust=place.trust_settings
    )
    machine = Machine(
        name=place.life.process,
        boot=place.life.boot,
        now=now,
        chance=place.chance,
    )
    await coordinate(settings, History(engine, "sqlite"), place.connect(CLOUD), machine)


async def _gateway(place: Place) -> None:
    identity = place.identity
    settings = GatewaySettings(
        fleet=FLEET,
        node=identity.node,
        parent=_parent_of(identity),
        # Two brokers, so that it tells people on both.
        uplink=BrokerSettings(port=1),
        site=BrokerSettings(port=2),
        state=place.folder,
        heartbeat_s=HEARTBEAT_S,
        trust=place.trust_settings,
    )
    links = place.connect(_parent_of(identity)), place.connect(identity.node)
    await gateway_service.join(settings, identity, *links, clock=now)


async def _device(place: Place) -> None:
    identity = place.identity
    data = {"d": DataStatus(train_examples=1, test_examples=1)}
    other = place.scenario.second_parents.get(identity.node)
    store = place.store()
    outbox = Outbox(store, has_two_parents=other is not None)
    trust = trust_of(place.trust_settings, FLEET, identity.node, store, now)
    rule = FallbackSettings(parent=other, after_s=6.0, return_after_s=4.0) if other else None

    def child(connect: Connect, identity: Identity) -> Child:
        return Child(connect, identity, ObjectStore(STORE_SIZE_BYTES), outbox, data=lambda: data, trust=trust)

    parents = Parents(
        place.connect(_parent_of(identity)),
        identity,
        child,
        heartbeat_s=HEARTBEAT_S,
        second=Second(rule, place.connect(rule.parent)) if rule else None,
    )
    declines = place.scenario.unwilling.get(identity.node, 0.0)
    # Who never declines draws nothing, so that worlds without such devices stay as they were.
    await parents.run(trains(identity.node, place.work_s, lambda: not declines or place.chance() >= declines))


def _parent_of(identity: Identity) -> str:
    assert identity.parent is not None
    return identity.parent


# ── a device's training ─────────────────────────────────────────────────────────────────────────────────────────


def trains(
    device: str, work_s: Callable[[], float], is_willing: Callable[[], bool]
) -> Callable[[Assignment], Awaitable[Delta | Decline]]:
    async def work(assignment: Assignment) -> Delta | Decline:
        if not is_willing():
            return Decline("not_now", "the owner says no")
        await asyncio.sleep(work_s())
        plan, weight = assignment.plan, weight_of(device)
        (base,) = decode_tensors(assignment.model.tensors, parameter_specs(MANIFEST.parameters))
        terms = [(weight * local_step(device, base)).astype(np.float32)]
        if plan.learning.strategy.local_rule == "scaffold":
            # How its control variate moves: it names the contributors too.
            terms.append(np.full(3, weight, np.float32))
        delta = Delta.model_construct(
            key=plan.key,
            sender=device,
            task=plan.task,
            weight=weight,
            examples=int(weight),
            devices=1,
            metrics=(Metric(split="train", name="loss", total=weight, weight=weight),),
        )
        if plan.task == "evaluate":
            return delta
        link = Link(plan, MANIFEST, plan.learning.uplink, assignment.masks)
        return going(delta, terms, link, {}, np.random.default_rng(0)).delta

    return work


def local_step(device: str, base: Array) -> Array:
    """What a device makes of a model: 1 (weighted, it names the contributors); a number of its own (a wrong weight is
    seen); half-way to that number (a wrong base is seen)."""
    own = int(device[1:]) + 1
    return np.array([1.0, own, 0.5 * (own - float(base[2]))])
