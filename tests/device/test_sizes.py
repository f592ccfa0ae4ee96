"""The bounds hold: no value of a graph that runs is larger than was said, and honest graphs are known exactly."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from cases import CASES
from graphs import node
from onnx import helper, numpy_helper

from headwater.core.graph import compile_bundle
from headwater.core.graph.operators import OPERATORS as COMPILED
from headwater.core.graph.refusal import UnsupportedModel
from headwater.device.runtime import sizes
from headwater.device.runtime.failures import GraphRefused
from headwater.device.runtime.guard import check_graph
from headwater.device.runtime.sizes import Sized, check_sizes
from headwater.schemas.manifest import Manifest
from headwater.schemas.run import LocalTraining
from support.devices import model

ROWS, STEPS, BATCH = 12, 3, 4


def inputs_of(manifest: Manifest) -> dict[str, np.ndarray]:
    """One of everything that a graph of this manifest may take."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.1, shape).astype(np.float32)

    values = {p.name: np.asarray(np.abs(normal(*p.shape))) for p in manifest.parameters}
    values |= {
        "x": normal(ROWS, *manifest.x.shape),
        "order": rng.integers(0, ROWS, (STEPS, BATCH)),
        "learning_rate": np.full(STEPS, 0.01, np.float32),
        "seeds": np.arange(STEPS),
        **{f"slot_{slot.name}": np.zeros(slot.shape, np.float32) for slot in manifest.slots},
        **{f"hyper_{name}": np.array(value, np.float32) for name, value in manifest.hyperparameters.items()},
    }
    if manifest.y is not None:
        values["y"] = normal(ROWS, *manifest.y.shape)
    for p in manifest.trainable:
        values |= {f"anchor_{p.name}": normal(*p.shape), f"correction_{p.name}": normal(*p.shape)}
        values[f"noise_{p.name}"] = normal(STEPS, *p.shape)
    return values


def bounds_of(payload: bytes, values: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> dict[str, Sized]:
    """Every top value's bound."""
    read = check_graph(payload)
    walked: list[dict[str, Sized]] = []
    walk = sizes._walk

    def watching(graph: object, scope: dict[str, Sized], most: int) -> None:
        walk(graph, scope, most)
        walked.append(scope)

    monkeypatch.setattr(sizes, "_walk", watching)
    taken = {value.name for value in read.graph.input}
    check_sizes(read, {name: value.shape for name, value in values.items() if name in taken}, 2**24)
    return walked[-1]


def shapes_of(payload: bytes, values: dict[str, np.ndarray]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every top value's true shape, by letting onnxruntime give them all."""
    read = onnx.load_from_string(payload)
    names = [name for part in read.graph.node for name in part.output if name]
    given = {value.name for value in read.graph.output}
    read.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in given)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(read.SerializeToString(), options)
    taken = {value.name: values[value.name] for value in session.get_inputs()}
    for name, value in zip(names, session.run(names, taken), strict=True):
        yield name, np.shape(value)


@pytest.mark.parametrize("variant", ["plain", "clipped"])
@pytest.mark.parametrize("name", CASES)
def test_no_value_is_larger_than_its_bound(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    try:
        made = compile_bundle(
            case.model(),
            objective="mse",
            name="m",
            frozen=case.frozen,
            variant=variant,  # type: ignore[arg-type]
            local=LocalTraining(optimiser="adam" if variant == "plain" else "sgd"),
        )
    except UnsupportedModel:
        assert variant == "clipped"
        return
    values = inputs_of(made.manifest)
    for graph, payload in made.bundle.graphs.items():
        given = values | {"mask": np.ones((STEPS, BATCH) if graph == "train" else ROWS, np.float32)}
        with monkeypatch.context() as patched:
            bounds = bounds_of(payload, given, patched)
        for value, shape in shapes_of(payload, given):
            bound = bounds[value]
            assert int(np.prod(shape)) <= bound.elements, value
            assert not bound.exact or bound.dims == shape, value


def test_every_operator_of_the_compiler_has_a_rule() -> None:
    lowered = {"GRU", "LSTM", "RNN", "Dropout", "GroupNormalization", "InstanceNormalization"}
    assert set(COMPILED) - sizes.OPERATORS <= lowered


def grows(inner: list[onnx.NodeProto], out: str) -> bytes:
    """A Scan of three steps whose body gives the state back as `out`."""
    body = helper.make_graph(
        inner,
        "body",
        [helper.make_tensor_value_info("s", 1, None), helper.make_tensor_value_info("row", 7, None)],
        [helper.make_tensor_value_info(out, 1, None)],
    )
    scan = helper.make_node("Scan", ["w", "order"], ["z"], "scan", body=body, num_scan_inputs=1)
    return model([scan], {"w": (1, ["a"]), "order": (7, ["steps"])}, {"z": (1, ["a"])})


REFUSALS = {
    "a state that grows": (grows([node("Concat", "s", "s", out="t", axis=0)], "t"), "state 0 goes in with 8 elements"),
    "a value that is not there": (grows([node("Relu", "nowhere", out="t")], "t"), "no value 'nowhere'"),
    "a body that takes something else": (
        model(
            [
                helper.make_node(
                    "Scan", ["w"], ["z"], "scan", body=helper.make_graph([], "b", [], []), num_scan_inputs=1
                )
            ],
            {"w": (1, ["a"])},
            {"z": (1, ["a"])},
        ),
        "graph",
    ),
    "a size by way of halves": (
        model(
            [
                node("Cast", "two", out="f", to=1),
                node("Div", "one", "f", out="half"),
                node("Cast", "half", out="i", to=7),
                node("Expand", "w", "i", out="z"),
            ],
            {"w": (1, ["a"])},
            {"z": (1, ["b"])},
            {"two": np.array([2]), "one": np.ones(1, np.float32)},
        ),
        "its size follows from 'i', which is not known",
    ),
    "a size that wraps around": (
        model(
            [node("Mul", "much", "much", out="more"), node("Expand", "w", "more", out="z")],
            {"w": (1, ["a"])},
            {"z": (1, ["b"])},
            {"much": np.array([2**20])},
        ),
        "its size follows from 'more', which is not known",
    ),
    "an axis that there is not": (
        model([node("Concat", "w", "w", out="z", axis=5)], {"w": (1, ["a"])}, {"z": (1, ["a"])}),
        "axis 5 of 1",
    ),
    "a resize without end": (
        model(
            [node("Resize", "w", "", "times", out="z", mode="nearest")],
            {"w": (1, ["a"])},
            {"z": (1, ["b"])},
            {"times": np.array([1e9], np.float32)},
        ),
        "its factors are no constant",
    ),
    "a resize by factors that come later": (
        model(
            [node("Neg", "times", out="later"), node("Resize", "w", "", "later", out="z", mode="nearest")],
            {"w": (1, ["a"])},
            {"z": (1, ["b"])},
            {"times": np.array([-2], np.float32)},
        ),
        "its factors are no constant",
    ),
    "a pad without end": (
        model(
            [node("Pad", "w", "pads", out="z")], {"w": (1, ["a"])}, {"z": (1, ["b"])}, {"pads": np.array([0, 2**30])}
        ),
        "gives up to 1073741832 elements",
    ),
    "a range without end": (
        model(
            [node("Range", "from", "to", "by", out="z")],
            {},
            {"z": (7, ["b"])},
            {"from": np.array(0), "to": np.array(2**31 - 1), "by": np.array(1)},
        ),
        "gives up to 2147483647 elements",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_bounded_is_refused(name: str) -> None:
    payload, says = REFUSALS[name]
    with pytest.raises(GraphRefused, match=says):
        check_sizes(check_graph(payload), {"w": (8,), "order": (3,)}, 2**24)


def test_many_iterations_are_refused() -> None:
    with pytest.raises(GraphRefused, match="2000000 iterations; at most 1000000"):
        check_sizes(check_graph(grows([node("Relu", "s", out="t")], "t")), {"w": (8,), "order": (2_000_000,)}, 2**24)


def test_a_constant_is_read_as_numpy_helper_reads_it() -> None:
    from headwater.device.runtime.onnx_reader import model_class, whole_numbers

    for array in (np.array([1, -2, 3]), np.array([[7]], np.int32), np.array(5), np.array([1.0], np.float32)):
        tensor = numpy_helper.from_array(array, "t")
        payload = model([node("Identity", "t", out="z")], {}, {"z": (7, ["n"])})
        whole = onnx.load_from_string(payload)
        whole.graph.initializer.append(tensor)
        found = whole_numbers(model_class().FromString(whole.SerializeToString()).graph.initializer[0], 10)
        if array.dtype.kind == "f":
            assert found is None
        else:
            np.testing.assert_array_equal(found, array)
