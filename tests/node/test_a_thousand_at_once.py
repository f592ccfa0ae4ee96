"""A thousand children finish in the same instant, over a link that takes ten megabytes a second, on virtual time.

Their deltas are five times what their parent lets be under way: with offers everyone gets a turn, and what waits in the
broker stays within that bound; without, it does not.
"""

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from headwater.node import child as child_module
from headwater.node import parent as parent_module
from headwater.node.child import Assignment, Child
from headwater.node.hosting import RoundResult
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.parent import IN_FLIGHT_BYTES, Audience, Parent, SiteLink
from headwater.node.store import NodeStore
from headwater.schemas.messages import Bundle, Delta, Model, Plan, RoundKey
from headwater.schemas.statuses import DataStatus, RoundStatus
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode
from headwater.testbed.virtual.broker import Broker, Happening
from headwater.testbed.virtual.connection import VirtualConnection
from headwater.testbed.virtual.links import Links
from headwater.testbed.virtual.loop import run_virtually
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect, Publication
from support.deltas import manifest

CHILDREN, SIZE = 1000, 20_000
MANIFEST = manifest(SIZE)
ONES = encode_tensors([np.ones(SIZE, np.float32)])
PARENTS_LINK = Links(latency_s=0.002, jitter_s=0.001, down_bytes_s=10e6, up_bytes_s=10e6)


@pytest.fixture(autouse=True)
def _without_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand files on one disk are no thousand devices."""
    monkeypatch.setattr(child_module, "SAVE_AFTER_S", 1e6)


@dataclass
class Seen:
    sent: int = 0
    waiting_bytes: int = 0
    most_waiting_bytes: int = 0

    def __call__(self, happening: Happening, client: str, publication: Publication | None) -> None:
        if publication is None or not publication.topic.endswith("/delta"):
            return
        size = len(publication.payload)
        match happening:
            case "published":
                self.sent += 1
                self.waiting_bytes += size
            case "delivered" | "dropped":
                self.waiting_bytes -= size
        self.most_waiting_bytes = max(self.most_waiting_bytes, self.waiting_bytes)


async def one_round(folder: Path, seen: Seen, deadline_s: float = 60.0) -> RoundResult:
    rng = random.Random(7)
    broker = Broker("site", asyncio.get_running_loop(), rng, observe=seen)

    def connect(links: Links) -> Connect:
        return lambda caller: VirtualConnection(broker, caller, rng, links)

    async def tell(_: RoundStatus) -> None:
        return None

    async def work(assignment: Assignment, node: str) -> Delta:
        return Delta(
            key=assignment.plan.key, sender=node, task="train", weight=1.0, examples=1, devices=1, tensors=ONES
        )

    objects, journal = ObjectStore(10**8), NodeStore(folder / "gw.db", 10**9)
    parent = Parent(
        SiteLink(connect(PARENTS_LINK), "gw"),
        Identity("plant", "gw", "gateway", None, boot="gw"),
        objects,
        journal,
        Audience(tell),
    )
    tasks = [asyncio.create_task(parent.run())]
    data = {"d": DataStatus(train_examples=1, test_examples=0)}
    for i in range(CHILDREN):
        node = f"d{i}"
        outbox = Outbox(NodeStore(folder / f"{node}.db", 10**7))
        identity = Identity("plant", node, "device", "gw", boot=node)
        child = Child(connect(Links()), identity, ObjectStore(10**6), outbox, data=lambda: data)
        tasks += [
            asyncio.create_task(child.session.run()),
            asyncio.create_task(child.follow(lambda assignment, node=node: work(assignment, node))),
        ]
    while len(parent.eligible("d")) < CHILDREN:
        await parent.news.wait(1.0)
    plan = Plan(
        key=RoundKey(run="r", round=1),
        task="train",
        data="d",
        model=objects.put(encode(Model(run="r", version=0, tensors=ONES))),
        bundle=objects.put(encode(Bundle(manifest=MANIFEST, graphs={"train": b"none"}))),
        deadline_s=deadline_s,
        quorum=1.0,
    )
    result = await parent.host(plan, MANIFEST)
    await parent.close()
    await asyncio.sleep(30)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return result


def test_a_thousand_that_finish_at_once_take_turns(tmp_path: Path) -> None:
    seen = Seen()
    result = run_virtually(lambda: one_round(tmp_path, seen))
    assert (result.closed, len(result.contributions), result.sum.weight) == (True, CHILDREN, CHILDREN)
    # A few are lost beside the thousand offers, which fill the broker's queue; they are asked for again.
    assert seen.sent <= 1.05 * CHILDREN
    assert seen.most_waiting_bytes <= 1.1 * IN_FLIGHT_BYTES


def test_without_turns_the_brokers_queue_runs_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the offers are for: the same fleet, all sending at once."""
    monkeypatch.setattr(parent_module, "OFFERS_BEYOND_BYTES", 2**40)
    seen = Seen()
    run_virtually(lambda: one_round(tmp_path, seen, deadline_s=0.5))
    assert seen.most_waiting_bytes > 3 * IN_FLIGHT_BYTES
