"""A gateway hands a release on when it has the wheel, and not before; and tells how far its cluster is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headwater.gateway import releasing
from headwater.node.child import Assignment, Child, Decline
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.releases import Software
from headwater.node.store import NodeStore
from headwater.schemas.messages import Delta, Rollout
from headwater.schemas.statuses import RolloutStatus, UpdateStatus
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore, chunks
from support.brokers import broker
from support.fleets import Fleet
from support.wheels import release, small

WHEEL = small(files={"headwater/large": bytes(600_000)})
RELEASE = release(WHEEL)


def word(**whom: object) -> Rollout:
    return Rollout.model_validate({"release": encode(RELEASE), "signature": bytes(64), "share": 1.0} | whom)


@dataclass
class Site:
    """A gateway's two sides by hand, and a device below it, over a real broker."""

    above: Software = field(default_factory=Software)
    below: Software = field(default_factory=Software)
    told: list[RolloutStatus] = field(default_factory=list)
    device: Child | None = None

    async def until(self, what: Callable[[], object]) -> None:
        for _ in range(1000):
            if what():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("waited too long")

    def give(self) -> bool:
        """What the gateway's parent does when it is asked."""
        for chunk in chunks(WHEEL):
            self.above.take(chunk)
        return self.above.wheel is not None

    async def say(self, state: str, counter: int = 7) -> None:
        assert self.device is not None
        self.below.update = UpdateStatus.model_validate({"version": "2.0", "state": state, "counter": counter})
        await self.device.tell_status()


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(releasing, "LOOK_EVERY_S", 0.02)
    with broker("embedded") as port:
        fleet, site = Fleet(port, tmp_path), Site()
        site.below.update = UpdateStatus(version="1.0", state="updated")
        parent = fleet.parent("gw", "cloud", ObjectStore(1024))

        async def tell() -> None:
            assert site.above.below is not None
            site.told.append(site.above.below)

        async def work(_: Assignment) -> Delta | Decline:
            raise AssertionError("no plan was made")

        outbox = Outbox(NodeStore(tmp_path / "d1.db", 10**6))
        site.device = Child(
            fleet.connect,
            Identity(fleet.name, "d1", "device", "gw"),
            ObjectStore(10**6),
            outbox,
            data=lambda: fleet.data,
            software=site.below,
        )
        fleet.tasks["d1"] = [
            asyncio.create_task(site.device.session.run()),
            asyncio.create_task(site.device.follow(work)),
        ]
        fleet.tasks["relay"] = [asyncio.create_task(releasing.relay(site.above, parent, tell))]
        await site.until(lambda: "d1" in parent.members)
        yield site
        await fleet.end()


async def test_it_speaks_of_a_release_when_it_has_the_wheel_and_serves_it_whatever_its_store_forgets(
    site: Site,
) -> None:
    site.above.hear(word())
    await asyncio.sleep(0.3)
    assert site.below.rollout is None
    await site.until(site.give)
    await site.until(lambda: site.below.rollout is not None)
    site.below.fetch(RELEASE.wheel)
    await site.until(lambda: site.below.wheel is not None)
    assert site.below.wheel == WHEEL


async def test_a_stage_that_asks_nobody_goes_down_without_the_wheel(site: Site) -> None:
    site.above.hear(word(share=0.0))
    await site.until(lambda: site.below.rollout is not None)
    assert site.below.rollout == word(share=0.0)


async def test_how_far_its_cluster_is_goes_up_when_it_changes(site: Site) -> None:
    site.above.hear(word())
    await site.until(site.give)
    await site.until(lambda: site.told and site.told[-1].waiting == 1)
    await site.say("downloading")
    await site.until(lambda: site.told[-1].under_way == 1)
    await site.say("updated")
    await site.until(lambda: site.told[-1].updated == 1)
    told = len(site.told)
    await asyncio.sleep(0.2)
    assert len(site.told) == told
