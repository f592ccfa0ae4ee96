"""A child that no broker hears: what it has kept by the time that it does the next thing."""

import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.node.child import Assignment, Child
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.patching import patched
from headwater.node.store import NodeStore
from headwater.schemas.messages import Announcement, Delta, Patch, PatchRef, Plan, Receipt, Refusal, RoundKey
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Session
from support.deltas import adds_one
from support.fleets import plan, until

FIRST, SECOND = RoundKey(run="r", round=1), RoundKey(run="r", round=2)


@pytest.mark.parametrize("cohort", [None, ("another",)])
async def test_a_delta_that_still_counts_is_on_disk_before_the_next_word_below(
    tmp_path: Path, cohort: tuple[str, ...] | None
) -> None:
    """A gateway whose next round, or whose rest, tells its cluster that the last is over must not lose that one's sum.

    The next plan is for this node, or for others.
    """
    store, objects = NodeStore(tmp_path / "gw.db", 10**6), ObjectStore(10**6)
    outbox = Outbox(store)
    identity = Identity("plant", "gw", "gateway", "cloud")
    child = Child(partial(Session, BrokerSettings()), identity, objects, outbox, data=dict)
    on_disk: list[list[RoundKey]] = []

    def look() -> None:
        on_disk.append([key for key, _ in store.outgoing()])

    async def work(assignment: Assignment) -> Delta:
        look()
        ones = encode_tensors([np.ones(4, np.float32)])
        return Delta(
            key=assignment.plan.key, sender="gw", task="train", weight=1.0, examples=1, devices=1, tensors=ones
        )

    async def rest() -> None:
        look()

    def hear(round_: int, whom: tuple[str, ...] | None) -> None:
        announced = Announcement(parent="cloud", plan=plan(round_, objects, max_staleness=2), cohort=whom)
        child._on_message(Topics("plant").down("cloud", "announcement"), encode(announced), False)

    following = asyncio.create_task(child.follow(work, rest))
    hear(FIRST.round, None)
    await until(lambda: outbox.holds(FIRST))
    hear(SECOND.round, cohort)
    await until(lambda: len(on_disk) == 2)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert on_disk == [[], [FIRST]]


async def test_who_works_on_a_plan_that_is_superseded_hears_that_nothing_of_it_was_taken(tmp_path: Path) -> None:
    """It may have written down already what is so once the delta is taken."""
    objects, refused, begun = ObjectStore(10**6), list[RoundKey](), list[RoundKey]()
    outbox = Outbox(NodeStore(tmp_path / "d0.db", 10**6))
    identity = Identity("plant", "d0", "device", "gw")
    child = Child(partial(Session, BrokerSettings()), identity, objects, outbox, data=dict, refused=refused.append)

    async def work(assignment: Assignment) -> Delta:
        begun.append(assignment.plan.key)
        await asyncio.sleep(0 if assignment.plan.key == SECOND else 60)
        return adds_one(assignment, "d0")

    following = asyncio.create_task(child.follow(work))
    for key in (FIRST, SECOND):
        announced = Announcement(parent="gw", plan=plan(key.round, objects))
        child._on_message(Topics("plant").down("gw", "announcement"), encode(announced), False)
        await until(lambda key=key: begun[-1:] == [key])
    await until(lambda: outbox.holds(SECOND))
    assert refused == [FIRST]
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def test_who_made_a_delta_hears_when_it_was_not_taken(tmp_path: Path) -> None:
    """Of one that was refused; of one that never was on its way; of one that came too late; and of no other."""
    objects, refused = ObjectStore(10**6), []
    outbox = Outbox(NodeStore(tmp_path / "d0.db", 10**6))
    identity = Identity("plant", "d0", "device", "gw")
    child = Child(partial(Session, BrokerSettings()), identity, objects, outbox, data=dict, refused=refused.append)

    async def work(assignment: Assignment) -> Delta:
        return adds_one(assignment, "d0")

    def hear(message: Announcement | Receipt | Refusal, leaf: str) -> None:
        topic = Topics("plant").inbox("d0", leaf) if leaf != "announcement" else Topics("plant").down("gw", leaf)
        child._on_message(topic, encode(message), False)

    def announce(round_: int) -> RoundKey:
        about = plan(round_, objects)
        hear(Announcement(parent="gw", plan=about), "announcement")
        return about.key

    following = asyncio.create_task(child.follow(work))
    keys = []
    for round_ in (1, 2, 3, 4, 5):
        keys.append(announce(round_))
        await until(lambda: outbox.holds(keys[-1]))
        entry = outbox.next_for("gw")
        assert entry is not None
        match round_:
            case 1:
                hear(Receipt(key=entry.key, sender="gw"), "receipt")
            case 2:
                hear(Refusal(key=entry.key, sender="gw", reason="not_finite"), "refusal")
            case 3:
                # Nothing answers it: a quick round closes without a receipt.
                entry.sent = True
            case 5:
                entry.sent = True
                announce(6)
                hear(Refusal(key=entry.key, sender="gw", reason="stale"), "refusal")
    assert refused == [keys[1], keys[3], keys[4]]
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def test_a_patch_of_no_use_takes_nothing_from_the_next_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is tried the next plan is announced: what is fetched then is that one's model, not the last one's."""
    objects, loop = ObjectStore(10**6), asyncio.get_running_loop()
    outbox = Outbox(NodeStore(tmp_path / "d0.db", 10**6))
    child = Child(
        partial(Session, BrokerSettings()), Identity("plant", "d0", "device", "gw"), objects, outbox, data=dict
    )
    first, elsewhere = plan(1, objects), ObjectStore(10**6)
    useless = Patch(run="r", version=1, update=b"no update")
    led = PatchRef(base=first.model, patch=objects.put(encode(useless)), codec="int8")
    second, third = plan(2, elsewhere, patch=led), plan(3, elsewhere)

    def hear(about: Plan) -> None:
        announced = Announcement(parent="gw", plan=about)
        child._on_message(Topics("plant").down("gw", "announcement"), encode(announced), False)

    def meanwhile(*arguments: Any) -> bytes:
        loop.call_soon_threadsafe(hear, third)
        return patched(*arguments)

    monkeypatch.setattr("headwater.node.child.patched", meanwhile)
    hear(second)
    assert not await asyncio.wait_for(child._gather(second), 5)
    assert set(child._assemblies) == {third.model.sha256}
