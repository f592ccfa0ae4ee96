"""A device that serves: live windows are labelled by the fleet's model, a bad model never answers, a reboot costs nothing."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from headwater.cloud.asking import ask
from headwater.cloud.history import History, open_history
from headwater.schemas.messages import Model
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import decode_tensor
from headwater.schemas.wire import decode_object
from headwater.testbed.processes import Processes
from support.brokers import broker
from support.predictions import drain, overheard
from support.sensors import pump, sensing
from support.waiting import until

ABOUT: dict[str, Any] = {
    "name": "pumps",
    "data": "pump",
    "rounds": 6,
    "model": {"kind": "mlp", "features": 2, "classes": 2, "hidden": (8,)},
    "local": {"batch_size": 8, "epochs": 3, "learning_rate": 0.3},
    "cohort": {"deadline_s": 10.0, "quorum": 1.0},
}


def finished(history: History, run: str, log: Path) -> None:
    until(lambda: history.show_run(run).state not in ("queued", "running"), log)
    assert history.show_run(run).state == "finished", history.show_run(run).failure


def with_the_classes_swapped(history: History, path: Path) -> None:
    """The run's last model with its last layer negated: as wrong as it was right."""
    tensors = [decode_tensor(tensor) for tensor in decode_object(history.model_of("good")[1], Model).tensors]
    np.savez(path, *tensors[:-2], -tensors[-2], -tensors[-1])


def test_live_windows_are_scored_and_a_bad_model_never_answers(tmp_path: Path) -> None:
    database, log = f"sqlite:///{(tmp_path / 'history.db').resolve()}", tmp_path / "run" / "d1.log"
    with broker("embedded") as port, Processes(tmp_path / "run") as processes, overheard(port) as heard:
        link = {"fleet": "plant", "broker": {"port": port}}
        device = link | {
            "node": "d1",
            "state": str(tmp_path / "state"),
            "serving": {"enabled": True, "max_per_minute": 6000.0, "alert_labels": ["worn"]},
            "data": {"pump": pump("plant/d1", layout="flat", max_examples=200)},
        }
        processes.start("cloud", link | {"node": "cloud", "database": database})
        started = processes.start("device", device)
        history = open_history(database)
        try:
            history.enqueue_run("good", "plant", RunDescription.model_validate(ABOUT), None, datetime.now(UTC))
            with sensing(port, "plant/d1"):
                finished(history, "good", log)
                last = history.show_run("good").round
                until(lambda: not heard.empty() and heard.get().model.round >= last - 1, log)
                drain(heard)
                # A window each 0.04 s, and the machine changes its state each second: long enough to see both.
                predictions = [heard.get(timeout=10) for _ in range(60)]
                for prediction in predictions:
                    assert prediction.label in ("ok", "worn")
                    assert prediction.alert == (prediction.label == "worn")
                    assert prediction.probabilities is not None
                    assert abs(sum(prediction.probabilities) - 1) < 1e-6
                    assert abs(prediction.time - time.time()) < 60
                assert {prediction.label for prediction in predictions} == {"ok", "worn"}

                with_the_classes_swapped(history, tmp_path / "bad.npz")
                bad = ABOUT | {"rounds": 2, "initial": str(tmp_path / "bad.npz"), "local": {"learning_rate": 1e-9}}
                ask(
                    history,
                    "plant",
                    RunDescription.model_validate(bad),
                    None,
                    (tmp_path / "bad.npz").read_bytes(),
                    run="bad",
                    now=datetime.now(UTC),
                    salt="",
                )
                finished(history, "bad", log)
                told = [r.accuracy for r in history.rounds_of("bad") if r.accuracy is not None]
                assert max(told) < 0.3
                until(lambda: "keep: round" in log.read_text(), log)
                drain(heard)
                assert {heard.get(timeout=10).model.run for _ in range(10)} == {"good"}

                started.process.kill()
                started.process.wait(10)
                drain(heard)
                processes.start("device", device)
                assert heard.get(timeout=20).model.run == "good"
        finally:
            history.close()
