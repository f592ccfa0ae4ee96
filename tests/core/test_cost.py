"""What a model costs: operations against a count by hand, bytes against what is encoded, memory against a measured peak."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.core.cost import cost
from headwater.core.drawing import as_dot, as_mermaid, as_text
from headwater.core.graph import Compiled, compile_bundle
from headwater.core.models import NORMALISER, autoencoder1d, cnn1d, ds_cnn, gru, mlp, transformer
from headwater.schemas.run import LocalTraining

RNG = np.random.default_rng(0)


def compiled(model: bytes, objective: Any = "cross_entropy", **options: Any) -> Compiled:
    return compile_bundle(model, objective=objective, name="m", frozen=NORMALISER, **options)


def by_operator(model: Compiled) -> dict[str, int]:
    counts: dict[str, int] = {}
    for layer in cost(model, 1).layers:
        counts[layer.operator] = counts.get(layer.operator, 0) + layer.operations
    return counts


@pytest.mark.parametrize(
    ("model", "objective", "expected"),
    [
        (mlp(5, (7,), 3, rng=RNG), "cross_entropy", {"Gemm": 2 * (5 * 7 + 7 * 3), "Relu": 7}),
        (
            cnn1d(3, 16, 4, (8,), 5, rng=RNG),
            "cross_entropy",
            {"Conv": 2 * 8 * 16 * 3 * 5, "Relu": 8 * 16, "MaxPool": 8 * 8, "Gemm": 2 * 8 * 4},
        ),
        (
            ds_cnn(49, 10, 12, 64, 4, rng=RNG, batch_norm=False),
            "cross_entropy",
            {"Conv": 2 * 125 * 64 * (40 + 4 * (9 + 64)), "Gemm": 2 * 64 * 12},
        ),
        (gru(5, 7, 3, 6, 1, rng=RNG), "cross_entropy", {"GRU": 2 * 7 * 3 * 6 * (5 + 6), "Gemm": 2 * 6 * 3}),
        (
            autoencoder1d(2, 8, (4,), rng=RNG),
            "reconstruction",
            {"Conv": 2 * 4 * 4 * 2 * 4, "ConvTranspose": 2 * 4 * 4 * 2 * 4},
        ),
        (
            transformer(5, 7, 3, 8, 2, 1, 16, rng=RNG),
            "cross_entropy",
            {"MatMul": 2 * 7 * (5 * 8 + 4 * 8 * 8 + 2 * 8 * 16) + 2 * 2 * 2 * 7 * 7 * 4, "Softmax": 2 * 7 * 7},
        ),
    ],
    ids=["mlp", "cnn1d", "ds_cnn", "gru", "autoencoder1d", "transformer"],
)
def test_operations_are_those_counted_by_hand(model: bytes, objective: str, expected: dict[str, int]) -> None:
    counts = by_operator(compiled(model, objective))
    assert {operator: counts[operator] for operator in expected} == expected


def test_a_step_is_three_times_the_forward_pass_of_its_batch() -> None:
    price = cost(compiled(mlp(5, (7,), 3, rng=RNG)), 16)
    assert price.step_operations == 3 * 16 * price.forward_operations


def test_a_round_takes_what_is_shared_up_and_the_whole_model_down() -> None:
    whole = cost(compiled(mlp(50, (40,), 3, rng=RNG)), 1)
    part = cost(compiled(mlp(50, (40,), 3, rng=RNG), personal=("layer2.*",)), 1)
    assert 0 < whole.up_bytes - 4 * (50 * 40 + 40 + 40 * 3 + 3) < 500
    assert whole.up_bytes - part.up_bytes > 4 * (40 * 3 + 3)
    assert part.down_bytes == whole.down_bytes


def test_what_the_optimiser_keeps_takes_memory() -> None:
    plain, adam = (
        cost(compiled(mlp(50, (40,), 3, rng=RNG), local=LocalTraining(optimiser=name)), 1) for name in ("sgd", "adam")
    )
    assert adam.step_memory_bytes - plain.step_memory_bytes >= 4 * 2 * 2 * 2163


def peak_bytes(model: Compiled, batch: int, folder: Path) -> int:
    """How far four steps raise a process's memory above where it stood."""
    manifest, rows = model.manifest, 4 * batch
    feed = dict(zip((p.name for p in manifest.parameters), model.initial, strict=True))
    feed |= {
        "x": np.zeros((rows, *manifest.x.shape), np.float32),
        "y": np.zeros(rows, np.int64),
        "order": np.arange(rows).reshape(4, batch),
        "mask": np.ones((4, batch), np.float32),
        "learning_rate": np.full(4, 0.01, np.float32),
        "graph": np.frombuffer(model.bundle.graphs["train"], np.uint8),
    }
    np.savez(folder / "feed.npz", **feed)
    command = [sys.executable, str(Path(__file__).parent / "peak.py"), str(folder / "feed.npz")]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the kernel tells no peak here")
@pytest.mark.parametrize(
    "model",
    [
        cnn1d(6, 128, 7, (32, 64), 5, rng=RNG),
        ds_cnn(49, 10, 12, 64, 4, rng=RNG, batch_norm=False),
        gru(6, 128, 5, 64, 1, rng=RNG),
        transformer(6, 128, 4, 32, 4, 2, 64, rng=RNG),
    ],
    ids=["cnn1d", "ds_cnn", "gru", "transformer"],
)
def test_the_estimate_of_memory_is_near_a_measured_peak(model: bytes, tmp_path: Path) -> None:
    trained = compiled(model)
    measured, estimated = peak_bytes(trained, 64, tmp_path), cost(trained, 64).step_memory_bytes
    assert measured / 2.5 < estimated < measured * 2.5


def test_a_drawing_has_every_layer_its_parameters_and_its_arrows() -> None:
    model = compiled(transformer(5, 7, 3, 8, 2, 1, 16, rng=RNG))
    layers = cost(model, 1).layers
    text, mermaid, dot = (form(model.forward) for form in (as_text, as_mermaid, as_dot))
    assert [line.split()[0] for line in text.splitlines()] == ["x", *(layer.name for layer in layers)]
    assert "head" in text
    assert "weight [8, 3], bias [3] = 27" in text
    arrows = sum(max(1, len(layer.inputs)) for layer in layers)
    assert mermaid.count(" --> ") == dot.count(" -> ") == arrows
    assert all(layer.name in mermaid and layer.name in dot for layer in layers)


def test_what_is_made_of_parameters_alone_belongs_to_the_layer_that_takes_it() -> None:
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["w"], ["turned"], "turn", perm=[1, 0]),
            helper.make_node("MatMul", ["x", "turned"], ["y"], "product"),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.ones((3, 4), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (layer,) = cost(compiled(model.SerializeToString()), 1).layers
    assert (layer.name, layer.parameters, layer.shape, layer.operations) == ("product", ("w",), (3,), 24)
