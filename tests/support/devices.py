"""Small graphs by hand that keep the manifest's contract, and worse ones, for the tests of a device's runtime."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from headwater.schemas.manifest import Example, GraphName, Manifest, Parameter
from headwater.schemas.messages import Bundle

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
STEP_INPUTS = {
    "order": (INT64, ["steps", "batch"]),
    "mask": (FLOAT, ["steps", "batch"]),
    "learning_rate": (FLOAT, ["steps"]),
}


def value(name: str, kind: int = FLOAT, shape: Sequence[int | str] = ()) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value(name, *rest) for name, rest in inputs.items()],
        [value(name, *rest) for name, rest in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString()


def node(operator: str, *inputs: str, out: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [out], name=out, **attributes)


def bundle(graphs: Mapping[GraphName, bytes], *, shape: tuple[int, ...] = ()) -> Bundle:
    """A model of one parameter `w`, whose examples are single numbers."""
    manifest = Manifest(
        model="m",
        objective="mse",
        parameters=(Parameter(name="w", shape=shape),),
        x=Example(shape=(), dtype="float32"),
        y=Example(shape=(), dtype="float32"),
        metrics=("loss",),
    )
    return Bundle(manifest=manifest, graphs=dict(graphs))


def scanning(body_nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], size: int) -> bytes:
    """A train graph that takes a `[size, size]` state through `body_nodes`, from `s` to `t`, in each step."""
    square = (size, size)
    body = helper.make_graph(
        list(body_nodes),
        "body",
        [value("s", FLOAT, square), value("rows", INT64, ["batch"])],
        [value("t", FLOAT, square)],
    )
    scan = helper.make_node("Scan", ["start", "order"], ["end"], "steps", body=body, num_scan_inputs=1)
    nodes = [scan, node("ReduceSum", "end", out="new_w", keepdims=0), node("Identity", "new_w", out="loss")]
    start = {"start": np.eye(size, dtype=np.float32)}
    return model(nodes, STEP_INPUTS, {"new_w": (FLOAT, ()), "loss": (FLOAT, ())}, {**start, **constants})


def long_scan(size: int = 256, products: int = 20) -> bytes:
    """Every step multiplies matrices: it ends only when its steps do, and stops between two operators."""
    chain = [node("MatMul", "s" if i == 0 else f"m{i}", "start", out=f"m{i + 1}") for i in range(products)]
    return scanning([*chain, node("Identity", f"m{products}", out="t")], {}, size)


def of_one_value(nodes: Sequence[onnx.NodeProto], last: str, constants: Mapping[str, np.ndarray]) -> bytes:
    """A train graph that computes `last` from constants alone, and gives its sum."""
    end = [node("ReduceMax", last, out="new_w", keepdims=0), node("Identity", "new_w", out="loss")]
    return model([*nodes, *end], STEP_INPUTS, {"new_w": (FLOAT, ()), "loss": (FLOAT, ())}, constants)


def long_kernel(size: int = 7_000) -> bytes:
    """One product of large matrices: seconds in a single operator, which looks at no clock, behind two that are soon done."""
    nodes = [
        node("Expand", "one", "wide", out="a"),
        node("Expand", "one", "high", out="b"),
        node("MatMul", "a", "b", out="c"),
    ]
    shapes = {"wide": np.array([size, size]), "high": np.array([size, size])}
    return of_one_value(nodes, "c", {"one": np.ones((1, 1), np.float32), **shapes})


def many_values(count: int = 64, elements: int = 2**24) -> bytes:
    """Each value is allowed; all of them at once are not."""
    nodes = [node("Expand", f"c{i}", "size", out=f"e{i}") for i in range(count)]
    nodes.append(node("Max", *(f"e{i}" for i in range(count)), out="m"))
    constants = {f"c{i}": np.array([i + 1], np.float32) for i in range(count)}
    return of_one_value(nodes, "m", {**constants, "size": np.array([elements])})


def averaging() -> bytes:
    """An honest train graph: w moves towards the mean of x's rows, by the rate of each step."""
    body = helper.make_graph(
        [
            node("Gather", "x", "rows", out="picked"),
            node("Sub", "w_in", "picked", out="errors"),
            node("Mul", "errors", "weights", out="weighted"),
            node("ReduceSum", "weighted", out="sum", keepdims=0),
            node("ReduceSum", "weights", out="count", keepdims=0),
            node("Div", "sum", "count", out="mean"),
            node("Mul", "mean", "rate", out="step"),
            node("Sub", "w_in", "step", out="w_out"),
            node("Mul", "errors", "weighted", out="squares"),
            node("ReduceSum", "squares", out="square", keepdims=0),
            node("Add", "loss_in", "square", out="loss_out"),
        ],
        "body",
        [
            value("w_in"),
            value("loss_in"),
            value("rows", INT64, ["batch"]),
            value("weights", FLOAT, ["batch"]),
            value("rate"),
        ],
        [value("w_out"), value("loss_out")],
    )
    scan = helper.make_node(
        "Scan",
        ["w", "zero", "order", "mask", "learning_rate"],
        ["new_w", "loss"],
        "steps",
        body=body,
        num_scan_inputs=3,
    )
    inputs = {"w": (FLOAT, ()), "x": (FLOAT, ["n"]), **STEP_INPUTS}
    return model([scan], inputs, {"new_w": (FLOAT, ()), "loss": (FLOAT, ())}, {"zero": np.array(0, np.float32)})
