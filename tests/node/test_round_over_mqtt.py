"""A parent and its children over a real broker: what arrives, what is asked again, what is refused.

Child i has weight 2**i, so that a sum names its contributors.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiomqtt
import numpy as np
import pytest

from headwater.node import child as child_module
from headwater.node.child import Assignment, Child, Decline
from headwater.node.hosting import RoundResult
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.parent import Audience, Parent, SiteLink
from headwater.node.store import NodeStore
from headwater.schemas.messages import Bundle, Chunk, Delta, Metric, Model, Plan, RoundKey
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.statuses import DataStatus, RoundStatus
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.topics import DOWN, UP, Topics
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore, chunks
from headwater.transport.session import Session
from support import deltas
from support.deltas import manifest

TOPICS = Topics("plant")
SMALL, LARGE = 10, 300_000


async def adds_one(assignment: Assignment, node: str) -> Delta:
    return deltas.adds_one(assignment, node)


Work = Callable[[Assignment, str], Awaitable[Delta | Decline]]


@dataclass
class Bench:
    """A parent with its children, in one event loop, each with its own connection."""

    port: int
    name: str
    parent: Parent
    store: ObjectStore
    folder: Path
    told: list[RoundStatus] = field(default_factory=list)
    tasks: dict[str, list[asyncio.Task[None]]] = field(default_factory=dict)
    rounds: int = 0

    def join(self, node: str, work: Work = adds_one, adjust: Callable[[Child], None] = lambda child: None) -> Child:
        identity = Identity("plant", node, "device", self.name)
        data = {"d": DataStatus(train_examples=1, test_examples=0)}
        child = Child(
            partial(Session, BrokerSettings(port=self.port)),
            identity,
            ObjectStore(10**8),
            Outbox(NodeStore(self.folder / f"{node}.db", 10**8)),
            data=lambda: data,
        )
        adjust(child)
        self.tasks[node] = [
            asyncio.create_task(child.session.run()),
            asyncio.create_task(child.follow(lambda assignment: work(assignment, node))),
        ]
        return child

    async def present(self, *nodes: str) -> None:
        async with asyncio.timeout(10):
            while not set(nodes) <= self.parent.eligible("d"):
                await self.parent.news.wait(0.2)

    async def round(self, size: int = SMALL, *, deadline_s: float = 8.0, quorum: float = 1.0) -> RoundResult:
        self.rounds += 1
        graphs = {"train": f"train {self.name}".encode()}
        bundle = self.store.put(encode(Bundle(manifest=manifest(size), graphs=graphs)))
        weights = np.full(size, float(self.rounds), np.float32)
        model = self.store.put(encode(Model(run="r", version=self.rounds, tensors=encode_tensors([weights]))))
        plan = Plan(
            key=RoundKey(run="r", round=self.rounds),
            task="train",
            data="d",
            model=model,
            bundle=bundle,
            deadline_s=deadline_s,
            quorum=quorum,
        )
        async with asyncio.timeout(deadline_s + 5):
            return await self.parent.host(plan, manifest(size))


_COUNT = iter(range(1000))


@asynccontextmanager
async def bench(port: int, name: str = "") -> AsyncIterator[Bench]:
    name = name or f"parent{next(_COUNT)}"
    store = ObjectStore(10**8)
    told: list[RoundStatus] = []
    folder = Path(tempfile.mkdtemp(prefix="headwater-bench-"))

    async def tell(status: RoundStatus) -> None:
        told.append(status)

    parent = Parent(
        SiteLink(partial(Session, BrokerSettings(port=port)), name),
        Identity("plant", name, "gateway", None),
        store,
        NodeStore(folder / f"{name}.db", 10**8),
        Audience(tell),
    )
    bench_ = Bench(port, name, parent, store, folder, told)
    bench_.tasks["parent"] = [asyncio.create_task(parent.run())]
    try:
        await asyncio.wait_for(parent.session.wait_connected(), 10)
        yield bench_
    finally:
        tasks = [task for group in bench_.tasks.values() for task in group]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shutil.rmtree(folder)


@asynccontextmanager
async def stranger(port: int) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        yield client


def contributors(result: RoundResult) -> set[str]:
    """Read off the sum itself, not off the records."""
    total = int(result.sum.totals[0][0]) if result.sum.totals else 0
    assert total == result.sum.weight
    return {f"d{i}" for i in range(16) if total >> i & 1}


async def test_everyone_is_in_the_sum_once_round_after_round(port: int) -> None:
    async with bench(port) as b:
        nodes = [f"d{i}" for i in range(5)]
        for node in nodes:
            b.join(node)
        await b.present(*nodes)
        for _ in range(3):
            result = await b.round()
            assert result.closed
            assert contributors(result) == set(nodes)
            assert sorted(c.node for c in result.contributions) == nodes
            assert result.refused == 0
        await asyncio.sleep(0.1)
        assert [status.state for status in b.told if status.round == 3][-1] == "closed"
        assert b.told[-1].metrics == {"train/loss": 1.0}


async def test_a_model_and_a_delta_of_many_chunks_arrive_whole(port: int) -> None:
    async with bench(port) as b:
        for node in ("d0", "d1"):
            b.join(node)
        await b.present("d0", "d1")
        result = await b.round(LARGE)
        assert contributors(result) == {"d0", "d1"}
        assert (result.sum.totals[0] == 3.0).all()
        assert result.contributions[0].ref.size_bytes > 4 * 256 * 1024


async def test_a_latecomer_hears_of_the_round_and_asks_for_what_it_missed(port: int) -> None:
    async with bench(port) as b:
        b.join("d0", adds_later)
        await b.present("d0")
        hosting = asyncio.create_task(b.round(LARGE))
        await asyncio.sleep(0.5)
        b.join("d1")
        result = await hosting
        assert contributors(result) == {"d0", "d1"}


@pytest.mark.parametrize("lost", [1, 3])
async def test_lost_chunks_of_the_model_are_asked_for(port: int, lost: int) -> None:
    async with bench(port) as b:
        dropped: list[int] = []

        def lossy(child: Child) -> None:
            take = child._on_chunk

            def drop(chunk: Chunk) -> None:
                if len(dropped) < lost:
                    dropped.append(chunk.offset)
                else:
                    take(chunk)

            child._on_chunk = drop  # type: ignore[method-assign]

        b.join("d0", adjust=lossy)
        await b.present("d0")
        result = await b.round(LARGE)
        assert len(dropped) == lost
        assert contributors(result) == {"d0"}


async def test_lost_chunks_of_a_delta_are_asked_for_by_the_parent(port: int) -> None:
    async with bench(port) as b:
        dropped: list[int] = []
        take = b.parent._on_chunk

        def drop(node: str, chunk: Chunk) -> None:
            if len(dropped) < 2:
                dropped.append(chunk.offset)
            else:
                take(node, chunk)

        b.parent._on_chunk = drop  # type: ignore[method-assign]
        b.join("d0")
        await b.present("d0")
        result = await b.round(LARGE)
        assert len(dropped) == 2
        assert contributors(result) == {"d0"}


async def test_a_delta_that_vanished_is_sent_again_until_the_parent_answers(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "RESEND_AFTER_S", 0.2)
    async with bench(port) as b:
        arrivals: list[str] = []
        take = b.parent._on_chunk

        def vanish_once(node: str, chunk: Chunk) -> None:
            arrivals.append(node)
            if len(arrivals) > 1:
                take(node, chunk)

        b.parent._on_chunk = vanish_once  # type: ignore[method-assign]
        b.join("d0")
        await b.present("d0")
        result = await b.round()
        assert contributors(result) == {"d0"}
        assert len(arrivals) == 2


async def test_a_parent_that_began_anew_is_given_the_delta_again(port: int) -> None:
    async with bench(port) as b:
        b.join("d0")
        await b.present("d0")
        assert (await b.round()).closed
        for task in b.tasks.pop("parent"):
            task.cancel()
        async with bench(port, b.name) as again:
            await again.present("d0")
            result = await again.round()
            assert result.closed
            assert contributors(result) == {"d0"}


async def test_a_delta_that_comes_twice_counts_once(port: int) -> None:
    async with bench(port) as b:
        b.join("d1")
        b.join("d2", adds_later)
        await b.present("d1", "d2")
        hosting = asyncio.create_task(b.round())
        async with stranger(port) as client:
            await asyncio.sleep(0.4)
            hosted = b.parent._hosted
            assert hosted is not None
            payload = encode(
                Delta(
                    key=hosted.plan.key,
                    sender="d1",
                    task="train",
                    weight=2.0,
                    examples=2,
                    devices=1,
                    tensors=encode_tensors([np.full(SMALL, 2.0, np.float32)]),
                )
            )
            for piece in chunks(payload):
                await client.publish(TOPICS.up("d1", b.name, "delta"), encode(piece), 1)
        result = await hosting
        assert contributors(result) == {"d1", "d2"}


async def adds_later(assignment: Assignment, node: str) -> Delta:
    await asyncio.sleep(1.5)
    return await adds_one(assignment, node)


async def test_a_node_that_dies_is_not_waited_for(port: int) -> None:
    async with bench(port) as b:
        never = asyncio.Event()

        async def hangs(assignment: Assignment, node: str) -> Delta:
            await never.wait()
            return await adds_one(assignment, node)

        b.join("d0")
        b.join("d1", hangs)
        await b.present("d0", "d1")
        hosting = asyncio.create_task(b.round(quorum=0.5, deadline_s=20.0))
        await asyncio.sleep(0.5)
        for task in b.tasks["d1"]:
            task.cancel()
        result = await asyncio.wait_for(hosting, 5)
        assert contributors(result) == {"d0"}
        assert result.closed


async def test_a_child_that_declines_is_counted_and_not_waited_for(port: int) -> None:
    async with bench(port) as b:

        async def declines(assignment: Assignment, node: str) -> Decline:
            return Decline("wrong_data", "x: the model takes examples of shape [1], this device has [2]")

        b.join("d0")
        b.join("d1", declines)
        await b.present("d0", "d1")
        result = await b.round(quorum=0.5)
        assert contributors(result) == {"d0"}
        assert [(r.node, r.reason) for r in result.refusals] == [("d1", "wrong_data")]


async def test_a_superseded_round_is_given_up_for_the_next(port: int) -> None:
    async with bench(port) as b:
        given_up = asyncio.Event()

        async def hangs_in_the_first(assignment: Assignment, node: str) -> Delta:
            if assignment.plan.key.round == 1:
                try:
                    await asyncio.sleep(60)
                finally:
                    given_up.set()
            return await adds_one(assignment, node)

        b.join("d0", hangs_in_the_first)
        await b.present("d0")
        assert not (await b.round(deadline_s=0.5)).closed
        assert (await b.round()).closed
        assert given_up.is_set()


GARBAGE = {
    "empty": b"",
    "random": bytes(range(200, 256)) * 3,
    "truncated": encode(Chunk(object=next(iter(chunks(b"x"))).object, offset=0, data=b"x"))[:-1],
    "unversioned": b"\x81\xa4kind\xa5chunk",
    "json": b'{"kind": "chunk"}',
    "another kind": encode(Model(run="r", version=0, tensors=())),
}


async def test_garbage_on_every_topic_changes_nothing(port: int) -> None:
    async with bench(port) as b:
        all_is_said = asyncio.Event()

        async def waits(assignment: Assignment, node: str) -> Delta:
            await all_is_said.wait()
            return await adds_one(assignment, node)

        b.join("d0")
        b.join("d1", waits)
        await b.present("d0", "d1")
        hosting = asyncio.create_task(b.round())
        await asyncio.sleep(0.2)
        topics = [TOPICS.up("d0", b.name, leaf) for leaf in UP]
        topics += [TOPICS.inbox("d0", leaf) for leaf in ("receipt", "refusal", "want", "chunk")]
        topics += [TOPICS.down(b.name, leaf) for leaf in DOWN]
        topics += [TOPICS.status("d0"), TOPICS.up("d9", b.name, "delta"), "hw/1/plant/node/d0/up/x", "hw/1/plant"]
        async with stranger(port) as client:
            for topic in topics:
                for payload in GARBAGE.values():
                    await client.publish(topic, payload, 1)
        all_is_said.set()
        result = await hosting
        assert result.closed
        assert contributors(result) == {"d0", "d1"}
        reasons = {(r.node, r.reason) for r in result.refusals}
        assert ("d0", "malformed") in reasons
        assert ("d9", "unauthorised") in reasons


def forged(b: Bench, **changes: object) -> bytes:
    hosted = b.parent._hosted
    assert hosted is not None
    honest = {
        "key": hosted.plan.key,
        "sender": "d0",
        "task": "train",
        "weight": 1.0,
        "examples": 1,
        "devices": 1,
        "tensors": encode_tensors([np.ones(SMALL, np.float32)]),
    }
    return encode(Delta.model_validate(honest | changes))


FORGERIES = {
    "another's name": ({"sender": "d1"}, "unauthorised"),
    "another round": ({"key": RoundKey(run="r", round=0)}, "stale"),
    "another run": ({"key": RoundKey(run="x", round=1)}, "unknown_round"),
    "wrong shape": ({"tensors": encode_tensors([np.ones(SMALL + 1, np.float32)])}, "wrong_shape"),
    "NaN": ({"tensors": encode_tensors([np.full(SMALL, np.nan, np.float32)])}, "not_finite"),
    "another task": ({"task": "evaluate", "tensors": ()}, "malformed"),
    "unknown metric": (
        {"metrics": (Metric(split="test", name="bomb", total=1.0, weight=1.0),)},
        "malformed",
    ),
    "too large": ({"tensors": encode_tensors([np.ones(100_000, np.float32)])}, "oversized"),
}


async def test_what_does_not_belong_is_refused_with_its_reason(port: int) -> None:
    async with bench(port) as b:

        async def hangs(assignment: Assignment, node: str) -> Delta:
            await asyncio.sleep(3.0)
            return await adds_one(assignment, node)

        b.join("d0", hangs)
        await b.present("d0")
        hosting = asyncio.create_task(b.round())
        await asyncio.sleep(0.3)
        async with stranger(port) as client:
            for changes, _ in FORGERIES.values():
                for piece in chunks(forged(b, **changes)):
                    await client.publish(TOPICS.up("d0", b.name, "delta"), encode(piece), 1)
        result = await hosting
        assert contributors(result) == {"d0"}
        found = list(dict.fromkeys((refused.reason, refused.detail) for refused in result.refusals))
        # An oversized object is refused chunk by chunk, before any of it is kept.
        assert [reason for reason, _ in found] == [reason for _, reason in FORGERIES.values()]
