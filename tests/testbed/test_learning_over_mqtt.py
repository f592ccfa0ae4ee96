"""What the laboratory learns a coordinator, a gateway and devices learn over MQTT: patches, codecs, clusters, masks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.cloud.coordinator import Coordinator
from headwater.cloud.history import History, open_history
from headwater.device.agent import Agent, Means
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.sources import Fixed
from headwater.device.state import LocalState
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Bundle, Model
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import RunStatus
from headwater.schemas.tensors import models_of
from headwater.schemas.wire import decode_object
from headwater.testbed.laboratory import RUN, Laboratory
from headwater.transport.objects import ObjectStore
from support.brokers import broker
from support.fleets import Fleet, present
from support.learning import DEVICES, TREE, described, people

ROUNDS = 4

RUNS: dict[str, dict[str, Any]] = {
    "patches and sparse updates": {
        "downlink": {"codec": "int8"},
        "uplink": {"codec": "stc", "fraction": 0.2},
        "gateway_uplink": {"codec": "topk", "fraction": 0.3, "values": "fp32"},
    },
    "a server optimiser and two edge rounds": {
        "strategy": {"name": "fedyogi"},
        "edge_rounds": 2,
        "downlink": {"codec": "topk", "fraction": 0.5, "values": "fp32"},
    },
    "a sketch": {"uplink": {"codec": "sketch", "rows": 3, "columns": 40, "fraction": 0.3, "values": "fp32"}},
    "models by place": {"clusters": {"by": "place", "shared": ("layer1.*",)}},
    "models by likeness": {"clusters": {"by": "likeness", "count": 2}, "downlink": {"codec": "int8"}},
    "tasks that are related": {"personal": {"method": "mocha"}},
    "a pruned model": {
        "pruning": {"sparsity": 0.5, "at_round": 2},
        "downlink": {"codec": "int8"},
        "uplink": {"codec": "topk", "fraction": 0.5, "values": "fp32"},
    },
    "a model with fewer outputs": {"pruning": {"sparsity": 0.5, "at_round": 2, "structured": True}},
    "some of the layers in turns": {"uplink": {"layers": 0.5}},
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with broker("embedded") as opened:
        yield opened


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, Worker]]:
    started = {node: Worker(Bounds(niceness=0)) for node in DEVICES}
    yield started
    for worker in started.values():
        worker.close()


@pytest.fixture
async def fleet(port: int, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(port, tmp_path)
    yield fleet
    await fleet.end()


@dataclass(frozen=True)
class Learned:
    """The last models, and what each round of training sent down at the cloud's links, in bytes."""

    models: tuple[tuple[np.ndarray, ...], ...]
    clusters: tuple[str, ...]
    bytes_down: list[int]
    size_bytes: int


@pytest.mark.parametrize("name", RUNS)
async def test_a_fleet_learns_what_the_laboratory_does(
    name: str, fleet: Fleet, workers: dict[str, Worker], tmp_path: Path
) -> None:
    description, data = described(rounds=ROUNDS, **RUNS[name]), people()
    with Laboratory(description, data, clusters=TREE) as lab:
        await lab.rounds()
    learned = await _over_mqtt(description, fleet, workers, tmp_path)
    assert learned.clusters == lab.course.models.clusters
    for found, expected in zip(learned.models, lab.course.models.parameters, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    if name == "a pruned model":
        (model,) = learned.models
        assert sum((value == 0).sum() for value in model if value.ndim > 1) >= 0.5 * (4 * 6 + 6 * 3)
    if name == "a model with fewer outputs":
        ((first, *_),) = learned.models
        assert (first == 0).all(axis=0).sum() == 3


async def test_who_holds_the_last_version_is_sent_a_patch_and_who_does_not_the_model(
    fleet: Fleet, workers: dict[str, Worker], tmp_path: Path
) -> None:
    """A model of 35 kB in patches of 9; a device that was rebooted has lost it, and asks for it whole."""
    model = {"kind": "mlp", "features": 4, "classes": 3, "hidden": (1000,)}
    description = described(rounds=5, model=model, downlink={"codec": "int8"})
    learned = await _over_mqtt(description, fleet, workers, tmp_path, reboots="d2")
    first, *later = learned.bytes_down
    assert first > learned.size_bytes
    # The round behind the reboot has a patch for all, and the model for one.
    assert sorted(later)[-2] < learned.size_bytes / 2 < learned.size_bytes < max(later)


async def _over_mqtt(
    description: RunDescription, fleet: Fleet, workers: dict[str, Worker], folder: Path, reboots: str = ""
) -> Learned:
    objects, data = ObjectStore(10**8), people()
    cloud, gateway = fleet.parent("cloud", objects=objects), fleet.gateway("gw1", "cloud")

    def start(node: str) -> None:
        means = Means(worker=workers[node], state=LocalState(folder / "state" / node))
        agent = Agent(node, {"d": Fixed(data[node])}, time_limit_s=30.0, means=means)
        parent = next(gateway or "cloud" for gateway, devices in TREE.items() if node in devices)
        fleet.doing(node, parent, agent.work, agent.refused)

    for node in DEVICES:
        start(node)
    await present(gateway, *TREE["gw1"])
    await present(cloud, "gw1", *TREE[""])
    history = open_history(f"sqlite:///{folder / 'history.db'}")
    history.enqueue_run(RUN, fleet.name, description, None, datetime.now(UTC))
    done = asyncio.Event()

    async def told(status: RunStatus) -> None:
        if reboots and status.round == 2 and reboots in fleet.tasks:
            await fleet.kill(reboots)
            start(reboots)
            await asyncio.sleep(0.3)
            await present(cloud, "gw1", *TREE[""])
        if status.state != "running":
            assert status.state == "finished", status.detail
            done.set()

    coordinator = Coordinator(fleet.name, cloud, history, objects, tell_people=told)
    serving = asyncio.create_task(coordinator.serve())
    try:
        async with asyncio.timeout(40):
            await asyncio.wait((serving, asyncio.ensure_future(done.wait())), return_when=asyncio.FIRST_COMPLETED)
            assert not serving.done(), serving.exception()
        return _learned(history)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        history.close()


def _learned(history: History) -> Learned:
    _, payload = history.model_of(RUN)
    bundle = history.bundle_of(RUN)
    assert bundle is not None
    manifest: Manifest = decode_object(bundle, Bundle).manifest
    message = decode_object(payload, Model)
    rounds = [row.bytes_down for row in history.rounds_of(RUN) if row.task == "train"]
    return Learned(models_of(manifest, message), message.clusters, rounds, len(payload))
