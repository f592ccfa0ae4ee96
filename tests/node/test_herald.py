"""Events reach who listens, in order; behind a link that is down they wait, and never without a bound."""

import asyncio

import pytest

from headwater.node import herald as herald_module
from headwater.node.herald import MAX_WAITING, Herald
from headwater.node.identity import Identity
from headwater.node.observing import Came
from headwater.schemas.statuses import Event
from headwater.schemas.wire import decode_status
from headwater.transport.session import LinkDown
from support.fleets import until

IDENTITY = Identity("plant", "gw1", "gateway", "cloud")


class Outlet:
    """A broker that may be away."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.is_up = True

    async def publish(self, topic: str, payload: bytes) -> None:
        assert topic == "hw/1/plant/rounds/event/gw1"
        if not self.is_up:
            raise LinkDown("away")
        self.heard.append(decode_status(payload, Event))

    @property
    def nodes(self) -> list[str | None]:
        return [event.data.node for event in self.heard]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herald_module, "RETRY_AFTER_S", 0.01)


async def test_each_outlet_hears_in_order_what_it_missed_while_another_did_not_wait(at_once: None) -> None:
    above, site = Outlet(), Outlet()
    above.is_up = False
    herald = Herald(IDENTITY)
    task = asyncio.create_task(herald.run(above.publish, site.publish))
    await asyncio.sleep(0)
    for node in ("d1", "d2", "d3"):
        herald.saw(Came(node))
    await until(lambda: site.nodes == ["d1", "d2", "d3"])
    assert above.heard == []
    above.is_up = True
    await until(lambda: above.nodes == ["d1", "d2", "d3"])
    assert [event.id for event in above.heard] == [event.id for event in site.heard]
    task.cancel()


async def test_what_waits_is_bounded_and_the_newest_stay(
    at_once: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("headwater.node.events.MAX_A_SECOND", 10**6)
    outlet = Outlet()
    outlet.is_up = False
    herald = Herald(IDENTITY)
    task = asyncio.create_task(herald.run(outlet.publish))
    await asyncio.sleep(0)
    for number in range(MAX_WAITING + 5):
        herald.saw(Came(f"d{number}"))
    outlet.is_up = True
    await until(lambda: len(outlet.heard) == MAX_WAITING)
    assert outlet.nodes == [f"d{number}" for number in range(5, MAX_WAITING + 5)]
    assert "5 events made room" in caplog.text
    task.cancel()


async def test_a_flood_ends_with_its_number_though_nothing_more_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herald_module, "WINDOW_S", 0.05)
    monkeypatch.setattr("headwater.node.events.WINDOW_S", 0.05)
    outlet = Outlet()
    herald = Herald(IDENTITY)
    task = asyncio.create_task(herald.run(outlet.publish))
    await asyncio.sleep(0)
    for _ in range(15):
        herald.saw(Came("d1"))
    await until(lambda: "5 more of this kind" in [event.data.detail for event in outlet.heard])
    task.cancel()
