"""Step for step, ragged batches included, the graphs do what PyTorch does: on its record always, live where it is."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "oracle"))

import record
from graphs import forward, node

from headwater.core.graph import compile_bundle

NAMES = ("w1", "b1", "w2", "b2")


def graph_steps(objective: str, activation: str) -> dict[str, list[np.ndarray]]:
    """The train graph, run one step at a time from its own last parameters."""
    given = record.inputs(objective, activation)
    nodes = [
        node("Gemm", "x", "w1", "b1", out="s"),
        node(activation.capitalize(), "s", out="h"),
        node("Gemm", "h", "w2", "b2", out="y"),
    ]
    compiled = compile_bundle(forward(nodes, {name: given[name] for name in NAMES}), objective=objective, name="m")
    session = ort.InferenceSession(compiled.bundle.graphs["train"], providers=["CPUExecutionProvider"])
    values = {name: given[name] for name in NAMES}
    after: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for epoch in given["order"].reshape(record.EPOCHS, record.EXAMPLES):
        for start in range(0, record.EXAMPLES, record.BATCH):
            rows = epoch[start : start + record.BATCH]
            order, mask = np.zeros((1, record.BATCH), np.int64), np.zeros((1, record.BATCH), np.float32)
            order[0, : len(rows)], mask[0, : len(rows)] = rows, 1.0
            feed = {"x": given["x"], "y": given["y"], "order": order, "mask": mask}
            new = session.run(
                [f"new_{name}" for name in NAMES],
                values | feed | {"learning_rate": np.array(record.RATE, np.float32)},
            )
            values = dict(zip(NAMES, new, strict=True))
            for name in NAMES:
                after[name].append(values[name])
    return after


@pytest.mark.parametrize(("objective", "activation"), record.CASES)
def test_steps_are_those_that_pytorch_made(objective: str, activation: str) -> None:
    expected = np.load(record.RECORD)
    for name, values in graph_steps(objective, activation).items():
        np.testing.assert_allclose(np.stack(values), expected[f"{objective}.{activation}.{name}"], atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize(("objective", "activation"), record.CASES)
def test_steps_are_those_that_pytorch_makes(objective: str, activation: str) -> None:
    if importlib.util.find_spec("torch") is None:
        message = "PyTorch is not installed (pip install -e '.[oracle]')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    expected = record.torch_steps(objective, activation)
    for name, values in graph_steps(objective, activation).items():
        np.testing.assert_allclose(np.stack(values), expected[name], atol=1e-6)
