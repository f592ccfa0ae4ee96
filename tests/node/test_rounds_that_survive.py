"""Over a real broker: a parent, a child or both die in mid-round, and what was acknowledged is in the sum, once.

Child i has weight 2**i, so that a sum names its contributors.
"""

import asyncio
from dataclasses import replace

import pytest

from headwater.core.round import Contributor
from headwater.node import receipts as receipts_module
from headwater.node.identity import Identity
from headwater.node.store import NodeStore
from headwater.schemas.messages import RoundKey
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.statuses import DataStatus
from headwater.testbed.faults.proxy import Proxy
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Caller, Session
from support.fleets import Fleet, contributors, died_behind_a_receipt, hosted, plan, present, received, until

LATE_S = 0.5
"""Longer than receipts are waited for."""


async def test_a_parent_that_died_takes_up_what_it_had_acknowledged(fleet: Fleet) -> None:
    """The child that was acknowledged is gone for good, so only the journal can have its delta."""
    objects = await died_behind_a_receipt(fleet)
    again = fleet.parent("gw", objects=objects)
    fleet.device("d2", "gw")
    await present(again, "d2")
    result = await hosted(again, plan(1, objects))
    assert contributors(result) == {"d0", "d2"}
    assert sorted(given.node for given in result.contributions) == ["d0", "d2"]


async def test_what_was_not_acknowledged_is_asked_for_again_and_counts_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts_module, "RECEIPT_DELAY_S", 60.0)
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    fleet.device("d0", "gw")
    fleet.device("d1", "gw", after_s=2.0)
    await present(parent, "d0", "d1")
    hosting = asyncio.create_task(hosted(parent, plan(1, objects)))
    await received(parent, 1)
    hosting.cancel()
    await fleet.kill("gw")
    again = fleet.parent("gw", objects=objects)
    await present(again, "d0", "d1")
    result = await hosted(again, plan(1, objects))
    assert contributors(result) == {"d0", "d1"}
    assert fleet.trained.count(("d0", RoundKey(run="r", round=1))) == 1


async def test_a_device_that_died_delivers_from_its_disk_without_training_again(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    child = fleet.device("d0", "gw")
    await present(parent, "d0")
    deaf = parent._on_chunk
    parent._on_chunk = lambda node, chunk: None  # type: ignore[method-assign]
    hosting = asyncio.create_task(hosted(parent, plan(1, objects, deadline_s=15.0)))
    await until(lambda: any(entry.saved for entry in child._outbox._entries.values()))
    await fleet.kill("d0")
    parent._on_chunk = deaf  # type: ignore[method-assign]
    fleet.device("d0", "gw")
    assert contributors(await hosting) == {"d0"}
    assert fleet.trained == [("d0", RoundKey(run="r", round=1))]


async def test_a_gateway_that_died_goes_on_behind_its_last_edge_round(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    cloud = fleet.parent("top", objects=objects)
    below = fleet.gateway("gw", "top")
    fleet.device("d0", "gw", after_s=LATE_S)
    fleet.device("d1", "gw", after_s=LATE_S)
    await present(below, "d0", "d1")
    await present(cloud, "gw")
    about = plan(1, objects, edge_rounds=3, deadline_s=30.0)
    hosting = asyncio.create_task(hosted(cloud, about))
    store = fleet.store("gw")
    await until(lambda: store.course(about.key) is not None)
    await fleet.kill("gw")
    fleet.gateway("gw", "top")
    result = await hosting
    # Every edge round adds one to each parameter of the cluster's model, whose weight is three.
    assert [given.weight for given in result.contributions] == [3.0]
    assert result.sum.totals[0][0] == pytest.approx(9.0)
    first = RoundKey(run="r", round=1, step=0)
    assert fleet.trained.count(("d0", first)) == 1


async def test_a_gateway_without_its_uplink_goes_on_keeps_its_delta_and_forwards_it_on_return(
    fleet: Fleet, port: int
) -> None:
    """Cut behind the plan's arrival, killed behind its last edge round; the cloud counts what comes a round later."""
    objects = ObjectStore(10**7)
    cloud = fleet.parent("top", objects=objects)
    async with Proxy(port) as wire:
        broker = BrokerSettings(port=wire.port, max_retry_wait_s=0.5)

        def uplink(caller: Caller) -> Session:
            return Session(broker, replace(caller, client=f"{fleet.name}.{caller.client}"))

        below = fleet.gateway("gw", "top", uplink=uplink)
        fleet.device("d0", "gw", after_s=LATE_S)
        fleet.device("d1", "gw", after_s=LATE_S)
        await present(below, "d0", "d1")
        await present(cloud, "gw")
        about = plan(1, objects, edge_rounds=3, deadline_s=6.0, max_staleness=2)
        hosting = asyncio.create_task(hosted(cloud, about))
        await until(lambda: below._hosted is not None)
        wire.cut()
        store = fleet.store("gw")
        await until(lambda: [key for key, _ in store.outgoing()] == [about.key])
        await fleet.kill("gw")
        assert not (await hosting).closed
        fleet.gateway("gw", "top", uplink=uplink)
        wire.heal()
        result = await hosted(cloud, plan(2, objects, edge_rounds=3, deadline_s=20.0, max_staleness=2, buffer=1))
    (given,) = result.contributions
    assert (given.key, given.factor) == (about.key, pytest.approx(2**-0.5))
    assert result.sum.totals[0][0] == pytest.approx(9.0 * 2**-0.5)
    assert fleet.trained.count(("d0", about.key)) == 1


async def test_a_late_update_counts_in_the_next_round_by_its_age_and_once(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    parent = fleet.parent("top", objects=objects)
    fleet.device("d0", "top")
    fleet.device("d1", "top", after_s=2.0)
    await present(parent, "d0", "d1")
    counted: set[Contributor] = set()
    late: list[tuple[str, int, float]] = []
    for round_ in range(1, 6):
        about = plan(round_, objects, buffer=1, max_staleness=8, staleness_exponent=0.5)
        result = await hosted(parent, about, counted=frozenset(counted))
        new = [(given.node, given.key) for given in result.contributions]
        assert len(new) == 1
        assert not counted & set(new)
        counted |= set(new)
        factors = {given.node: given.factor for given in result.contributions}
        late += [(given.node, round_ - given.key.round, given.factor) for given in result.contributions]
        assert result.sum.totals[0][0] == pytest.approx(
            sum(given.weight * factors[given.node] for given in result.contributions)
        )
        await asyncio.sleep(0.6)
    (found,) = [entry for entry in late if entry[0] == "d1"]
    assert found[1] >= 1
    assert found[2] == pytest.approx((1 + found[1]) ** -0.5)


async def test_a_full_journal_gives_no_receipt_and_costs_no_round(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    parent._receipts._journal = NodeStore(fleet._folder / "tiny.db", 10)
    child = fleet.device("d0", "gw")
    fleet.device("d1", "gw", after_s=1.0)
    await present(parent, "d0", "d1")
    hosting = asyncio.create_task(hosted(parent, plan(1, objects)))
    await received(parent, 1)
    await asyncio.sleep(0.4)
    assert not child._outbox.has_answered(RoundKey(run="r", round=1))
    assert contributors(await hosting) == {"d0", "d1"}
    await parent.close()
    await until(lambda: child._outbox.next_for("gw") is None)


async def test_large_deltas_wait_for_their_turn(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.node.parent.OFFERS_BEYOND_BYTES", 1)
    monkeypatch.setattr("headwater.node.parent.IN_FLIGHT_BYTES", 1)
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    nodes = [f"d{i}" for i in range(6)]
    for node in nodes:
        fleet.device(node, "gw")
    await present(parent, *nodes)
    in_flight: list[int] = []
    admit = parent._admit

    def watched(event: object) -> None:
        admit(event)  # type: ignore[arg-type]
        in_flight.append(len(parent._queue.granted))

    parent._admit = watched  # type: ignore[method-assign]
    assert contributors(await hosted(parent, plan(1, objects))) == set(nodes)
    assert max(in_flight) == 1


async def test_a_tree_of_four_tiers_sums_as_a_flat_fleet_does(fleet: Fleet) -> None:
    """cloud → region → two sites → devices, by the parents' names alone."""
    objects = ObjectStore(10**7)
    cloud = fleet.parent("top", objects=objects)
    region = fleet.gateway("region", "top")
    sites = {name: fleet.gateway(name, "region") for name in ("site1", "site2")}
    for i, site in enumerate(("site1", "site1", "site2", "site2")):
        fleet.device(f"d{i}", site)
    await present(sites["site1"], "d0", "d1")
    await present(sites["site2"], "d2", "d3")
    await present(region, "site1", "site2")
    await present(cloud, "region")
    for round_ in (1, 2):
        result = await hosted(cloud, plan(round_, objects))
        assert contributors(result) == {"d0", "d1", "d2", "d3"}
        assert (result.sum.weight, result.round.devices) == (15.0, 4)


async def test_one_identity_in_two_processes_is_reported(fleet: Fleet) -> None:
    parent = fleet.parent("gw")
    one = Identity(fleet.name, "d0", "device", "gw")
    two = Identity(fleet.name, "d0", "device", "gw")
    data = {"d": DataStatus(train_examples=1, test_examples=0)}
    await parent.session.wait_connected()
    for identity in (one, two, one):
        status = identity.status("online", data)
        parent._on_message(status.topic, status.payload, False)
    objects = ObjectStore(10**7)
    hosting = asyncio.create_task(hosted(parent, plan(1, objects, deadline_s=1.0)))
    await asyncio.sleep(0.2)
    status = two.status("online", data)
    parent._on_message(status.topic, status.payload, False)
    third = Identity(fleet.name, "d0", "device", "gw").status("online", data)
    parent._on_message(third.topic, third.payload, False)
    status = two.status("online", data)
    parent._on_message(status.topic, status.payload, False)
    result = await hosting
    assert [refused.reason for refused in result.refusals] == ["two_identities"]
