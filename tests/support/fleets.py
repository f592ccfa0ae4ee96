"""A fleet of nodes in one event loop over a real broker, each with its disk; none of them trains anything.

Device d<i> has weight 2**i and gives ones, so that a sum names its contributors.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from headwater.gateway.relay import Relay
from headwater.node.announcing import UNSIGNED, Voice
from headwater.node.child import Assignment, Child, Decline, Refused, Work
from headwater.node.hosting import RoundResult
from headwater.node.identity import Identity
from headwater.node.observing import Observer, nobody
from headwater.node.outbox import Outbox
from headwater.node.parent import HEARTBEAT_S, Audience, Parent, SiteLink
from headwater.node.parents import MakeChild, Parents, Second
from headwater.node.store import NodeStore
from headwater.node.trusting import Trust
from headwater.schemas.messages import Bundle, Delta, Model, Plan, RoundKey
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.statuses import DataStatus, RoundStatus
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Caller, Connect, Session
from support.deltas import adds_one, manifest
from support.pki import Pki

MANIFEST = manifest(4)
BUNDLE = encode(Bundle(manifest=MANIFEST, graphs={"train": b"none"}))
OFTEN_S = 0.1
"""Between two signs of life, where a test waits for silence."""


def model(version: int) -> bytes:
    return encode(Model(run="r", version=version, tensors=encode_tensors([np.full(4, float(version), np.float32)])))


def plan(round_: int, objects: ObjectStore, **changes: object) -> Plan:
    named: dict[str, object] = {"model": objects.put(model(round_ - 1)), "bundle": objects.put(BUNDLE)}
    common: dict[str, object] = {"task": "train", "data": "d", "deadline_s": 8.0, "quorum": 1.0}
    return Plan.model_validate(common | named | {"key": RoundKey(run="r", round=round_)} | changes)


class Fleet:
    """Nodes by name, each with its disk, in one event loop. What is killed says no goodbye and keeps only its disk."""

    data: ClassVar[dict[str, DataStatus]] = {"d": DataStatus(train_examples=1, test_examples=0)}

    def __init__(self, port: int, folder: Path) -> None:
        self.pki: Pki | None = None
        """Whose certificates all nodes have but those `without`."""
        self.without: set[str] = set()
        self._broker = BrokerSettings(port=port)
        self._folder = folder
        self.tasks: dict[str, list[asyncio.Task[None]]] = {}
        self.name = folder.name.replace("_", "-")[:40]
        self.trained: list[tuple[str, RoundKey]] = []

    def store(self, node: str) -> NodeStore:
        return NodeStore(self._folder / f"{node}.db", 10**7)

    def trust(self, node: str) -> Trust | None:
        return None if self.pki is None or node in self.without else self.pki.trust(node, self.store(node))

    def parent(
        self,
        node: str,
        above: str | None = None,
        objects: ObjectStore | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        observe: Observer = nobody,
    ) -> Parent:
        async def tell(_: RoundStatus) -> None:
            return None

        identity = Identity(self.name, node, "gateway", above)
        parent = Parent(
            SiteLink(self.connect, f"{node}.site"),
            identity,
            objects or ObjectStore(10**7),
            self.store(node),
            Audience(tell, observe),
            voice=self.voice(node),
            heartbeat_s=heartbeat_s,
        )
        self.tasks.setdefault(node, []).append(asyncio.create_task(parent.run()))
        return parent

    def voice(self, node: str) -> Voice:
        """Of the start that comes now."""
        if self.pki is None:
            return UNSIGNED
        return Voice(self.trust(node), self.store(node).next_epoch(lambda last: last + 1))

    def device(self, node: str, parent: str, *, after_s: float = 0.0) -> Child:
        return self.doing(node, parent, self.work(node, after_s))

    def doing(self, node: str, parent: str, work: Work, refused: Refused = lambda key: None) -> Child:
        child = self.make(node, refused)(self.connect, Identity(self.name, node, "device", parent))
        self.tasks[node] = [asyncio.create_task(child.session.run()), asyncio.create_task(child.follow(work))]
        return child

    def follower(
        self, node: str, parent: str, second: Second, *, after_s: float = 0.0, connect: Connect | None = None
    ) -> Parents:
        """A device with two parents. `connect` is to the first one's broker, by default the fleet's."""
        identity = Identity(self.name, node, "device", parent)
        parents = Parents(connect or self.connect, identity, self.make(node), heartbeat_s=OFTEN_S, second=second)
        self.tasks[node] = [asyncio.create_task(parents.run(self.work(node, after_s)))]
        return parents

    def make(self, node: str, refused: Refused = lambda key: None) -> MakeChild:
        objects, outbox = ObjectStore(10**7), Outbox(self.store(node), has_two_parents=True)
        trust = self.trust(node)

        def child(connect: Connect, identity: Identity) -> Child:
            return Child(connect, identity, objects, outbox, data=lambda: self.data, refused=refused, trust=trust)

        return child

    def work(self, node: str, after_s: float = 0.0) -> Work:
        async def works(assignment: Assignment) -> Delta | Decline:
            await asyncio.sleep(after_s)
            self.trained.append((node, assignment.plan.key))
            return adds_one(assignment, node)

        return works

    def gateway(self, node: str, parent: str, second: Second | None = None, *, uplink: Connect | None = None) -> Parent:
        """`uplink` is to the parent's broker, by default the fleet's."""
        objects = ObjectStore(10**7)
        outbox = Outbox(self.store(node), has_two_parents=second is not None, saves_first=True)
        below = self.parent(node, parent, objects)
        identity = Identity(self.name, node, "gateway", parent)
        trust = self.trust(node)
        relay = Relay(node, below, objects, self.store(node))

        def child(connect: Connect, identity: Identity) -> Child:
            return Child(connect, identity, objects, outbox, data=dict, trust=trust)

        parents = Parents(uplink or self.connect, identity, child, heartbeat_s=OFTEN_S, second=second)
        self.tasks[node].append(asyncio.create_task(parents.run(relay.work, rest=below.close)))
        return below

    def connect(self, caller: Caller) -> Session:
        """With a client identifier of this fleet alone: the broker is shared."""
        return Session(self._broker, replace(caller, client=f"{self.name}.{caller.client}"))

    async def kill(self, node: str) -> None:
        tasks = self.tasks.pop(node, [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def end(self) -> None:
        for node in tuple(self.tasks):
            await self.kill(node)


async def present(parent: Parent, *nodes: str) -> None:
    async with asyncio.timeout(10):
        while not set(nodes) <= parent.eligible("d"):
            await parent.news.wait(0.2)


async def hosted(parent: Parent, about: Plan, **how: object) -> RoundResult:
    async with asyncio.timeout(about.deadline_s + 5):
        return await parent.host(about, MANIFEST, **how)  # type: ignore[arg-type]


def contributors(result: RoundResult) -> set[str]:
    total = int(result.sum.totals[0][0]) if result.sum.totals else 0
    return {f"d{i}" for i in range(16) if total >> i & 1}


async def until(holds: Callable[[], bool], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 (what is looked at tells nobody)
            await asyncio.sleep(0.05)


async def received(parent: Parent, count: int) -> None:
    async with asyncio.timeout(8):
        while parent._hosted is None or parent._hosted.round.updates < count:
            await parent.news.wait(0.1)


async def died_behind_a_receipt(fleet: Fleet) -> ObjectStore:
    """Round 1 at gw has d0's delta, which was told so, and not d1's; then all three are gone. The objects outlive them."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    child = fleet.device("d0", "gw")
    fleet.device("d1", "gw", after_s=30)
    await present(parent, "d0", "d1")
    hosting = asyncio.create_task(hosted(parent, plan(1, objects)))
    await until(lambda: child._outbox.has_answered(RoundKey(run="r", round=1)))
    hosting.cancel()
    for node in ("gw", "d0", "d1"):
        await fleet.kill(node)
    return objects
