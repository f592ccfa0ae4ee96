"""Signed rounds over a real broker on which anyone may write anything: what reaches a sum, and what a child works on.

Child i has weight 2**i, so that a sum names its contributors.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headwater.node import child as child_module
from headwater.node import parent as parent_module
from headwater.node import trusting
from headwater.node.envelope import opened
from headwater.node.hosting import RoundResult
from headwater.schemas.messages import Announcement, Chunk, RoundKey, Signed
from headwater.schemas.topics import Topics
from headwater.schemas.wire import decode, encode, is_signed
from headwater.transport.objects import ObjectStore, chunks
from headwater.transport.session import Caller, Session
from support.fleets import Fleet, contributors, died_behind_a_receipt, hosted, plan, present, received, until
from support.pki import Pki


@pytest.fixture
def signed(fleet: Fleet) -> Fleet:
    """A fleet in which everyone has a certificate."""
    fleet.pki = Pki(fleet.name)
    return fleet


class Eavesdropper:
    """Who has the broker: hears all, and says what it likes."""

    def __init__(self, fleet: Fleet) -> None:
        self.topics = Topics(fleet.name)
        self.heard: list[tuple[str, bytes]] = []

        async def nothing() -> None:
            return None

        self.session: Session = fleet.connect(
            Caller(
                fleet=fleet.name,
                node="eve",
                client="eve",
                filters=(f"hw/1/{fleet.name}/#",),
                on_message=lambda topic, payload, retained: self.heard.append((topic, payload)),
                on_connect=nothing,
            )
        )

    def of(self, topic: str) -> list[bytes]:
        return [payload for where, payload in self.heard if where == topic]

    async def once_heard(self, topic: str) -> list[bytes]:
        """What was said there, as soon as that is something."""
        await until(lambda: bool(self.of(topic)))
        return self.of(topic)

    async def says(self, topic: str, *payloads: bytes, retain: bool = False) -> None:
        for payload in payloads:
            await self.session.publish(topic, payload, retain=retain)


@asynccontextmanager
async def eavesdropping(fleet: Fleet) -> AsyncIterator[Eavesdropper]:
    eve = Eavesdropper(fleet)
    running = asyncio.create_task(eve.session.run())
    try:
        await eve.session.wait_connected()
        yield eve
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def refused(result: RoundResult, node: str) -> set[tuple[str, str]]:
    return {(refusal.reason, refusal.detail) for refusal in result.refusals if refusal.node == node}


@pytest.mark.parametrize("aside", [False, True], ids=["at once", "in threads"])
async def test_a_tree_learns_and_all_that_counts_is_signed(
    signed: Fleet, monkeypatch: pytest.MonkeyPatch, aside: bool
) -> None:
    if aside:
        monkeypatch.setattr(child_module, "SEAL_ASIDE_BYTES", 0)
        monkeypatch.setattr(parent_module, "READ_ASIDE_BYTES", 0)
    objects = ObjectStore(10**7)
    async with eavesdropping(signed) as eve:
        cloud = signed.parent("cloud", objects=objects)
        gateway = signed.gateway("gw", "cloud")
        for node in ("d0", "d1"):
            signed.device(node, "gw")
        signed.device("d2", "cloud")
        await present(gateway, "d0", "d1")
        await present(cloud, "gw", "d2")
        for round_ in (1, 2):
            assert contributors(await hosted(cloud, plan(round_, objects))) == {"d0", "d1", "d2"}
        for parent in ("cloud", "gw"):
            words = await eve.once_heard(eve.topics.down(parent, "announcement"))
            assert all(is_signed(word) for word in words)
        for node, parent in (("d0", "gw"), ("gw", "cloud"), ("d2", "cloud")):
            pieces = await eve.once_heard(eve.topics.up(node, parent, "delta"))
            assert {decode(decode(chunk, Chunk).data, Signed).sender for chunk in pieces} == {node}


async def test_a_child_that_signs_nothing_is_not_asked_not_counted_and_told_why(signed: Fleet) -> None:
    signed.without.add("d1")
    told: list[RoundKey] = []
    objects = ObjectStore(10**7)
    parent = signed.parent("gw", objects=objects)
    signed.device("d0", "gw", after_s=1.0)
    signed.doing("d1", "gw", signed.work("d1"), told.append)
    await present(parent, "d0")
    await until(lambda: "d1" in parent.members)
    result = await hosted(parent, plan(1, objects))
    assert contributors(result) == {"d0"}
    ((reason, detail),) = refused(result, "d1")
    assert (reason, "give the sender trust settings" in detail) == ("unauthorised", True)
    assert told == [RoundKey(run="r", round=1)]


async def test_a_parent_that_signs_nothing_hears_why_its_child_does_not_follow(signed: Fleet) -> None:
    signed.without.add("gw")
    objects = ObjectStore(10**7)
    parent = signed.parent("gw", objects=objects)
    signed.without.add("d0")
    signed.device("d0", "gw", after_s=1.0)
    signed.device("d1", "gw")
    await present(parent, "d0", "d1")
    result = await hosted(parent, plan(1, objects, quorum=0.5, deadline_s=2.0))
    assert contributors(result) == {"d0"}
    ((reason, detail),) = refused(result, "d1")
    assert (reason, detail) == (
        "unauthorised",
        "announcement of gw: is not signed, and its receiver takes none such; give the sender trust settings",
    )
    assert [node for node, _ in signed.trained] == ["d0"]


async def replays_to_another_parent(fleet: Fleet) -> RoundResult:
    """What d0 gave to gw is carried to gw2, in the same round, where d0 is known from better days."""
    objects = ObjectStore(10**7)
    one, two = fleet.parent("gw", objects=objects), fleet.parent("gw2", objects=objects)
    async with eavesdropping(fleet) as eve:
        fleet.device("d0", "gw2")
        fleet.device("d1", "gw2", after_s=2.0)
        await present(two, "d0", "d1")
        birth = (await eve.once_heard(eve.topics.status("d0")))[-1]
        await fleet.kill("d0")
        fleet.device("d0", "gw")
        await present(one, "d0")
        assert contributors(await hosted(one, plan(1, objects))) == {"d0"}
        await eve.says(eve.topics.status("d0"), birth)
        await present(two, "d0", "d1")
        hosting = asyncio.create_task(hosted(two, plan(1, objects, quorum=0.5, deadline_s=4.0)))
        await until(lambda: two._hosted is not None)
        await eve.says(eve.topics.up("d0", "gw2", "delta"), *await eve.once_heard(eve.topics.up("d0", "gw", "delta")))
        return await hosting


async def replays_in_the_next_round(fleet: Fleet) -> RoundResult:
    """What d0 gave to round 1 is said again in round 2, while d0 is slow."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    async with eavesdropping(fleet) as eve:
        fleet.device("d0", "gw", after_s=1.0)
        fleet.device("d1", "gw", after_s=1.5)
        await present(parent, "d0", "d1")
        await hosted(parent, plan(1, objects))
        topic = eve.topics.up("d0", "gw", "delta")
        recorded = await eve.once_heard(topic)
        hosting = asyncio.create_task(hosted(parent, plan(2, objects)))
        await until(lambda: parent._hosted is not None and parent._hosted.plan.key.round == 2)
        await eve.says(topic, *recorded)
        return await hosting


async def says_it_is_d0(fleet: Fleet) -> RoundResult:
    """A delta of eve's own making, where d0 is slow."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    async with eavesdropping(fleet) as eve:
        fleet.device("d0", "gw", after_s=60.0)
        fleet.device("d1", "gw", after_s=1.0)
        await present(parent, "d0", "d1")
        hosting = asyncio.create_task(hosted(parent, plan(1, objects, quorum=0.5, deadline_s=2.5)))
        await received(parent, 1)
        (mine,) = {decode(chunk, Chunk).data for chunk in await eve.once_heard(eve.topics.up("d1", "gw", "delta"))}
        delta = opened(mine).replace(b"\xa6sender\xa2d1", b"\xa6sender\xa2d0")
        assert delta != opened(mine)
        await eve.says(eve.topics.up("d0", "gw", "delta"), *(encode(chunk) for chunk in chunks(delta)))
        return await hosting


async def test_a_delta_is_not_carried_to_another_parent(signed: Fleet) -> None:
    result = await replays_to_another_parent(signed)
    assert contributors(result) == {"d1"}
    assert ("unauthorised", "delta: signed for gw, not for gw2") in refused(result, "d0")


async def test_a_delta_does_not_count_in_the_next_round(signed: Fleet) -> None:
    result = await replays_in_the_next_round(signed)
    assert contributors(result) == {"d0", "d1"}
    assert {reason for reason, _ in refused(result, "d0")} == {"stale"}


async def test_nobody_says_anything_for_a_child(signed: Fleet) -> None:
    result = await says_it_is_d0(signed)
    assert contributors(result) == {"d1"}
    assert {reason for reason, _ in refused(result, "d0")} == {"unauthorised"}


async def test_a_parent_that_does_not_check_is_caught(signed: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted hole: what the stories above find when a parent opens a delta without a look at its signature."""
    monkeypatch.setattr(trusting.Proof, "opened", lambda self, payload: opened(payload))
    result = await says_it_is_d0(signed)
    assert {given.node for given in result.contributions} == {"d0", "d1"}


async def test_a_parent_that_does_not_look_for_whom_a_delta_is_would_count_it_twice(
    signed: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another: the signature is good, and that was all that was asked."""
    monkeypatch.setattr(trusting, "judge_delta", lambda signed, node, parent: None)
    assert contributors(await replays_to_another_parent(signed)) >= {"d0"}


async def replays_an_old_plan(fleet: Fleet) -> list[tuple[str, RoundKey]]:
    """What a rebooted d0 works on when the broker's retained word is one that it has followed long ago."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    async with eavesdropping(fleet) as eve:
        fleet.device("d0", "gw")
        await present(parent, "d0")
        for round_ in (1, 2):
            await hosted(parent, plan(round_, objects))
        topic = eve.topics.down("gw", "announcement")
        old = next(word for word in await eve.once_heard(topic) if _plans(word, 1))
        await fleet.kill("gw")
        await fleet.kill("d0")
        await eve.says(topic, old, retain=True)
        fleet.trained.clear()
        # Its disk remembers one delta that was answered, that of round 2: round 1 it would do again.
        child = fleet.device("d0", "gw")
        await until(lambda: child.heard_at is not None or child.session.connected)
        await asyncio.sleep(1.0)
        return fleet.trained


def _plans(word: bytes, round_: int) -> bool:
    announced = decode(opened(word), Announcement)
    return announced.plan is not None and announced.plan.key.round == round_


async def test_an_old_plan_is_not_followed_again(signed: Fleet) -> None:
    assert await replays_an_old_plan(signed) == []


async def test_a_child_that_takes_any_word_is_caught(signed: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted hole: a child that does not count its parent's words. The models are still in its store."""
    monkeypatch.setattr(
        trusting, "judge_announcement", lambda signed, parent, newest: trusting.Word(signed.epoch, signed.number)
    )
    monkeypatch.setattr(child_module.Child, "_gather", _gathered)
    followed: list[RoundKey] = []
    monkeypatch.setattr(child_module.Child, "_open", lambda self, ref, kind: followed.append(ref))
    await replays_an_old_plan(signed)
    assert followed


async def _gathered(self: object, plan: object) -> bool:
    return True


async def test_what_was_acknowledged_counts_though_its_certificate_ended_meanwhile(signed: Fleet) -> None:
    objects = await died_behind_a_receipt(signed)
    assert signed.pki is not None
    trust = signed.pki.trust
    signed.pki.trust = lambda node, words=None: trust(node, words, revoked=("d0",))  # type: ignore[method-assign]
    again = signed.parent("gw", objects=objects)
    signed.device("d2", "gw")
    await present(again, "d2")
    result = await hosted(again, plan(1, objects))
    assert contributors(result) == {"d0", "d2"}


async def test_who_puts_an_old_word_into_the_brokers_memory_is_outdone(signed: Fleet) -> None:
    """A rebooted child finds it there, says so, and hears the newest from its parent."""
    objects = ObjectStore(10**7)
    parent = signed.parent("gw", objects=objects)
    async with eavesdropping(signed) as eve:
        signed.device("d0", "gw")
        await present(parent, "d0")
        await hosted(parent, plan(1, objects))
        topic = eve.topics.down("gw", "announcement")
        old = next(word for word in await eve.once_heard(topic) if _plans(word, 1))
        hosting = asyncio.create_task(hosted(parent, plan(2, objects, quorum=1.0)))
        await until(lambda: _plans(eve.of(topic)[-1], 2))
        await hosting
        await signed.kill("d0")
        await eve.says(topic, old, retain=True)
        hosting = asyncio.create_task(hosted(parent, plan(3, objects, quorum=1.0)))
        await until(lambda: _plans(eve.of(topic)[-1], 3))
        await eve.says(topic, old, retain=True)
        signed.device("d0", "gw")
        assert contributors(await hosting) == {"d0"}
