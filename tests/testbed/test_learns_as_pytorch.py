"""A fleet's models end where PyTorch's do: three of the zoo's kinds, and one of a package that nobody here wrote.

The same shards, first weights and minibatches; the tree's processes on one side, FedAvg with PyTorch's autograd in this
process on the other.
"""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "oracle"))

from headwater.cloud.history import open_history
from headwater.cloud.preparation import forward_model
from headwater.core.batches import minibatches, shuffling
from headwater.device.sources import load
from headwater.device.sources.dataset import Dataset
from headwater.schemas.messages import Model, RoundKey
from headwater.schemas.run import RunDescription
from headwater.schemas.sources import DigitsSource, FileSource
from headwater.schemas.tensors import decode_tensor
from headwater.schemas.wire import decode_object
from headwater.testbed.tree import Tree, standing
from support.waiting import eventually, wait_online

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(240)]

Predict = Callable[[Mapping[str, Any], Any, Any], Any]
"""(parameters by name, x, what collects running statistics) -> logits, in PyTorch."""

DEVICES = tuple(f"d{i}" for i in range(4))
TREE = {"gw1": DEVICES[:2], "gw2": DEVICES[2:]}
ROUNDS = 6

KINDS: dict[str, tuple[dict[str, Any], tuple[int, ...], float]] = {
    "cnn2d": (
        {"kind": "cnn2d", "height": 8, "width": 8, "classes": 10, "filters": [8, 16], "batch_norm": True},
        (1, 8, 8),
        0.1,
    ),
    "gru": ({"kind": "gru", "features": 8, "time": 8, "classes": 10, "hidden": 24}, (8, 8), 0.5),
    "transformer": (
        {"kind": "transformer", "features": 8, "time": 8, "classes": 10, "width": 16, "hidden": 32, "heads": 2},
        (8, 8),
        0.2,
    ),
    "of a package": ({"kind": "onnx", "path": "tcn.onnx", "classes": 10}, (8, 8), 0.1),
}


@pytest.fixture(autouse=True)
def _needs_torch() -> None:
    missing = [name for name in ("torch", "pytorch_tcn") if importlib.util.find_spec(name) is None]
    if missing:
        message = f"{', '.join(missing)} is not installed (pip install -e '.[oracle]')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


def of_a_package() -> Any:
    """A temporal convolutional network, as its authors wrote it, over rows of pixels: weight norm, residuals, dilation."""
    import torch
    from pytorch_tcn import TCN

    torch.manual_seed(0)

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = TCN(8, [16, 16], kernel_size=3, dropout=0.0, input_shape="NLC")
            self.head = torch.nn.Linear(16, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x)[:, -1])

    return Classifier()


def shard(folder: Path, index: int, shape: tuple[int, ...]) -> dict[str, Any]:
    """A device's digits in this shape, as a file of its own; its source."""
    data = load("digits", DigitsSource(kind="digits", devices=len(DEVICES), index=index, alpha=0.5))
    x = np.concatenate([data.train_x, data.test_x]).reshape(-1, *shape)
    path = folder / f"{'x'.join(map(str, shape))}-{index}.npz"
    np.savez(path, x=x, y=np.concatenate([data.train_y, data.test_y]))
    share = len(data.test_x) / len(x)
    # The number of test rows is rounded down.
    return {
        "kind": "file",
        "path": str(path),
        "features": ["x"],
        "target": "y",
        "classes": 10,
        "test_fraction": share + 1e-9,
    }


def described(name: str) -> RunDescription:
    model, shape, rate = KINDS[name]
    return RunDescription.model_validate_json(
        RunDescription.model_validate(
            {
                "name": name,
                "data": "x".join(map(str, shape)),
                "rounds": ROUNDS,
                "seed": 3,
                "model": model | {key: tuple(value) for key, value in model.items() if isinstance(value, list)},
                "local": {"batch_size": 16, "learning_rate": rate},
                "cohort": {"deadline_s": 60.0, "quorum": 1.0, "min_children": 2},
            }
        ).model_dump_json()
    )


def model_of(name: str, forward: bytes) -> Predict:
    """The package's own module, or each ONNX operator as PyTorch's function of that meaning."""
    import torch
    from torch_model import TorchModel

    if name != "of a package":
        return TorchModel(forward)
    module = of_a_package().double()
    return lambda parameters, x, _: torch.func.functional_call(module, dict(parameters), (x,))


def by_pytorch(
    model: Predict, initial: Mapping[str, np.ndarray], shards: Mapping[str, Dataset], about: RunDescription, run: str
) -> dict[str, np.ndarray]:
    """FedAvg (McMahan et al. 2017, algorithm 1), running statistics averaged like weights."""
    import torch
    from torch_model import Run

    torch.set_num_threads(1)
    values = {name: np.asarray(value, np.float64) for name, value in initial.items()}
    examples = sum(len(data.train_x) for data in shards.values())
    for number in range(1, about.rounds + 1):
        sums = {name: np.zeros_like(value) for name, value in values.items()}
        for node, data in shards.items():
            rng = shuffling(about.seed, RoundKey(run=run, round=number), node)
            order, mask = minibatches(len(data.train_x), about.local.batch_size, 1, rng)
            local = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
            for rows, keep in zip(order, mask, strict=True):
                seen, state = rows[keep > 0], Run()
                said = model(local, torch.tensor(data.train_x[seen], dtype=torch.float64), state)
                loss = torch.nn.functional.cross_entropy(said, torch.tensor(np.asarray(data.train_y[seen])))
                grads = torch.autograd.grad(loss, list(local.values()), allow_unused=True)
                with torch.no_grad():
                    for (name, value), grad in zip(list(local.items()), grads, strict=True):
                        new = state.moved.get(name, value)
                        moved = new if grad is None else new - about.local.learning_rate * grad
                        local[name] = moved.detach().requires_grad_(True)
            for name, value in local.items():
                sums[name] += value.detach().numpy() * len(data.train_x) / examples
        values = sums
    return values


def accuracy(forward: bytes, values: list[np.ndarray], data: Dataset) -> float:
    import onnx
    import onnxruntime as ort

    from headwater.core.graph import export_inference

    payload = export_inference(forward, [np.asarray(value, np.float32) for value in values])
    x = next(value.name for value in onnx.load_from_string(payload).graph.input)
    session = ort.InferenceSession(payload, providers=["CPUExecutionProvider"])
    return float((session.run(None, {x: data.test_x})[0].argmax(1) == data.test_y).mean())


def test_a_fleet_ends_where_pytorch_does(tmp_path: Path) -> None:
    import torch

    from headwater.models import from_torch

    shapes = {shape for _, shape, _ in KINDS.values()}
    sources = {
        name: {"x".join(map(str, shape)): shard(tmp_path, index, shape) for shape in shapes}
        for index, name in enumerate(DEVICES)
    }
    forwards = {name: forward_model(described(name), None) for name in KINDS if name != "of a package"}
    forwards["of a package"] = from_torch(of_a_package(), torch.randn(2, 8, 8))
    tree = Tree(fleet="plant", clusters=TREE, data=sources)
    with standing(tree, tmp_path / "run") as fleet:
        wait_online(tmp_path / "run", (*tree.gateways, *tree.devices))
        history = open_history(fleet.database)
        try:
            for number, name in enumerate(KINDS):
                own = forwards[name] if name == "of a package" else None
                history.enqueue_run(f"r{number}", "plant", described(name), own, datetime.now(UTC))
            for number, name in enumerate(KINDS):
                run = f"r{number}"
                eventually(lambda run=run: history.show_run(run).state not in ("queued", "running"), 100.0)
                assert history.show_run(run).state == "finished", history.show_run(run).failure
                _compare(name, run, history, forwards[name], sources)
        finally:
            history.close()


def _compare(name: str, run: str, history: Any, forward: bytes, sources: Mapping[str, Mapping[str, Any]]) -> None:
    from headwater.core.graph import compile_bundle

    about = described(name)
    made = compile_bundle(forward, objective="cross_entropy", name=name)
    names = [parameter.name for parameter in made.manifest.parameters]
    tensors = decode_object(history.model_of(run)[1], Model).tensors
    fleet = [decode_tensor(tensor) for tensor in tensors]
    specs = {node: FileSource.model_validate_json(json.dumps(sources[node][about.data])) for node in DEVICES}
    shards = {node: load(about.data, spec) for node, spec in specs.items()}
    initial = dict(zip(names, made.initial, strict=True))
    torch_values = by_pytorch(model_of(name, forward), initial, shards, about, run)
    test = shards["d0"]
    ours = accuracy(forward, fleet, test)
    theirs = accuracy(forward, [torch_values[key] for key in names], test)
    print(f"{name}: fleet {ours:.4f}, PyTorch {theirs:.4f}")
    assert abs(ours - theirs) <= 0.01, name
    assert ours > accuracy(forward, list(made.initial), test) + 0.3, name
