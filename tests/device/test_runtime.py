"""Hostile graphs are refused before onnxruntime sees them; honest ones train, in time, or say why not."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from graphs import forward, node, weight

from headwater.core.batches import minibatches
from headwater.core.graph import compile_bundle
from headwater.core.models import mlp
from headwater.device.agent import Agent
from headwater.device.runtime import guard
from headwater.device.runtime.guard import GraphRefused, check_graph
from headwater.device.runtime.onnx_reader import model_class
from headwater.device.runtime.trainer import Trainer, TrainingDiverged, TrainingTimedOut
from headwater.device.sources.dataset import Dataset
from headwater.node.child import Assignment, Decline
from headwater.schemas.messages import Bundle, Delta, Model, Plan, RoundKey
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode, reference

HONEST = compile_bundle(mlp(4, (8,), 3, rng=np.random.default_rng(0)), objective="cross_entropy", name="m")
W = {"w": weight(6, 3)}


def altered(change: object) -> bytes:
    model = onnx.load_from_string(forward([node("MatMul", "x", "w", out="y")], W))
    change(model)  # type: ignore[operator]
    return model.SerializeToString()


def external(tensor: onnx.TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def in_attribute(model: onnx.ModelProto) -> None:
    hidden = numpy_helper.from_array(weight(3), "hidden")
    external(hidden)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], "c", value=hidden))


def nested(depth: int, operator: str = "Relu") -> bytes:
    body = helper.make_graph([node(operator, "a", out="b")], "body", [], [])
    for _ in range(depth):
        body = helper.make_graph([helper.make_node("Scan", ["a"], ["b"], "scan", body=body)], "body", [], [])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()


def function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [node("Relu", "a", out="b")], model.opset_import)
    )


REFUSALS = {
    "an operator that is not listed": (
        altered(lambda m: m.graph.node.append(node("Sin", "x", out="z"))),
        "'Sin' is not",
    ),
    "a loop": (altered(lambda m: m.graph.node.append(node("Loop", "x", out="z"))), "'Loop' is not allowed"),
    "an operator hidden in a body": (nested(2, "If"), "'If' is not allowed"),
    "another domain": (altered(lambda m: m.opset_import.append(helper.make_opsetid("com.acme", 1))), "com.acme"),
    "a node of another domain": (
        altered(lambda m: m.graph.node.append(helper.make_node("Add", ["x", "x"], ["z"], "n", domain="com.acme"))),
        "node 'n': domain 'com.acme'",
    ),
    "a function": (altered(function), "functions"),
    "external data": (
        altered(lambda m: external(m.graph.initializer[0])),
        "'w': external data; a device reads no file",
    ),
    "external data in an attribute": (altered(in_attribute), "'hidden': external data"),
    "a sparse initializer": (altered(lambda m: m.graph.sparse_initializer.add()), "sparse"),
    "an old opset": (forward([node("MatMul", "x", "w", out="y")], W, opset=12), "opset"),
    "too deep": (nested(6), "nested more than 4 deep"),
    "too many nodes": (
        altered(lambda m: m.graph.node.extend([node("Relu", "x", out=f"r{i}") for i in range(guard.MAX_NODES)])),
        "nodes; 1 to",
    ),
    "a constant that is too large": (altered(lambda m: m.graph.initializer[0].dims.append(2**30)), "elements; at most"),
    "no graph": (b"", "graph"),
    "too many bytes": (b"\x00" * (guard.MAX_GRAPH_SIZE_BYTES + 1), "bytes; at most"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_hostile_graph_is_refused_by_name(name: str) -> None:
    payload, says = REFUSALS[name]
    with pytest.raises(GraphRefused, match=says):
        check_graph(payload)


def test_what_the_compiler_makes_is_accepted() -> None:
    for objective in ("cross_entropy", "mse"):
        made = compile_bundle(
            mlp(4, (8,), 3, rng=np.random.default_rng(0), normalise=True), objective=objective, name="m"
        )
        for payload in made.bundle.graphs.values():
            check_graph(payload)


def test_the_reader_sees_what_the_onnx_package_sees() -> None:
    for payload in HONEST.bundle.graphs.values():
        mine = model_class()()
        mine.ParseFromString(payload)
        theirs = onnx.load_from_string(payload)
        for a, b in ((mine.graph, theirs.graph), (mine.graph.node[0].attribute, theirs.graph.node[0].attribute)):
            if hasattr(a, "node"):
                assert [n.op_type for n in a.node] == [n.op_type for n in b.node]
            else:
                bodies = [
                    ([n.op_type for n in x.g.node], [n.op_type for n in y.g.node]) for x, y in zip(a, b, strict=True)
                ]
                assert all(one == other for one, other in bodies)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_worse(payload: bytes) -> None:
    with pytest.raises(GraphRefused):
        check_graph(payload)


@given(st.integers(0, 4000), st.integers(0, 255))
def test_a_damaged_graph_is_accepted_or_refused_and_nothing_worse(position: int, value: int) -> None:
    payload = bytearray(HONEST.bundle.graphs["train"])
    payload[position % len(payload)] = value
    try:
        check_graph(bytes(payload))
    except GraphRefused:
        return


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────


def separable(n: int = 60) -> Dataset:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, n)
    x = (np.eye(4)[y] * 3 + rng.normal(0, 0.3, (n, 4))).astype(np.float32)
    return Dataset(x, y, x, y)


def train(trainer: Trainer, data: Dataset, epochs: int = 1, rate: float = 0.1, limit_s: float = 10.0, parameters=None):  # type: ignore[no-untyped-def]
    order, mask = minibatches(len(data.train_x), 8, epochs, np.random.default_rng(0))
    start = HONEST.initial if parameters is None else parameters
    return trainer.train(start, data, order=order, mask=mask, learning_rate=rate, time_limit_s=limit_s)


def test_training_makes_the_loss_fall_and_the_accuracy_rise() -> None:
    trainer, data = Trainer(HONEST.bundle), separable()
    after = train(trainer, data, epochs=20)

    def metrics(parameters: object) -> dict[str, float]:
        told = trainer.evaluate(parameters, data.test_x, data.test_y, time_limit_s=10)  # type: ignore[arg-type]
        return {m.name: m.total / m.weight for m in told}

    assert metrics(after.parameters)["loss"] < metrics(HONEST.initial)["loss"] / 2
    assert metrics(after.parameters)["correct"] > 0.95
    assert [m.weight for m in after.metrics] == [1200.0, 1200.0]


def endless() -> Bundle:
    """A train graph whose every step multiplies large matrices, many times."""
    size = 512
    steps = [node("MatMul", f"m{i}", "big", out=f"m{i + 1}") for i in range(200)]
    body = helper.make_graph(
        [node("Identity", "carried", out="m0"), *steps, node("Identity", "m200", out="out")],
        "body",
        [
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, [size, size]),
            helper.make_tensor_value_info("row", TensorProto.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [size, size])],
    )
    scan = helper.make_node("Scan", ["big", "order"], ["new_w"], "scan", body=body, num_scan_inputs=1)
    graph = helper.make_graph(
        [scan, node("ReduceSum", "mask", out="loss", keepdims=0), node("Identity", "loss", out="correct")],
        "g",
        [
            helper.make_tensor_value_info("order", TensorProto.INT64, ["steps", "batch"]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["steps", "batch"]),
        ],
        [helper.make_tensor_value_info("new_w", TensorProto.FLOAT, [size, size])]
        + [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("loss", "correct")],
        [numpy_helper.from_array(np.eye(size, dtype=np.float32), "big")],
    )
    payload = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    manifest = HONEST.manifest.model_copy(
        update={"parameters": (HONEST.manifest.parameters[0].model_copy(update={"name": "w", "shape": (size, size)}),)}
    )
    return Bundle(manifest=manifest, graphs={"train": payload})


def test_a_graph_that_takes_too_long_is_stopped() -> None:
    trainer = Trainer(endless())
    started = time.monotonic()
    with pytest.raises(TrainingTimedOut, match=r"stopped after 0\.3 s"):
        train(trainer, separable(), epochs=50, limit_s=0.3, parameters=(np.zeros((512, 512), np.float32),))
    assert time.monotonic() - started < 20


def test_a_model_that_diverges_is_named() -> None:
    with pytest.raises(TrainingDiverged, match=r"layer\d\.\w+: no longer finite; lower learning_rate"):
        train(Trainer(HONEST.bundle), separable(), epochs=30, rate=1e30)


def test_a_graph_that_is_not_what_the_manifest_says_is_refused() -> None:
    without = HONEST.bundle.model_copy(update={"graphs": {"evaluate": HONEST.bundle.graphs["evaluate"]}})
    with pytest.raises(GraphRefused, match="train: the bundle has no such graph"):
        train(Trainer(without), separable())
    swapped = HONEST.bundle.model_copy(update={"graphs": {"train": HONEST.bundle.graphs["evaluate"]}})
    with pytest.raises(GraphRefused, match="train: onnxruntime refused it"):
        train(Trainer(swapped), separable())


# ── the agent ───────────────────────────────────────────────────────────────────────────────────────────────────


def assignment(task: str = "train", data: str = "d", bundle: Bundle = HONEST.bundle, **changes: object) -> Assignment:
    model = Model(run="r", version=0, tensors=encode_tensors(HONEST.initial))
    plan = Plan(
        key=RoundKey(run="r", round=1),
        task=task,  # type: ignore[arg-type]
        data=data,
        model=reference(encode(model)),
        bundle=reference(encode(bundle)),
    )
    return Assignment(plan.model_copy(update=changes), model, bundle, 0.0)


async def work(given: Assignment, data: Dataset | None = None) -> Delta | Decline:
    return await Agent("d7", {"d": data or separable()}, time_limit_s=10.0).work(given)


async def test_a_delta_is_the_change_times_the_number_of_examples() -> None:
    data = separable()
    delta = await work(assignment(batch_size=60, evaluate=True), data)
    assert isinstance(delta, Delta)
    assert (delta.sender, delta.weight, delta.examples, delta.devices) == ("d7", 60.0, 60, 1)
    assert {(m.split, m.name) for m in delta.metrics} == {
        (s, n) for s in ("train", "test") for n in ("loss", "correct")
    }
    from headwater.schemas.tensors import decode_tensor

    after = Trainer(HONEST.bundle).train(
        HONEST.initial,
        data,
        order=np.arange(60)[None],
        mask=np.ones((1, 60), np.float32),
        learning_rate=0.1,
        time_limit_s=9,
    )
    for tensor, new, old in zip(delta.tensors, after.parameters, HONEST.initial, strict=True):
        np.testing.assert_allclose(decode_tensor(tensor), 60 * (new.astype(float) - old), atol=1e-4)


async def test_what_goes_up_does_not_grow_with_the_data() -> None:
    sizes = [len(encode(await work(assignment(), separable(n)))) for n in (30, 3000)]  # type: ignore[arg-type]
    assert abs(sizes[0] - sizes[1]) < 16


async def test_evaluation_and_statistics_carry_no_model() -> None:
    evaluated = await work(assignment("evaluate"))
    assert isinstance(evaluated, Delta)
    assert evaluated.tensors == ()
    assert {m.split for m in evaluated.metrics} == {"test"}
    counted = await work(assignment("statistics"))
    assert isinstance(counted, Delta)
    assert [(t.dtype, t.shape) for t in counted.tensors] == [("float64", (4,))] * 2


HOSTILE = HONEST.bundle.model_copy(update={"graphs": {"train": REFUSALS["a loop"][0]}})


@pytest.mark.parametrize(
    ("given_", "reason", "says"),
    [
        (assignment(data="other"), "no_data", "no 'other' here; this device has d"),
        (assignment(bundle=HOSTILE), "unsupported_graph", "'Loop' is not allowed"),
        (assignment(learning_rate=1e30, local_epochs=30), "training_failed", "no longer finite"),
    ],
)
async def test_a_plan_that_cannot_be_followed_is_declined(given_: Assignment, reason: str, says: str) -> None:
    declined = await work(given_)
    assert isinstance(declined, Decline)
    assert declined.reason == reason
    assert says in declined.detail


async def test_data_of_another_shape_and_a_model_of_another_shape_are_declined() -> None:
    wide = separable()
    declined = await work(
        assignment(), Dataset(np.ones((5, 9), np.float32), np.zeros(5, int), wide.test_x, wide.test_y)
    )
    assert isinstance(declined, Decline)
    assert declined.reason == "wrong_data"
    short = Model(run="r", version=0, tensors=encode_tensors(HONEST.initial[:1]))
    declined = await work(replace(assignment(), model=short))
    assert isinstance(declined, Decline)
    assert declined.reason == "wrong_shape"
