"""Law: a training step is timed beside PyTorch eager's of the same model, in turn, in one process, one thread each.

CPU time a step (forward, loss, backward, SGD), medians of rounds in which each side runs the same batches once.

    python benchmarks/local_training.py                 the table, and memory and installed size beside it
    python benchmarks/local_training.py --json          a list of {model, batch, ratio, …}
    python benchmarks/local_training.py --memory        memory of a process that trains, and installed size, alone
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

import numpy as np
from tables import aligned

from headwater.core import models
from headwater.core.graph import Compiled, compile_bundle

ROUNDS: Final = 9
EXAMPLES: Final = 2048
"""A run of steps is an epoch over so many; fewer for models whose step is long."""

LIMITS: Final = {"mlp": 0.12, "gru": 0.30}
"""Of the ratio; 1.0 for every other model."""

Step = Callable[[], None]


@dataclass(frozen=True)
class Task:
    """`forward` makes the ONNX model, `module` PyTorch's of the same layers; x has this shape."""

    forward: Callable[[np.random.Generator], bytes]
    module: Callable[[Any], Any]
    shape: tuple[int, ...]
    classes: int
    examples: int = EXAMPLES


# ── the same models for PyTorch ─────────────────────────────────────────────────────────────────────────────────


def _mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def _cnn1d(nn: Any) -> Any:
    layers: list[Any] = []
    for before, after in ((6, 32), (32, 64)):
        layers += [nn.Conv1d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 7))


def _cnn2d(nn: Any) -> Any:
    layers: list[Any] = []
    for before, after in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10))


def _ds_cnn(nn: Any) -> Any:
    layers = [nn.ZeroPad2d((1, 1, 4, 5)), nn.Conv2d(1, 64, (10, 4), stride=2, bias=False)]
    layers += [nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        layers += [nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


def _gru(nn: Any) -> Any:
    class Last(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.GRU(6, 32, batch_first=True), nn.Linear(32, 7)

        def forward(self, x: Any) -> Any:
            return self.head(self.cells(x)[1][0])

    return Last()


def _transformer(nn: Any) -> Any:
    import torch

    class Encoder(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.places = nn.Linear(6, 32), nn.Parameter(torch.zeros(32, 32))
            layer = nn.TransformerEncoderLayer(
                32, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.body = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=False)
            self.head = nn.Linear(32, 7)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(self.embed(x) + self.places).mean(1))

    return Encoder()


TASKS: Final = {
    "mlp": Task(lambda rng: models.mlp(64, (32,), 10, rng=rng), _mlp, (64,), 10),
    "cnn1d": Task(lambda rng: models.cnn1d(6, 64, 7, (32, 64), 5, rng=rng), _cnn1d, (6, 64), 7, 512),
    "cnn2d": Task(lambda rng: models.cnn2d(1, 28, 28, 10, (16, 32), 64, rng=rng), _cnn2d, (1, 28, 28), 10, 256),
    "ds_cnn": Task(lambda rng: models.ds_cnn(49, 10, 12, 64, 4, rng=rng), _ds_cnn, (1, 49, 10), 12, 128),
    "gru": Task(lambda rng: models.gru(6, 64, 7, 32, 1, rng=rng), _gru, (64, 6), 7, 256),
    "transformer": Task(lambda rng: models.transformer(6, 32, 7, 32, 4, 2, 64, rng=rng), _transformer, (32, 6), 7, 256),
}


# ── one side each ───────────────────────────────────────────────────────────────────────────────────────────────


def compiled_task(name: str) -> Compiled:
    task = TASKS[name]
    return compile_bundle(task.forward(np.random.default_rng(0)), objective="cross_entropy", name=name)


def _initial(compiled: Compiled) -> dict[str, np.ndarray]:
    return {p.name: value for p, value in zip(compiled.manifest.parameters, compiled.initial, strict=True)}


def graph_steps(train: bytes, parameters: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray, batch: int) -> Step:
    """All steps of an epoch in one call, as a device runs them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # As a device loads it: nothing is computed before its clock runs.
    session = ort.InferenceSession(
        train, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )
    steps = len(x) // batch
    given = {
        **parameters,
        "x": x,
        "y": y,
        "order": np.arange(steps * batch).reshape(steps, batch),
        "mask": np.ones((steps, batch), np.float32),
        "learning_rate": np.full(steps, 0.01, np.float32),
    }
    return lambda: session.run(None, given)


def torch_steps(name: str, x: np.ndarray, y: np.ndarray, batch: int) -> Step:
    """The same steps in PyTorch eager: slices, forward, loss, backward, SGD."""
    import torch

    torch.set_num_threads(1)
    module = TASKS[name].module(torch.nn)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01)
    all_x, all_y, steps = torch.tensor(x), torch.tensor(y), len(x) // batch

    def run() -> None:
        for step in range(steps):
            rows = slice(step * batch, (step + 1) * batch)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(module(all_x[rows]), all_y[rows]).backward()
            optimiser.step()

    return run


def measure(name: str, batch: int) -> dict[str, Any]:
    """Medians over rounds in which both sides run in turn."""
    task, rng = TASKS[name], np.random.default_rng(1)
    x = rng.normal(0, 1, (task.examples, *task.shape)).astype(np.float32)
    y = rng.integers(0, task.classes, task.examples)
    compiled = compiled_task(name)
    ours = graph_steps(compiled.bundle.graphs["train"], _initial(compiled), x, y, batch)
    theirs = torch_steps(name, x, y, batch)
    steps, times = task.examples // batch, [(_cpu_s(ours), _cpu_s(theirs)) for _ in range(ROUNDS + 1)]
    ratios = [a / b for a, b in times[1:]]
    ratio = statistics.median(ratios)
    return {
        "model": name,
        "batch": batch,
        "ratio": round(ratio, 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "step_ms": round(statistics.median(a for a, _ in times[1:]) / steps * 1000, 4),
        "torch_step_ms": round(statistics.median(b for _, b in times[1:]) / steps * 1000, 4),
        "within": ratio <= LIMITS.get(name, 1.0),
    }


def _cpu_s(run: Step) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


# ── memory and size ─────────────────────────────────────────────────────────────────────────────────────────────


def peak_mb(side: str, name: str, folder: Path) -> float:
    """The most that a process had resident that trained an epoch, its libraries included.

    The graphs are compiled beforehand, for a device never compiles.
    """
    bundle = folder / f"{name}.npz"
    if not bundle.exists():
        compiled = compiled_task(name)
        np.savez(
            bundle,
            train=np.frombuffer(compiled.bundle.graphs["train"], np.uint8),
            **{f"p {name}": value for name, value in _initial(compiled).items()},
        )
    command = [sys.executable, __file__, "--train-alone", side, name, str(bundle)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def train_alone(side: str, name: str, bundle: Path) -> None:
    """Train an epoch with one side's libraries alone, and print the peak."""
    task, rng, batch = TASKS[name], np.random.default_rng(1), 32
    x = rng.normal(0, 1, (task.examples, *task.shape)).astype(np.float32)
    y = rng.integers(0, task.classes, task.examples)
    if side == "torch":
        torch_steps(name, x, y, batch)()
    else:
        with np.load(bundle) as arrays:
            own = {name.removeprefix("p "): arrays[name] for name in arrays.files if name.startswith("p ")}
            train = arrays["train"].tobytes()
        graph_steps(train, own, x, y, batch)()
    print(_peak_kb() / 1024)


def _peak_kb() -> int:
    """Of this process alone: what getrusage tells begins with the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


def installed_mb(*packages: str) -> float:
    """What these packages alone take on disk, by their own lists of files."""
    total = 0
    for package in packages:
        try:
            files = distribution(package).files or []
        except PackageNotFoundError:
            continue
        total += sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
    return total / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"some of {', '.join(TASKS)}; all by default")
    parser.add_argument("--batch", type=int, action="append", help="8 and 32 by default")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--memory", action="store_true", help="memory and installed size alone")
    parser.add_argument("--train-alone", nargs=3, metavar=("SIDE", "MODEL", "BUNDLE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train_alone:
        side, name, bundle = asked.train_alone
        train_alone(side, name, Path(bundle))
        return 0
    unknown = [name for name in asked.models if name not in TASKS]
    if unknown:
        parser.error(f"{unknown[0]!r}: no such model; there are {', '.join(TASKS)}")
    names = asked.models or list(TASKS)
    rows = _memory(names) if asked.memory else [measure(n, b) for n in names for b in asked.batch or (8, 32)]
    print(json.dumps(rows) if asked.json else _table(rows))
    if not (asked.json or asked.memory):
        print(f"\n{_table(_memory(names))}")
    return 0 if all(row.get("within", True) for row in rows) else 1


def _memory(names: list[str]) -> list[dict[str, Any]]:
    import tempfile

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            ours, theirs = (round(peak_mb(side, name, Path(folder)), 1) for side in ("graph", "torch"))
            rows.append({"model": name, "peak_mb": ours, "torch_peak_mb": theirs, "ratio": round(ours / theirs, 3)})
    ours = installed_mb("numpy", "onnxruntime", "protobuf", "flatbuffers", "packaging")
    theirs = installed_mb("numpy", "torch", "sympy", "mpmath", "networkx", "jinja2", "filelock", "fsspec")
    rows.append(
        {
            "model": "installed",
            "peak_mb": round(ours, 1),
            "torch_peak_mb": round(theirs, 1),
            "ratio": round(ours / theirs, 3),
        }
    )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0])
    return aligned([columns, *([str(row[column]) for column in columns] for row in rows)])


if __name__ == "__main__":
    sys.exit(main())
