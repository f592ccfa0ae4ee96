"""Every method through a whole tree: what a laboratory learns is what a fleet learns over MQTT, reboots and all."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.cloud.course import after
from headwater.cloud.plans import plan
from headwater.core.aggregate import Parameters
from headwater.core.local import Memory
from headwater.core.local.method import Arrays
from headwater.device.agent import Agent, Means
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.sources import Fixed
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.schemas.errors import RunFailed
from headwater.schemas.messages import RoundKey
from headwater.testbed.laboratory import RUN, Laboratory
from headwater.transport.objects import ObjectStore
from support.brokers import broker
from support.fleets import Fleet, present, until
from support.learning import DEVICES, TREE, described, people

Workers = dict[str, Worker]

SECTIONS: dict[str, dict[str, Any]] = {
    "fedavgm": {"strategy": {"name": "fedavgm"}},
    "fedprox": {"strategy": {"name": "fedprox"}},
    "scaffold": {"strategy": {"name": "scaffold"}},
    "fednova, edge rounds": {"strategy": {"name": "fednova"}, "edge_rounds": 2},
    "feddyn": {"strategy": {"name": "feddyn"}},
    "place": {"clusters": {"by": "place"}},
    "likeness": {"clusters": {"by": "likeness", "count": 2}},
    "pace": {"pace": {"target_s": 0.05, "max_epochs": 3}},
    "fine_tune": {"personal": {"method": "fine_tune", "epochs": 2}},
    "fedper": {"personal": {"method": "fedper"}, "model": {"personal": ("layer2.*",)}},
    "fedrep": {"personal": {"method": "fedrep"}, "model": {"personal": ("layer2.*",)}},
    "ditto": {"personal": {"method": "ditto"}},
    "pfedme": {"personal": {"method": "pfedme"}},
    "apfl": {"personal": {"method": "apfl"}},
    "mocha": {"personal": {"method": "mocha"}},
}


def sections(name: str, **personal: Any) -> dict[str, Any]:
    given = SECTIONS[name]
    model = {"kind": "mlp", "features": 4, "classes": 3, "hidden": (6,), **given.get("model", {})}
    return {**given, "model": model, "personal": {**given.get("personal", {}), **personal}}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """One for each device: what a training tells its worker once is overwritten by another training's."""
    started = {node: Worker(Bounds(niceness=0)) for node in DEVICES}
    yield started
    for worker in started.values():
        worker.close()


@pytest.mark.parametrize("name", SECTIONS)
def test_every_method_learns_in_a_tree_and_tells_of_every_model(name: str, workers: Workers) -> None:
    description = described(**sections(name, baseline=True))
    with Laboratory(description, people(), clusters=TREE, worker=workers["d0"]) as lab:
        lab.run()
    first, last = lab.told[0], lab.told[-1]
    assert [told.round for told in lab.told] == [0, 1, 2, 3]
    has_personal = SECTIONS[name].get("personal", {}).get("method") is not None
    for split in ("test", "local", *(["personal"] if has_personal else [])):
        assert set(last.by_device[split]) == set(DEVICES)
    assert ("personal" in last.by_device) is has_personal
    assert last.spread("local").mean > first.spread("local").mean
    assert last.spread("personal" if has_personal else "test").mean >= 0.5


async def test_scaffolds_control_is_the_weighted_mean_of_the_devices(workers: Workers) -> None:
    """After each round, with a device that is rebooted in between."""
    with Laboratory(described(**SECTIONS["scaffold"]), people(), clusters=TREE, worker=workers["d0"]) as lab:
        total = sum(data.weight for data in lab.data.values())
        for number in (1, 2, 3):
            await lab.round("train", number)
            mean = sum(data.weight / total * _control(lab, node) for node, data in lab.data.items())
            np.testing.assert_allclose(lab.course.models.states[0]["control"][0], mean, atol=1e-6)
            lab.reboot("d1")


def _control(lab: Laboratory, device: str) -> np.ndarray:
    """Of the first parameter, as if the last delta was taken."""
    memory = lab.memory(device)
    assert memory.pending is not None
    return next(value for name, value in memory.if_taken.items() if name.startswith("control "))


async def test_a_refused_delta_leaves_the_control_as_it_was(workers: Workers) -> None:
    with Laboratory(described(**SECTIONS["scaffold"]), people(), clusters=TREE, worker=workers["d0"]) as lab:
        await lab.round("train", 1)
        before = lab.memory("d2").if_taken
        await lab.round("train", 2)
        device = lab.hosts["cloud"].children["d2"]
        assert isinstance(device, Agent)
        assert lab.memory("d2").if_taken.keys() == before.keys()
        device.refused(RoundKey(run=RUN, round=2))
        await until(lambda: not lab.memory("d2").if_taken)
        kept = lab.memory("d2").kept
        for name, value in before.items():
            np.testing.assert_array_equal(kept[name], value)


def test_it_asks_whom_a_parent_would_ask_and_its_clock_goes_as_it_is_told() -> None:
    """Of three devices in turns one is asked in each round; a round of a cluster takes as long as its slowest."""
    cohort = {"quorum": 1.0, "fraction": 0.3, "selection": {"by": "turns"}}
    asked: list[str] = []

    def takes_s(device: str) -> float:
        asked.append(device)
        return 1.0 + DEVICES.index(device)

    with Laboratory(described(rounds=3, evaluate_every=0, cohort=cohort), people(), takes_s=takes_s) as lab:
        clock_s: list[float] = []
        lab.run(lambda number: not clock_s.append(lab.clock_s))
        assert sorted(asked[:3]) == sorted(DEVICES)
        assert clock_s == pytest.approx(list(np.cumsum([1.0 + DEVICES.index(device) for device in asked[:3]])))
    with Laboratory(described(evaluate_every=0), people(), clusters=TREE, takes_s=lambda device: 2.0) as lab:
        lab.run(lambda number: False)
        assert (lab.course.round, lab.clock_s) == (1, 4.0)


def test_devices_tell_of_their_labels_where_someone_chooses_by_that() -> None:
    cohort = {"quorum": 1.0, "fraction": 0.5, "selection": {"by": "diversity"}}
    for sections, labels in (({"cohort": cohort}, 3), ({}, 0)):
        with Laboratory(described(**sections), people(), clusters=TREE) as lab:
            below = lab.hosts["gw1"].statuses()
            assert [len(below[node].data["d"].histogram) for node in TREE["gw1"]] == [labels] * 2
            examples = lab.hosts["cloud"].statuses()["gw1"].data["d"].train_examples
            assert examples == sum(len(lab.data[node].train_x) for node in TREE["gw1"])


def test_a_device_of_a_place_uses_that_places_model() -> None:
    with Laboratory(described(**SECTIONS["place"]), people(), clusters=TREE) as lab:
        lab.run()
        models = lab.course.models
        for device, place in (("d1", "gw1"), ("d2", "d2")):
            for used, theirs in zip(lab.personal(device), models.parameters[models.clusters.index(place)], strict=True):
                np.testing.assert_array_equal(used, theirs)


def test_a_round_without_a_quorum_says_who_declined_and_why() -> None:
    data = people()
    data["d2"] = Dataset(data["d2"].train_x, data["d2"].train_y, data["d2"].test_x[:0], data["d2"].test_y[:0])
    with (
        Laboratory(described(rounds=1), data) as lab,
        pytest.raises(RunFailed, match=r"round 2: no quorum: d2: .* no test part"),
    ):
        lab.run()


# ── over MQTT ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with broker("embedded") as opened:
        yield opened


@pytest.fixture
async def fleet(port: int, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(port, tmp_path)
    yield fleet
    await fleet.end()


@pytest.mark.parametrize("name", ["scaffold", "ditto"])
async def test_a_fleet_learns_what_the_laboratory_does_though_a_device_is_rebooted(
    name: str, fleet: Fleet, workers: Workers, tmp_path: Path
) -> None:
    description, data = described(rounds=4, **sections(name)), people()
    with Laboratory(description, data, clusters={"gw1": DEVICES}, worker=workers["d0"]) as lab:
        await lab.rounds()
        kept = {node: _all_of(lab.memory(node)) for node in DEVICES}
    learned = await _over_mqtt(Laboratory(description, data, worker=workers["d0"]), fleet, workers, tmp_path)
    for found, expected in zip(learned, lab.course.parameters, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for node in DEVICES:
        own = _all_of(LocalState(tmp_path / "state" / node).memory(RUN))
        assert own.keys() == kept[node].keys() != set()
        for array, value in kept[node].items():
            np.testing.assert_allclose(own[array], value, atol=1e-5, err_msg=f"{node}: {array}")


def _all_of(memory: Memory) -> Arrays:
    """As if the last delta was taken."""
    return {**memory.kept, **memory.if_taken}


async def _over_mqtt(lab: Laboratory, fleet: Fleet, workers: Workers, folder: Path) -> Parameters:
    """The laboratory's run, by devices below a gateway; the second begins anew after two rounds."""
    objects: ObjectStore = lab._objects
    cloud, gateway = fleet.parent("cloud", objects=objects), fleet.gateway("gw1", "cloud")

    def start(node: str) -> None:
        means = Means(worker=workers[node], state=LocalState(folder / "state" / node))
        agent = Agent(node, {"d": Fixed(lab.data[node])}, time_limit_s=30.0, means=means)
        fleet.doing(node, "gw1", agent.work, agent.refused)

    with lab:
        for node in DEVICES:
            start(node)
        await present(gateway, *DEVICES)
        await present(cloud, "gw1")
        course = lab.course
        for number in range(1, lab.description.rounds + 1):
            if number == 3:
                await fleet.kill("d1")
                start("d1")
                await asyncio.sleep(0.3)
                await present(gateway, *DEVICES)
            asked = plan(RUN, lab.description, "train", number, 0, model=course.model, bundle=course.bundle)
            result = await cloud.host(asked, course.manifest)
            assert result.closed
            assert result.round.devices == len(DEVICES)
            behind = after(course, result, fleet={"gw1": result.sum.weight})
            assert behind.model is not None
            objects.put(behind.model)
            course = behind.course
        return course.parameters
