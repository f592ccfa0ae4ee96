"""The virtual loop, broker and connection: what each promises, and what a node may rely on no more than with MQTT."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from headwater.testbed.virtual.broker import MAX_QUEUED, Broker
from headwater.testbed.virtual.connection import VirtualConnection
from headwater.testbed.virtual.links import Links, down_lane
from headwater.testbed.virtual.loop import Deadlock, Spinning, VirtualLoop, run_virtually
from headwater.transport.session import Caller, LinkDown, Publication

# ── the loop ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_day_passes_at_once_and_in_order() -> None:
    woke: list[tuple[float, str]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woke.append((asyncio.get_running_loop().time(), name))

    async def main() -> None:
        await asyncio.gather(sleeper("late", 86_400.0), sleeper("early", 0.5), sleeper("middle", 3600.0))

    run_virtually(main)
    assert woke == [(0.5, "early"), (3600.0, "middle"), (86_400.0, "late")]


def test_a_thread_is_a_call_after_a_latency_and_goes_on_when_nobody_waits() -> None:
    ran: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(lambda: 7) == 7
        assert loop.time() == 2.0
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        unheard = asyncio.create_task(asyncio.to_thread(lambda: ran.append(loop.time())))
        await asyncio.sleep(1.0)
        unheard.cancel()
        await asyncio.sleep(2.0)

    run_virtually(main, VirtualLoop(thread_latency_s=lambda: 2.0))
    assert ran == [6.0]


def test_a_wait_that_nothing_can_end_is_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="somebody waits"):
        run_virtually(main)


def test_who_spins_is_told_so() -> None:
    async def busy() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    async def forever() -> None:
        for _ in itertools.count():
            await asyncio.sleep(1.0)

    with pytest.raises(Spinning, match="without time passing"):
        run_virtually(busy)
    with pytest.raises(Spinning, match="not at its end by 100 s"):
        run_virtually(forever, VirtualLoop(until_s=100.0))


# ── the broker, through connections ─────────────────────────────────────────────────────────────────────────────


@dataclass
class Party:
    """A client and what it heard: (time, topic, payload, retained)."""

    connection: VirtualConnection
    task: asyncio.Task[None]
    heard: list[tuple[float, str, bytes, bool]] = field(default_factory=list)
    births: list[float] = field(default_factory=list)

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload, _ in self.heard]


@dataclass
class Site:
    broker: Broker
    links: Links = field(default_factory=Links)

    async def join(self, client: str, *filters: str, will: bytes | None = None) -> Party:
        party: Party
        loop = asyncio.get_running_loop()

        async def born() -> None:
            party.births.append(loop.time())

        def hear(topic: str, payload: bytes, retained: bool) -> None:
            if not topic.endswith("/echo"):
                party.heard.append((loop.time(), topic, payload, retained))

        last = Publication(f"t/{client}/status", will, retain=True) if will else None
        caller = Caller("plant", client, client, filters, hear, born, last)
        connection = VirtualConnection(self.broker, caller, Random(client), self.links)
        party = Party(connection, asyncio.create_task(connection.run()))
        await connection.wait_connected()
        return party


def at_site(scene: Callable[[Site], Awaitable[None]], links: Links | None = None, **broker: Any) -> None:
    async def main() -> None:
        await scene(Site(Broker("site", asyncio.get_running_loop(), Random(1), **broker), links or Links()))

    run_virtually(main)


def test_filters_retained_messages_and_order_within_a_topic() -> None:
    async def scene(site: Site) -> None:
        sender = await site.join("s")
        await sender.connection.publish("t/x/a", b"kept", retain=True)
        one = await site.join("one", "t/+/a")
        every = await site.join("every", "t/#", "t/+/a")
        for number in range(50):
            await sender.connection.publish("t/y/b", b"%d" % number)
        await sender.connection.publish("t/y/a", b"new", retain=True)
        await asyncio.sleep(1.0)
        assert [(p, r) for _, _, p, r in one.heard] == [(b"kept", True), (b"new", False)]
        assert every.payloads == [b"kept", *(b"%d" % number for number in range(50)), b"new"]

    at_site(scene)


def test_a_will_is_published_when_a_client_dies_and_not_when_it_leaves() -> None:
    async def scene(site: Site) -> None:
        watcher = await site.join("w", "t/+/status")
        killed = await site.join("killed", will=b"killed died")
        dark = await site.join("dark", will=b"dark died")
        orderly = await site.join("orderly", will=b"orderly left")
        began = asyncio.get_running_loop().time()
        killed.connection.die(noticed_after_s=0.0)
        dark.connection.die()
        orderly.task.cancel()
        await asyncio.sleep(100.0)
        assert sorted(watcher.payloads) == [b"dark died", b"killed died", b"orderly left"]
        times = {payload: at - began for at, _, payload, _ in watcher.heard}
        assert times[b"killed died"] < 0.1
        assert 15.0 <= times[b"dark died"] < 15.1

    at_site(scene, keepalive_s=10.0)


def test_a_name_that_connects_again_takes_over_and_its_old_will_comes_before_its_birth() -> None:
    async def scene(site: Site) -> None:
        watcher = await site.join("w", "t/+/status")
        first = await site.join("n", will=b"died")
        second = await site.join("n", will=b"died again")
        await second.connection.publish("t/n/status", b"born")
        await asyncio.sleep(0.1)
        assert watcher.payloads == [b"died", b"born"]
        assert not first.connection.connected

    at_site(scene)


def test_a_short_stall_delays_and_a_long_one_ends_the_connection() -> None:
    async def scene(site: Site) -> None:
        sender, hearer = await site.join("s"), await site.join("h", "t/a", will=b"died")
        site.broker.cut("h", 3.0)
        for number in range(5):
            await sender.connection.publish("t/a", b"%d" % number)
        await asyncio.sleep(2.9)
        assert hearer.payloads == []
        await asyncio.sleep(0.2)
        assert hearer.payloads == [b"0", b"1", b"2", b"3", b"4"]
        assert len(hearer.births) == 1
        site.broker.cut("h", 60.0)
        await sender.connection.publish("t/a", b"lost")
        await asyncio.sleep(55.0)
        assert not hearer.connection.connected
        with pytest.raises(LinkDown):
            await hearer.connection.publish("t/a", b"")
        await asyncio.sleep(15.0)
        await sender.connection.publish("t/a", b"again")
        await asyncio.sleep(1.0)
        assert hearer.payloads[5:] == [b"again"]
        assert len(hearer.births) == 2

    at_site(scene, keepalive_s=10.0)


def test_a_publish_over_a_stalled_link_ends_in_link_down_and_may_have_arrived() -> None:
    async def scene(site: Site) -> None:
        sender, hearer = await site.join("s"), await site.join("h", "t/a")
        publishing = asyncio.create_task(sender.connection.publish("t/a", b"x"))
        await asyncio.sleep(0.0005)
        site.broker.reset("s")
        with pytest.raises(LinkDown):
            await publishing
        await asyncio.sleep(1.0)
        site.broker.cut("s", 25.0)
        with pytest.raises(LinkDown, match="no answer within 20 s"):
            await sender.connection.publish("t/a", b"y")
        await asyncio.sleep(10.0)
        assert hearer.payloads == [b"y"]

    at_site(scene, keepalive_s=100.0)


@pytest.mark.parametrize(("persistent", "left"), [(False, []), (True, [b"kept"])])
def test_a_restart_breaks_every_connection_without_wills_and_forgets(persistent: bool, left: list[bytes]) -> None:
    async def scene(site: Site) -> None:
        sender = await site.join("s", will=b"died")
        watcher = await site.join("w", "t/#")
        await sender.connection.publish("t/a", b"kept", retain=True)
        await asyncio.sleep(0.1)
        watcher.heard.clear()
        site.broker.stop()
        await asyncio.sleep(10.0)
        assert not sender.connection.connected
        site.broker.start()
        await asyncio.sleep(10.0)
        assert watcher.payloads == left
        assert len(sender.births) == 2

    at_site(scene, persistent=persistent)


def test_duplicates_losses_and_full_queues() -> None:
    async def scene(site: Site) -> None:
        sender, hearer = await site.join("s"), await site.join("h", "t/#")
        for _ in range(100):
            await sender.connection.publish("t/a", b"1")
            await sender.connection.publish("t/a", b"0", qos=0)
        await asyncio.sleep(1.0)
        assert 110 < hearer.payloads.count(b"1") < 190
        assert 20 < hearer.payloads.count(b"0") < 80
        site.broker.cut("h", 30.0)
        before = len(hearer.heard)
        for _ in range(MAX_QUEUED):
            await sender.connection.publish("t/a", b"1")
        await asyncio.sleep(60.0)
        assert len(hearer.heard) - before == MAX_QUEUED

    at_site(scene, Links(duplicates=0.5, losses=0.5), keepalive_s=1000.0)


def test_bytes_take_their_time_on_a_link_with_a_rate() -> None:
    async def scene(site: Site) -> None:
        sender, hearer = await site.join("s"), await site.join("h", "t/a")
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(sender.connection.publish("t/a", bytes(1000)) for _ in range(3)))
        await asyncio.sleep(10.0)
        # Up at 1000 bytes a second, one after the other, and down twice as fast.
        assert [round(at - began, 1) for at, _, _, _ in hearer.heard] == [1.5, 2.5, 3.5]
        assert (site.broker.bytes.received, site.broker.bytes.sent) == (3008, 3000)

    at_site(scene, Links(latency_s=0.0, jitter_s=0.0, up_bytes_s=1000.0, down_bytes_s=2000.0))


def test_topics_may_overtake_each_other_where_that_is_asked_for_and_a_topic_never_itself() -> None:
    rng = Random(3)
    lane = down_lane(Links(latency_s=0.0, jitter_s=1.0, reorders=True))
    arrivals = [(topic, number, lane.arrival(number * 0.01, topic, 1, rng)) for number in range(50) for topic in "ab"]
    by_arrival = sorted(arrivals, key=lambda arrival: arrival[2])
    assert [(topic, number) for topic, number, _ in by_arrival] != [(topic, number) for topic, number, _ in arrivals]
    for one in "ab":
        assert [number for topic, number, _ in by_arrival if topic == one] == list(range(50))
