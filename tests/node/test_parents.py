"""Two parents of one device over a real broker: it falls back, returns, and gives a round its part once."""

import asyncio
from functools import partial

import numpy as np
import pytest

from headwater.node import parents as parents_module
from headwater.node.identity import Identity
from headwater.node.parent import Parent
from headwater.node.parents import Parents, Second, second_of
from headwater.schemas.errors import BrokerUnreachable, ConfigError
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.settings import BrokerSettings, FallbackSettings
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode
from headwater.testbed.machine import free_port
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect, LinkDown, Session
from support.fleets import OFTEN_S, Fleet, contributors, hosted, plan, present, until

ONE = RoundKey(run="r", round=1)


def second(fleet: Fleet, *, after_s: float = 0.8, return_after_s: float = 0.5, port: int = 0) -> Second:
    rule = FallbackSettings(parent="gw2", after_s=after_s, return_after_s=return_after_s)
    return Second(rule, nowhere(port) if port else fleet.connect)


def nowhere(port: int) -> Connect:
    """To a broker that is not there."""
    return partial(Session, BrokerSettings(port=port, connect_timeout_s=0.4, max_retry_wait_s=0.2))


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents_module, "RETRY_AFTER_S", 0.1)


def gateways(fleet: Fleet, objects: ObjectStore) -> tuple[Parent, Parent]:
    one, two = (fleet.parent(name, objects=objects, heartbeat_s=OFTEN_S) for name in ("gw1", "gw2"))
    return one, two


async def lose(node: str, key: RoundKey) -> None:
    """A receipt that does not come."""


async def left(parent: Parent, *nodes: str) -> None:
    async with asyncio.timeout(10):
        while set(nodes) & parent.eligible("d"):
            await parent.news.wait(0.2)


async def test_children_of_a_parent_that_died_go_on_below_the_second_and_come_back(fleet: Fleet) -> None:
    objects, nodes = ObjectStore(10**7), ("d0", "d1")
    one, two = gateways(fleet, objects)
    for node in nodes:
        fleet.follower(node, "gw1", second(fleet))
    await present(one, *nodes)
    assert contributors(await hosted(one, plan(1, objects))) == set(nodes)
    await fleet.kill("gw1")
    await present(two, *nodes)
    assert contributors(await hosted(two, plan(2, objects))) == set(nodes)
    one = fleet.parent("gw1", objects=objects, heartbeat_s=OFTEN_S)
    await present(one, *nodes)
    await left(two, *nodes)
    assert contributors(await hosted(one, plan(3, objects))) == set(nodes)
    assert sorted((key.round, node) for node, key in fleet.trained) == [(i, node) for i in (1, 2, 3) for node in nodes]


async def test_a_gateway_falls_back_too_and_its_cluster_with_it(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    one, two = gateways(fleet, objects)
    site = fleet.gateway("site", "gw1", second(fleet))
    fleet.device("d0", "site")
    await present(site, "d0")
    await present(one, "site")
    assert contributors(await hosted(one, plan(1, objects))) == {"d0"}
    await fleet.kill("gw1")
    await present(two, "site")
    assert contributors(await hosted(two, plan(2, objects))) == {"d0"}


async def test_a_parent_that_can_be_heard_keeps_its_children_without_any_round(fleet: Fleet) -> None:
    one, two = gateways(fleet, ObjectStore(10**7))
    fleet.follower("d0", "gw1", second(fleet))
    await present(one, "d0")
    await asyncio.sleep(2.0)
    assert one.eligible("d") == {"d0"}
    assert two.members == {}


@pytest.mark.parametrize("receipt", ["came", "was lost"])
async def test_a_part_that_the_first_parent_has_is_not_given_to_the_second(fleet: Fleet, receipt: str) -> None:
    """Both in the same round, in one edge round or in two: the first one's journal has it when it comes back."""
    objects = ObjectStore(10**7)
    one, two = gateways(fleet, objects)
    if receipt == "was lost":
        one._receipts._send = lose
    fleet.follower("d0", "gw1", second(fleet))
    fleet.device("d1", "gw1", after_s=60)
    fleet.device("d2", "gw2", after_s=2.0)
    await present(one, "d0", "d1")
    hosting = asyncio.create_task(hosted(one, plan(1, objects, deadline_s=30.0)))
    await until(lambda: len(fleet.store("gw1").load(ONE)) == 1)
    hosting.cancel()
    await fleet.kill("gw1")
    await present(two, "d0", "d2")
    key = ONE.model_copy(update={"step": 1 if receipt == "came" else 0})
    assert contributors(await hosted(two, plan(1, objects, key=key, quorum=0.5, deadline_s=3.0))) == {"d2"}
    await fleet.kill("d1")
    one = fleet.parent("gw1", objects=objects, heartbeat_s=OFTEN_S)
    await present(one, "d0")
    assert contributors(await hosted(one, plan(1, objects))) == {"d0"}
    assert [key for node, key in fleet.trained if node == "d0"] == [ONE]


async def test_a_delta_that_nobody_was_sent_goes_to_the_second_parent(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    two = fleet.parent("gw2", objects=objects, heartbeat_s=OFTEN_S)
    ones = encode_tensors([np.ones(4, np.float32)])
    delta = Delta(key=ONE, sender="d0", task="train", weight=1.0, examples=1, devices=1, tensors=ones)
    fleet.store("d0").keep_outgoing(ONE, encode(delta))
    fleet.follower("d0", "gw1", second(fleet), connect=nowhere(free_port()))
    await present(two, "d0")
    assert contributors(await hosted(two, plan(1, objects))) == {"d0"}
    assert fleet.trained == []


async def test_a_first_broker_that_is_not_there_is_not_waited_for(fleet: Fleet) -> None:
    """Its connection gives up long before the parent would count as silent."""
    two = fleet.parent("gw2", heartbeat_s=OFTEN_S)
    fleet.follower("d0", "gw1", second(fleet, after_s=3600.0), connect=nowhere(free_port()))
    await present(two, "d0")


async def test_a_second_broker_that_is_not_there_leaves_the_child_with_the_first(fleet: Fleet) -> None:
    one, _ = gateways(fleet, ObjectStore(10**7))
    parents = fleet.follower("d0", "gw1", second(fleet, return_after_s=3600.0, port=free_port()))
    await present(one, "d0")
    await fleet.kill("gw1")
    await until(lambda: parents._following.place == "second")
    one = fleet.parent("gw1", heartbeat_s=OFTEN_S)
    await present(one, "d0")


async def test_a_node_that_never_reaches_any_broker_ends_with_its_error(fleet: Fleet) -> None:
    at = free_port()
    parents = Parents(
        nowhere(free_port()),
        Identity(fleet.name, "d0", "device", "gw1"),
        fleet.make("d0"),
        heartbeat_s=OFTEN_S,
        second=second(fleet, port=at),
    )
    with pytest.raises(BrokerUnreachable, match=f":{at}: no connection"):
        await asyncio.wait_for(parents.run(fleet.work("d0")), 10)


async def test_what_is_said_while_there_is_no_parent_is_a_link_that_is_down(fleet: Fleet) -> None:
    parents = Parents(fleet.connect, Identity(fleet.name, "d0", "device", "gw1"), fleet.make("d0"), heartbeat_s=1.0)
    with pytest.raises(LinkDown, match="d0: between two parents"):
        await parents.tell_status()


BROKER = BrokerSettings(port=1883)
OTHER = BrokerSettings(port=1884)


@pytest.mark.parametrize(
    ("fallback", "says"),
    [
        pytest.param({"parent": "d0"}, "d0 is this node itself", id="itself"),
        pytest.param({"parent": "gw1"}, "gw1 is the first parent, on the same broker", id="the first"),
        pytest.param({"parent": "gw1", "broker": BROKER}, "name another, or take the fallback out", id="spelled out"),
    ],
)
def test_a_second_parent_that_is_none_is_refused(fallback: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        second_of(FallbackSettings.model_validate(fallback), Identity("plant", "d0", "device", "gw1"), BROKER)


def test_the_first_parent_on_another_broker_is_a_second_way_to_it() -> None:
    identity = Identity("plant", "d0", "device", "gw1")
    assert second_of(FallbackSettings(parent="gw1", broker=OTHER), identity, BROKER) is not None
    assert second_of(None, identity, BROKER) is None
