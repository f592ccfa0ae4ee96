"""A fleet that learns from live sensors: nothing but MQTT topics goes in, and a model that knows worn pumps comes out."""

import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headwater.cloud.history import open_history
from headwater.device.sources.live.examples import form_of
from headwater.device.sources.live.store import Counts, Store, bounds_of
from headwater.schemas.run import RunDescription
from headwater.schemas.sources import SensorSource
from headwater.testbed.processes import Processes
from support.brokers import broker
from support.sensors import pump, sensing

DEVICES = ("d1", "d2")


CASES = {
    "rows": (
        {"layout": "flat"},
        {"model": {"kind": "mlp", "features": 2, "classes": 2, "hidden": (8,)}},
    ),
    "windows": (
        {"window": 8, "stride": 4, "layout": "time_first"},
        {"model": {"kind": "gru", "features": 2, "time": 8, "classes": 2, "hidden": 8}},
    ),
    "no labels": (
        {"window": 8, "stride": 4, "label": None, "layout": "flat"},
        {"model": {"kind": "autoencoder", "features": 16, "hidden": (8,), "code": 4}, "objective": "reconstruction"},
    ),
}


@pytest.mark.parametrize(("source", "run"), CASES.values(), ids=CASES)
def test_devices_learn_from_their_live_sensors(tmp_path: Path, source: dict[str, Any], run: dict[str, Any]) -> None:
    """The run is there before the first example: devices start without any, and are asked when they have some."""
    database = f"sqlite:///{(tmp_path / 'history.db').resolve()}"
    about = RunDescription.model_validate(
        {
            "name": "pumps",
            "data": "pump",
            "rounds": 30,
            "local": {"batch_size": 8, "epochs": 3, "learning_rate": 0.3},
            "cohort": {"deadline_s": 10.0, "quorum": 1.0, "min_children": 2},
        }
        | run
    )
    specs = {
        name: pump(f"plant/{name}", max_examples=200, store=str(tmp_path / f"{name}.db"), **source) for name in DEVICES
    }
    with broker("embedded") as port, Processes(tmp_path / "run") as processes:
        link = {"fleet": "plant", "broker": {"port": port}}
        processes.start("cloud", link | {"node": "cloud", "database": database})
        for name in DEVICES:
            processes.start("device", link | {"node": name, "parent": "cloud", "data": {"pump": specs[name]}})
        history = open_history(database)
        try:
            history.enqueue_run("r", "plant", about, None, datetime.now(UTC))
            time.sleep(3.0)
            assert history.show_run("r").round == 0
            processes.check()
            with sensing(port, *(f"plant/{name}" for name in DEVICES)):
                deadline = time.monotonic() + 60
                while history.show_run("r").state in ("queued", "running"):
                    assert time.monotonic() < deadline, (tmp_path / "run" / "d1.log").read_text()
                    time.sleep(0.2)
            assert history.show_run("r").state == "finished", history.show_run("r").failure
            rounds = list(history.rounds_of("r"))
            # Which stretches of time are for tests is drawn: for the last measurement a device may have none yet.
            assert [r.devices for r in rounds if r.task != "evaluate"] == [2] * (len(rounds) - 1)
            # Data come while it runs: no round is about fewer examples than the one before.
            examples = [r.examples for r in rounds if r.task == "train"]
            assert examples == sorted(examples)
            assert examples[0] > 0
            losses = [r.loss for r in rounds if r.loss is not None]
            if about.objective == "cross_entropy":
                # Guessing costs log 2 = 0.69. The first rounds may have seen one state of the machine alone.
                assert losses[-1] < 0.5
                told = [r.accuracy for r in rounds if r.accuracy is not None]
                assert not told or max(told) > 0.8
            else:
                assert losses[-1] < losses[0]
        finally:
            history.close()
    for name in DEVICES:
        spec = SensorSource.model_validate(specs[name], strict=False)
        form = form_of(spec)
        store = Store(tmp_path / f"{name}.db", form, bounds_of(spec, form), random.Random())
        assert store.counts() != Counts(0, 0)
        store.close()
