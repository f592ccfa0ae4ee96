"""A run in TensorBoard's files and in MLflow's database, read back by their own libraries; told twice, it is there once."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.bridges.experiments import Experiment, Scalar, flattened, mlflow, tensorboard
from headwater.cloud.history import open_history
from headwater.core.models import mlp
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Model
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode
from support.histories import DESCRIPTION, NOW, ROUND

LOSSES = {1: 2.0, 2: 1.5, 3: 1.25}


def experiment(rounds: int, state: str = "running") -> Experiment:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    scalars = [Scalar("train/loss", n, at + timedelta(seconds=n), LOSSES[n]) for n in range(1, rounds + 1)]
    settings = {"local.epochs": "1", "model.kind": "mlp"}
    return Experiment("r1", "bearings", "plant", state, at, None, settings, tuple(scalars), rounds, b"onnx")  # type: ignore[arg-type]


def losses_in_tensorboard(folder: Path) -> dict[int, float]:
    """By the file format's own reader, as far as the package has one: records of protobuf events."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in folder.glob("events.*"):
        payload = file.read_bytes()
        while payload:
            length = int.from_bytes(payload[:8], "little")
            event = Event.FromString(payload[12 : 12 + length])
            found.update((event.step, v.simple_value) for v in event.summary.value if v.tag == "train/loss")
            payload = payload[16 + length :]
    return found


def test_tensorboard_has_each_round_once(tmp_path: Path) -> None:
    own = tensorboard.write(experiment(2), tmp_path)
    (own / "events.out.tfevents.1.other").write_bytes(b"")
    assert losses_in_tensorboard(own) == {1: 2.0, 2: 1.5}
    tensorboard.write(experiment(3, "finished"), tmp_path)
    assert losses_in_tensorboard(own) == LOSSES
    mine = sorted(file.name for file in own.iterdir())
    assert len(mine) == 2
    assert mine[0] == "events.out.tfevents.1.other", "what others wrote stays"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--target: .*file: Not a directory; choose another"):
        tensorboard.write(experiment(1), tmp_path / "file")


def test_mlflow_goes_on_where_it_was_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = mlflow.write(experiment(2), uri)
    assert mlflow.write(experiment(3, "failed"), uri) == first
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("plant").experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.params == {"local.epochs": "1", "model.kind": "mlp"}
    history = client.get_metric_history(first, "train/loss")
    assert [(point.step, point.value) for point in history] == sorted(LOSSES.items())
    assert sorted(file.path for file in client.list_artifacts(first, "model")) == [
        "model/r1-2.onnx",
        "model/r1-3.onnx",
    ]


def test_an_mlflow_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match=r"--target: http://127\.0\.0\.1:9: .*; give the URL of an MLflow server"):
        mlflow.write(experiment(1), "http://127.0.0.1:9")


def test_settings_are_flat() -> None:
    nested = {"model": {"kind": "mlp", "hidden": (8, 4)}, "initial": None, "rounds": 2}
    assert flattened(nested) == {"model.kind": "mlp", "model.hidden": "(8, 4)", "rounds": "2"}


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'h.db'}"
    rng = np.random.default_rng(0)
    forward = mlp(2, (4,), 2, rng=rng, normalise=False)
    tensors = encode_tensors(rng.normal(size=shape).astype(np.float32) for shape in ((2, 4), (4,), (4, 2), (2,)))
    model = encode(Model(run="r1", version=1, tensors=tensors))
    history = open_history(url)
    history.enqueue_run("r1", "plant", DESCRIPTION, None, NOW)
    history.claim_next_run("plant", NOW)
    history.record_start("r1", forward, b"bundle", model, NOW)
    history.record_round(replace(ROUND, model=model), NOW)
    history.close()
    return url


def export(database: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headwater.cli.main", "run", "export", "r1", "--database", database, *arguments]
    environment: Mapping[str, Any] = {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--to", "wandb"], "to: 'wandb' is no tracker; there are mlflow, tensorboard"),
        (["--target", "x"], "target: 'x' without --to; add --to mlflow or --to tensorboard"),
        (["--to", "mlflow", "--int8"], "int8: is for a model alone; leave it or --to out"),
        (["--to", "mlflow", "--round", "0"], "round: is for a model alone; leave it or --to out"),
    ],
)
def test_what_does_not_go_together_is_told(database: str, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = export(database, tmp_path, *arguments)
    assert (done.returncode, done.stderr.strip()) == (2, f"headwater: {sentence}")


@pytest.mark.parametrize("tracker", ["mlflow", "tensorboard"])
def test_a_run_of_the_history_is_told(database: str, tmp_path: Path, tracker: str) -> None:
    done = export(database, tmp_path, "--to", tracker, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["run"], told["rounds"]) == ("r1", 1)
    if tracker == "tensorboard":
        assert losses_in_tensorboard(tmp_path / told["as"]) == {1: 2.0}
        return
    from mlflow import MlflowClient

    run = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").get_run(told["as"])
    assert run.data.metrics["train/loss"] == 2.0
    assert run.data.params["model.kind"] == "mlp"
