"""Hostile graphs are refused before onnxruntime sees them; honest ones train, in time, or say why not."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from graphs import forward, node, weight

from headwater.core.graph import compile_bundle
from headwater.core.models import mlp
from headwater.device.agent import Agent, Means
from headwater.device.runtime import guard
from headwater.device.runtime.client import Worker
from headwater.device.runtime.failures import GraphRefused, TrainingDiverged
from headwater.device.runtime.guard import check_graph
from headwater.device.runtime.onnx_reader import model_class
from headwater.device.runtime.steps import Course
from headwater.device.runtime.trainer import Trainer
from headwater.device.sources import Fixed
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.node.child import Assignment, Decline
from headwater.schemas.manifest import TRAIN_S
from headwater.schemas.messages import Bundle, Delta, Model, Plan, RoundKey
from headwater.schemas.tensors import decode_tensor, encode_tensors
from headwater.schemas.wire import encode, reference
from support.deltas import untimed

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
        altered(lambda m: m.graph.node.append(node("Einsum", "x", out="z", equation="ij->ji"))),
        "'Einsum' is not",
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


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker()
    yield started
    started.close()


def separable(n: int = 60) -> Dataset:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, n)
    x = (np.eye(4)[y] * 3 + rng.normal(0, 0.3, (n, 4))).astype(np.float32)
    return Dataset(x, y, x, y)


def course(epochs: int = 1, rate: float = 0.1, batch_size: int = 8) -> Course:
    return Course(batch_size, epochs, rate, seed=0, key=RoundKey(run="r", round=1), node="d7")


def test_training_makes_the_loss_fall_and_the_accuracy_rise(worker: Worker) -> None:
    trainer, data = Trainer(HONEST.bundle, worker), separable()
    after = trainer.train(HONEST.initial, data, course=course(epochs=20), time_limit_s=10)

    def metrics(parameters: object) -> dict[str, float]:
        told = trainer.evaluate(parameters, data.test_x, data.test_y, time_limit_s=10)  # type: ignore[arg-type]
        return {m.name: m.total / m.weight for m in told.metrics}

    assert metrics(after.parameters)["loss"] < metrics(HONEST.initial)["loss"] / 2
    assert metrics(after.parameters)["correct"] > 0.95
    assert after.weight == 1200.0
    assert after.epochs == 20


def test_evaluation_in_batches_adds_up_to_that_of_one(worker: Worker) -> None:
    trainer, data = Trainer(HONEST.bundle, worker), separable(1000)
    whole = trainer.evaluate(HONEST.initial, data.test_x, data.test_y, time_limit_s=10)
    one_by_one = np.sum(
        [
            [
                m.total
                for m in trainer.evaluate(
                    HONEST.initial, data.test_x[i : i + 1], data.test_y[i : i + 1], time_limit_s=10
                ).metrics
            ]
            for i in range(1000)
        ],
        axis=0,
    )
    np.testing.assert_allclose([m.total for m in whole.metrics], one_by_one, rtol=1e-5)
    assert {m.weight for m in whole.metrics} == {1000.0}


def test_a_model_that_diverges_is_named(worker: Worker) -> None:
    with pytest.raises(TrainingDiverged, match=r"layer\d\.\w+: no longer finite; lower learning_rate"):
        Trainer(HONEST.bundle, worker).train(
            HONEST.initial, separable(), course=course(epochs=30, rate=1e30), time_limit_s=10
        )


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(worker: Worker) -> None:
    def train(bundle: Bundle) -> None:
        Trainer(bundle, worker).train(HONEST.initial, separable(), course=course(), time_limit_s=10)

    without = HONEST.bundle.model_copy(update={"graphs": {"evaluate": HONEST.bundle.graphs["evaluate"]}})
    with pytest.raises(GraphRefused, match="train: the bundle has no such graph"):
        train(without)
    swapped = HONEST.bundle.model_copy(update={"graphs": {"train": HONEST.bundle.graphs["evaluate"]}})
    with pytest.raises(GraphRefused, match="train: "):
        train(swapped)


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
    return Assignment(plan.model_copy(update=changes), model, bundle, time.monotonic())


Work = Callable[..., Awaitable[Delta | Decline]]


@pytest.fixture
def work(worker: Worker, tmp_path: Path) -> Work:
    async def work(given: Assignment, data: Dataset | None = None) -> Delta | Decline:
        means = Means(worker=worker, state=LocalState(tmp_path))
        return await Agent("d7", {"d": Fixed(data or separable())}, time_limit_s=10.0, means=means).work(given)

    return work


async def test_a_delta_is_the_change_times_the_number_of_examples(work: Work, worker: Worker) -> None:
    data = separable()
    delta = await work(assignment(batch_size=60, evaluate=True), data)
    assert isinstance(delta, Delta)
    assert (delta.sender, delta.weight, delta.examples, delta.devices) == ("d7", 60.0, 60, 1)
    assert {(m.split, m.name) for m in untimed(delta).metrics} == {
        (s, n) for s in ("train", "test") for n in ("loss", "correct")
    }
    # One step of all examples: their order does not matter.
    after = Trainer(HONEST.bundle, worker).train(HONEST.initial, data, course=course(batch_size=60), time_limit_s=9)
    for tensor, new, old in zip(delta.tensors, after.parameters, HONEST.initial, strict=True):
        np.testing.assert_allclose(decode_tensor(tensor), 60 * (new.astype(float) - old), atol=1e-4)


async def test_an_example_of_weight_two_counts_as_two(work: Work) -> None:
    data = separable(20)
    rows = [*range(20), 3, 3, 7]
    twice = replace(data, train_x=data.train_x[rows], train_y=data.train_y[rows])
    weights = np.bincount(rows).astype(np.float32)
    heavy = await work(assignment(batch_size=64), replace(data, train_weights=weights))
    plain = await work(assignment(batch_size=64), twice)
    assert isinstance(heavy, Delta)
    assert isinstance(plain, Delta)
    assert (heavy.weight, heavy.examples, plain.weight) == (23.0, 20, 23.0)
    for one, other in zip(heavy.tensors, plain.tensors, strict=True):
        np.testing.assert_allclose(decode_tensor(one), decode_tensor(other), rtol=1e-4, atol=1e-5)
    for one, other in zip(untimed(heavy).metrics, untimed(plain).metrics, strict=True):
        assert (one.name, one.weight) == (other.name, other.weight)
        assert one.total == pytest.approx(other.total, rel=1e-5)


@pytest.mark.parametrize("task", ["train", "evaluate", "statistics"])
async def test_a_delta_says_how_long_its_device_worked(work: Work, task: str) -> None:
    began = asyncio.get_running_loop().time()
    delta = await work(assignment(task))
    elapsed_s = asyncio.get_running_loop().time() - began
    assert isinstance(delta, Delta)
    (spent,) = [m for m in delta.metrics if m.name == TRAIN_S]
    assert spent.weight == 1.0
    assert 0 < spent.total <= elapsed_s


async def test_what_goes_up_does_not_grow_with_the_data(work: Work) -> None:
    sizes = [len(encode(await work(assignment(), separable(n)))) for n in (30, 3000)]  # type: ignore[arg-type]
    assert abs(sizes[0] - sizes[1]) < 16


async def test_evaluation_and_statistics_carry_no_model(work: Work) -> None:
    evaluated = await work(assignment("evaluate"))
    assert isinstance(evaluated, Delta)
    assert evaluated.tensors == ()
    assert {m.split for m in untimed(evaluated).metrics} == {"test"}
    counted = await work(assignment("statistics"))
    assert isinstance(counted, Delta)
    assert [(t.dtype, t.shape) for t in counted.tensors] == [("float64", (4,))] * 2


HOSTILE = HONEST.bundle.model_copy(update={"graphs": {"train": REFUSALS["a loop"][0]}})


@pytest.mark.parametrize(
    ("about", "reason", "says"),
    [
        ({"data": "other"}, "no_data", "no 'other' here; this device has d"),
        ({"bundle": HOSTILE}, "unsupported_graph", "'Loop' is not allowed"),
        ({"learning_rate": 1e30, "local_epochs": 30}, "training_failed", "no longer finite"),
    ],
)
async def test_a_plan_that_cannot_be_followed_is_declined(
    about: dict[str, Any], reason: str, says: str, work: Work
) -> None:
    declined = await work(assignment(**about))
    assert isinstance(declined, Decline)
    assert declined.reason == reason
    assert says in declined.detail


async def test_data_of_another_shape_and_a_model_of_another_shape_are_declined(work: Work) -> None:
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
