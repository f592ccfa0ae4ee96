"""`run export --int8`: both files beside each other, what was measured, and every wrong file with its sentence."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from headwater.cloud.history import open_history
from headwater.core.models import mlp
from headwater.device.sources.digits import digits
from headwater.schemas.messages import Model
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DEVICE = """node = "d0"
[data.numbers]
kind = "digits"
devices = 2
index = 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A history with one run of a perceptron, whose last layer is fitted to the digits, and data beside it."""
    x, y, test = digits(0)
    rng = np.random.default_rng(0)
    spread = np.maximum(x[~test].std(axis=0), 1e-6)
    mean, scale = x[~test].mean(axis=0), 1 / spread
    weight = rng.normal(0, 0.2, (64, 256))
    hidden = np.maximum((x[~test] - mean) * scale @ weight, 0)
    head = np.linalg.solve(hidden.T @ hidden + np.eye(256), hidden.T @ np.eye(10)[y[~test]])
    values = [mean, scale, weight, np.zeros(256), head, np.zeros(10)]
    about = {"name": "n", "data": "numbers", "rounds": 1, "model": {"kind": "mlp", "features": 64, "classes": 10}}
    history = open_history(f"sqlite:///{tmp_path / 'headwater.db'}")
    history.enqueue_run("r1", "fleet", RunDescription.model_validate(about), None, NOW)
    history.claim_next_run("fleet", NOW)
    forward = mlp(64, (256,), 10, rng=rng, normalise=True)
    tensors = encode_tensors(value.astype(np.float32) for value in values)
    history.record_start("r1", forward, b"bundle", encode(Model(run="r1", version=0, tensors=tensors)), NOW)
    history.close()
    np.savez(tmp_path / "test.npz", x=x[test], y=y[test])
    np.savez(tmp_path / "unnamed.npz", x[test])
    (tmp_path / "device.toml").write_text(DEVICE)
    (tmp_path / "torn.npz").write_bytes(b"torn")
    return tmp_path


def export(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headwater.cli.main", "run", "export", "r1", "--output", "m.onnx", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "ranges"),
    [
        (["--data", "test.npz"], "normaliser"),
        (["--data", "device.toml", "--calibrate", "test.npz"], "examples"),
        (["--data", "test.npz", "--calibrate", "device.toml"], "examples"),
    ],
)
def test_eight_bits_stand_beside_what_they_came_from(folder: Path, arguments: list[str], ranges: str) -> None:
    done = export(folder, "--int8", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    small = told["int8"]
    assert small["ranges"] == ranges
    assert told["accuracy"] > 0.9
    assert small["accuracy"] > told["accuracy"] - 0.01
    assert small["size_bytes"] < 0.35 * told["size_bytes"]
    assert 0 < small["latency_ms"] < 100
    assert (folder / small["path"]).stat().st_size == small["size_bytes"]
    assert (folder / "m.onnx").stat().st_size == told["size_bytes"]


def test_without_data_only_sizes_are_told(folder: Path) -> None:
    done = export(folder, "--int8")
    assert done.returncode == 0, done.stderr
    assert "m.int8.onnx: in eight bits (ranges: normaliser)" in done.stdout
    assert "accuracy" not in done.stdout
    assert "int8" not in export(folder).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--data", "nowhere.npz"], 2, "data: nowhere.npz: No such file or directory; give an .npz file"),
        (["--data", "torn.npz"], 5, "data: torn.npz: no NPZ file; write one with numpy.savez"),
        (["--data", "unnamed.npz"], 5, "data: unnamed.npz: no examples under x"),
        (["--int8", "--calibrate", "nowhere.toml"], 2, "nowhere.toml"),
        (["--calibrate", "test.npz"], 2, "add --int8"),
    ],
)
def test_a_wrong_file_is_told(folder: Path, arguments: list[str], code: int, says: str) -> None:
    done = export(folder, *arguments)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_without_the_runs_data_is_told(folder: Path) -> None:
    (folder / "device.toml").write_text(DEVICE.replace("numbers", "letters"))
    done = export(folder, "--data", "device.toml")
    assert done.returncode == 2
    assert "no data.numbers, which the run is about; it has letters" in done.stderr
