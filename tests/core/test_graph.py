"""The compiler: every rule against finite differences, the steps against their meaning, and refusals by name."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from graphs import dense, dense_weights, forward, node, weight

from headwater.core.batches import minibatches
from headwater.core.graph import Compiled, UnsupportedModel, compile_bundle, export_inference, operators
from headwater.core.graph import objective as objectives
from headwater.core.graph.gate import verify
from headwater.core.models import NORMALISER, mlp
from headwater.schemas.manifest import Objective

RNG = np.random.default_rng(7)

# Each case: nodes from x [batch, 6] to y [batch, 3], and the weights that they use.
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "MatMul": ([node("MatMul", "x", "w", out="y")], {"w": weight(6, 3)}),
    "Gemm": ([dense("x", "y")], dense_weights(6, 3)),
    "Gemm without bias": ([node("Gemm", "x", "w", out="y")], {"w": weight(6, 3)}),
    "Gemm transB alpha beta": (
        [node("Gemm", "x", "w", "b", out="y", transB=1, alpha=0.5, beta=2.0)],
        {"w": weight(3, 6), "b": weight(3)},
    ),
    "Gemm of two parameters, both transposed": (
        [node("Gemm", "a", "b", out="w", transA=1, transB=1), node("MatMul", "x", "w", out="y")],
        {"a": weight(4, 6), "b": weight(3, 4)},
    ),
    "Gemm of two parameters, transA": (
        [node("Gemm", "a", "b", out="w", transA=1), node("MatMul", "x", "w", out="y")],
        {"a": weight(4, 6), "b": weight(4, 3)},
    ),
    "Gemm scalar bias": ([node("Gemm", "x", "w", "b", out="y")], {"w": weight(6, 3), "b": weight(1)}),
    "Add of a row": ([dense("x", "h"), node("Add", "h", "r", out="y")], dense_weights(6, 3) | {"r": weight(3)}),
    "Add of a scalar": ([dense("x", "h"), node("Add", "r", "h", out="y")], dense_weights(6, 3) | {"r": weight()}),
    "Add of a value to itself": ([dense("x", "h"), node("Add", "h", "h", out="y")], dense_weights(6, 3)),
    "Sub": ([dense("x", "h"), node("Sub", "r", "h", out="y")], dense_weights(6, 3) | {"r": weight(1, 3)}),
    "Mul": ([dense("x", "h"), node("Mul", "h", "r", out="y")], dense_weights(6, 3) | {"r": weight(1, 3)}),
    "Mul of a value with itself": ([dense("x", "h"), node("Mul", "h", "h", out="y")], dense_weights(6, 3)),
    "Div": (
        [dense("x", "h"), node("Div", "h", "r", out="y")],
        dense_weights(6, 3) | {"r": np.array([1.5, -2.0, 3.0], np.float32)},
    ),
    "Div by a value": (
        [dense("x", "h"), node("Sigmoid", "h", out="s"), node("Div", "r", "s", out="y")],
        dense_weights(6, 3) | {"r": weight(3)},
    ),
    "Relu": ([dense("x", "h"), node("Relu", "h", out="y")], dense_weights(6, 3)),
    "Tanh": ([dense("x", "h"), node("Tanh", "h", out="y")], dense_weights(6, 3)),
    "Sigmoid": ([dense("x", "h"), node("Sigmoid", "h", out="y")], dense_weights(6, 3)),
    "inner Softmax": (
        [dense("x", "h"), node("Softmax", "h", out="s"), node("MatMul", "s", "v", out="y")],
        dense_weights(6, 4) | {"v": weight(4, 3)},
    ),
    "Identity": ([dense("x", "h"), node("Identity", "h", out="y")], dense_weights(6, 3)),
    "Flatten": (
        [node("Reshape", "x", "shape", out="r"), node("Flatten", "r", out="f"), dense("f", "y")],
        dense_weights(6, 3) | {"shape": np.array([0, 2, 3], np.int64)},
    ),
    "Reshape": (
        [
            dense("x", "h"),
            node("Reshape", "h", "shape", out="r"),
            node("Mul", "r", "m", out="n"),
            node("Flatten", "n", out="y"),
        ],
        dense_weights(6, 4) | {"shape": np.array([-1, 2, 2], np.int64), "m": weight(2, 1)},
    ),
    "Constant": (
        [
            node("Constant", out="c", value=numpy_helper.from_array(weight(3, seed=3), "c")),
            dense("x", "h"),
            node("Mul", "h", "c", out="y"),
        ],
        dense_weights(6, 3),
    ),
    "Constant by value_floats": (
        [
            node("Constant", out="c", value_floats=[1.0, -2.0, 0.5]),
            dense("x", "h"),
            node("Mul", "h", "c", out="y"),
        ],
        dense_weights(6, 3),
    ),
    "Constant by value_float": (
        [node("Constant", out="c", value_float=2.0), dense("x", "h"), node("Mul", "h", "c", out="y")],
        dense_weights(6, 3),
    ),
    "Gemm with an empty bias": ([node("Gemm", "x", "w", "", out="y")], {"w": weight(6, 3)}),
    "a constant by the name of a metric": (
        [node("Reshape", "x", "loss", out="r"), dense("r", "y")],
        dense_weights(6, 3) | {"loss": np.array([0, 6], np.int64)},
    ),
    "fan-out and back": (
        [
            dense("x", "h"),
            node("Tanh", "h", out="t"),
            node("Sigmoid", "h", out="s"),
            node("Mul", "t", "s", out="m"),
            node("Add", "m", "h", out="y"),
        ],
        dense_weights(6, 3),
    ),
    "a weight used twice": (
        [node("MatMul", "x", "w", out="h"), node("Tanh", "h", out="t"), node("MatMul", "t", "w", out="y")],
        {"w": weight(6, 6)},
    ),
}
OUTPUTS = {"Reshape": 4, "a weight used twice": 6}


def compiled(name: str, objective: Objective) -> Compiled:
    nodes, weights = CASES[name]
    model = forward(nodes, weights, outputs=(OUTPUTS.get(name, 3),))
    return compile_bundle(model, objective=objective, name="m")


@pytest.mark.parametrize("objective", ["cross_entropy", "mse"])
@pytest.mark.parametrize("name", CASES)
def test_a_gradient_agrees_with_finite_differences(name: str, objective: Objective) -> None:
    checks = verify(compiled(name, objective), rng=np.random.default_rng(3))
    assert checks.checks == 2 * 3 * len(compiled(name, objective).manifest.trainable)
    assert checks.worst < 1e-4


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from(["relu", "tanh", "sigmoid"]),
    st.sampled_from(["cross_entropy", "mse"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_small_mlp_passes_the_gate(
    hidden: list[int], activation: str, objective: Objective, normalise: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    model = mlp(5, hidden, 3, rng=rng, activation=activation, normalise=normalise)
    verify(compile_bundle(model, objective=objective, name="m", frozen=NORMALISER), rng=rng)


@pytest.mark.parametrize("operator", ["Relu", "Tanh", "Sigmoid", "Gemm", "MatMul", "Mul", "Sub", "Div", "Softmax"])
def test_a_wrong_rule_does_not_pass_the_gate(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bugs: each rule in turn gives its gradients doubled."""
    row = operators.OPERATORS[operator]

    def wrong(tape, node_, attributes, grad):  # type: ignore[no-untyped-def]
        back = row.backward(tape, node_, attributes, grad)
        return tuple(name and tape.emit("Add", name, name) for name in back)

    monkeypatch.setitem(operators.OPERATORS, operator, replace(row, backward=wrong))
    name = {"Softmax": "inner Softmax"}.get(operator, operator)
    with pytest.raises(UnsupportedModel, match=r"parameter '\w+': at point \d .* finite differences say"):
        verify(compiled(name, "mse"), rng=np.random.default_rng(3))


def test_an_error_of_a_hundredth_in_a_wide_layer_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug that a random direction alone misses: in 2048 dimensions it sees 1/45 of a gradient."""
    row = operators.OPERATORS["Gemm"]

    def wrong(tape, node_, attributes, grad):  # type: ignore[no-untyped-def]
        grad_a, grad_b, *rest = row.backward(tape, node_, attributes, grad)
        return grad_a, tape.emit("Mul", grad_b, tape.constant(1.01)), *rest

    monkeypatch.setitem(operators.OPERATORS, "Gemm", replace(row, backward=wrong))
    model = mlp(64, (32,), 10, rng=np.random.default_rng(5))
    with pytest.raises(UnsupportedModel, match=r"parameter 'layer\d.weight': .* finite differences say"):
        verify(compile_bundle(model, objective="cross_entropy", name="m"), rng=np.random.default_rng(3))


def test_filler_that_counts_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: the mean is taken over all rows of a batch, as if none were filler."""
    row = objectives.OBJECTIVES["mse"]

    def wrong(tape, prediction, target, share):  # type: ignore[no-untyped-def]
        everyone = tape.emit("Div", tape.emit("Add", share, tape.constant(1.0)), tape.constant(11.0))
        return row.gradient(tape, prediction, target, everyone)

    monkeypatch.setitem(objectives.OBJECTIVES, "mse", replace(row, gradient=wrong))
    with pytest.raises(UnsupportedModel, match="finite differences say"):
        verify(compiled("Gemm", "mse"), rng=np.random.default_rng(3))


def test_what_onnxruntime_cannot_run_is_refused_by_the_gate() -> None:
    c = compiled("Gemm", "mse")
    broken = c.bundle.model_copy(update={"graphs": {**c.bundle.graphs, "train": b"not a graph"}})
    with pytest.raises(UnsupportedModel, match="onnxruntime cannot run its graphs"):
        verify(replace(c, bundle=broken), rng=np.random.default_rng(3))


@pytest.mark.parametrize("name", CASES)
def test_a_step_computes_nothing_that_it_does_not_use(name: str) -> None:
    step = onnx.load_from_string(compiled(name, "mse").bundle.graphs["train"]).graph.node[0].attribute
    body = next(attribute.g for attribute in step if attribute.name == "body")
    used = {value for inner in body.node for value in inner.input} | {value.name for value in body.output}
    assert [inner.name for inner in body.node if inner.output[0] not in used] == []


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def run(c: Compiled, x: np.ndarray, y: np.ndarray, order: np.ndarray, mask: np.ndarray, rate: float = 0.1) -> dict:
    session = ort.InferenceSession(c.bundle.graphs["train"], providers=["CPUExecutionProvider"])
    feed = {p.name: v for p, v in zip(c.manifest.parameters, c.initial, strict=True)}
    feed |= {"x": x, "y": y, "order": order, "mask": mask, "learning_rate": np.array(rate, np.float32)}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def digits_like(n: int) -> tuple[np.ndarray, np.ndarray]:
    return RNG.normal(0, 1, (n, 6)).astype(np.float32), RNG.integers(0, 3, n)


def test_a_step_of_nothing_but_filler_changes_nothing() -> None:
    c = compiled("Gemm", "cross_entropy")
    x, y = digits_like(4)
    out = run(c, x, y, np.zeros((2, 4), np.int64), np.zeros((2, 4), np.float32))
    assert (out["new_w"] == c.initial[0]).all()
    assert (out["loss"], out["correct"]) == (0.0, 0.0)


def test_filler_rows_count_for_nothing() -> None:
    c = compiled("Gemm", "cross_entropy")
    x, y = digits_like(5)
    order, mask = minibatches(5, 4, 1, np.random.default_rng(0))
    assert mask.sum() == 5
    with_filler = run(c, x, y, order, mask)
    first = run(c, x, y, order[:1], mask[:1])
    c_after = replace(c, initial=(first["new_w"], first["new_w_bias"]))
    alone = run(c_after, x, y, order[1:, :1], mask[1:, :1])
    np.testing.assert_allclose(with_filler["new_w"], alone["new_w"], atol=1e-6)
    np.testing.assert_allclose(with_filler["loss"], first["loss"] + alone["loss"], rtol=1e-6)


def test_frozen_parameters_stay_and_are_not_returned() -> None:
    c = compile_bundle(mlp(6, (4,), 3, rng=RNG, normalise=True), objective="cross_entropy", name="m", frozen=NORMALISER)
    assert [p.name for p in c.manifest.parameters if not p.trainable] == ["normaliser.mean", "normaliser.scale"]
    x, y = digits_like(8)
    out = run(c, x, y, *minibatches(8, 4, 1, RNG))
    assert sorted(name for name in out if name.startswith("new_")) == sorted(
        f"new_{p.name}" for p in c.manifest.trainable
    )


def test_the_manifest_orders_by_use_whatever_the_file_says() -> None:
    nodes, weights = CASES["inner Softmax"]
    shuffled = dict(reversed(weights.items()))
    one = compile_bundle(forward(nodes, weights), objective="mse", name="m")
    other = compile_bundle(forward(nodes, shuffled), objective="mse", name="m")
    assert one.manifest == other.manifest
    assert [p.name for p in one.manifest.parameters] == ["w", "w_bias", "v"]


def test_a_final_softmax_is_stepped_over_for_the_loss_and_kept_for_inference() -> None:
    nodes, weights = [dense("x", "z"), node("Softmax", "z", out="y")], dense_weights(6, 3)
    with_softmax = compile_bundle(forward(nodes, weights), objective="cross_entropy", name="m")
    logits = compile_bundle(forward([dense("x", "y")], weights), objective="cross_entropy", name="m")
    x, y = digits_like(8)
    rows = minibatches(8, 4, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(run(with_softmax, x, y, *rows)["new_w"], run(logits, x, y, *rows)["new_w"])
    exported = export_inference(forward(nodes, weights), with_softmax.initial)
    assert np.allclose(infer(exported, x).sum(axis=1), 1.0)


def infer(model: bytes, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_an_exported_model_computes_with_the_given_parameters() -> None:
    model = forward([dense("x", "y")], dense_weights(6, 3))
    new = [weight(6, 3, seed=9), weight(3, seed=9)]
    x, _ = digits_like(5)
    np.testing.assert_allclose(infer(export_inference(model, new), x), x @ new[0] + new[1], rtol=1e-5)
    with pytest.raises(UnsupportedModel, match="other shapes"):
        export_inference(model, new[:1])


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────

W = dense_weights(6, 3)


def external() -> bytes:
    model = onnx.load_from_string(forward([dense("x", "y")], W))
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return model.SerializeToString()


def with_function() -> bytes:
    model = onnx.load_from_string(forward([dense("x", "y")], W))
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [node("Relu", "a", out="b")], model.opset_import)
    )
    return model.SerializeToString()


def in_double() -> bytes:
    graph = helper.make_graph(
        [node("MatMul", "x", "w", out="y")],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["batch", 6])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, ["batch", 3])],
        [numpy_helper.from_array(np.ones((6, 3)), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


REFUSALS = {
    "operator": (
        forward([node("Sin", "x", out="h"), dense("h", "y")], W),
        "node 'Sin_h': operator Sin .*supported are Add",
    ),
    "attribute": (
        forward([dense("x", "h"), node("Constant", out="c", value_string="s"), node("Mul", "h", "c", out="y")], W),
        "node 'Constant_c': Constant with value_string; leave it out",
    ),
    "domain": (
        forward([helper.make_node("Gemm", ["x", "w"], ["y"], "odd", domain="com.acme")], W, domains=["com.acme"]),
        "node 'odd': domain 'com.acme'; export with standard",
    ),
    "rank": (
        forward([node("MatMul", "x", "w", out="y")], {"w": weight(6, 3)}, features=(2, 6), outputs=(2, 3)),
        "node 'MatMul_y': MatMul with input 0 of rank 3; supported is rank 2, flatten",
    ),
    "functions": (with_function(), "functions"),
    "external data": (external(), "external data|not a valid ONNX"),
    "old opset": (forward([dense("x", "y")], W, opset=12), "opset 12; export with 13 to 21"),
    "new opset": (forward([dense("x", "y")], W, opset=22), "opset 22; export with 13 to 21"),
    "two inputs": (forward([node("Add", "x", "z", out="h"), dense("h", "y")], W, extra_inputs=["z"]), "2 inputs"),
    "two outputs": (
        forward([dense("x", "y"), node("Relu", "y", out="z")], W, extra_outputs=["z"]),
        "2 outputs; exactly one",
    ),
    "fixed batch": (forward([dense("x", "y")], W, batch=4), "the first must be the .dynamic. batch"),
    "dynamic inside": (forward([dense("x", "y")], W, features=("f",)), "all others fixed|shapes do not fit"),
    "float64": (in_double(), "parameter 'w': DOUBLE; parameters must be FLOAT"),
    "no parameters": (forward([node("Relu", "x", out="y")], {}, outputs=(6,)), "nothing to train"),
    "classes": (forward([dense("x", "y")], W), "3 values where the run has 5 classes"),
    "the batch in a Softmax": (
        forward([node("Softmax", "x", out="s", axis=0), dense("s", "y")], W),
        "node 'Softmax_s': Softmax with axis 0, the batch; .* use axis -1",
    ),
    "the batch in a Reshape": (
        forward([node("Reshape", "x", "s", out="r"), dense("r", "y")], dense_weights(3, 3) | {"s": np.array([-1, 3])}),
        r"value 'r': shape \[15838, 3\]; the first must be the .dynamic. batch",
    ),
    "the batch contracted": (
        forward([node("Gemm", "x", "x", out="q", transA=1), dense("q", "y")], W),
        r"value 'q': shape \[6, 6\]; the first must be the .dynamic. batch",
    ),
    "an output of x alone": (
        forward([dense("x", "h"), node("Identity", "x", out="y")], W, outputs=(6,)),
        "output 'y': no parameter that trains reaches it",
    ),
    "an output without x": (forward([node("Add", "w", "w", out="y")], W), "output 'y': it is not computed from x"),
    "a parameter named as an input": (
        forward([node("MatMul", "x", "mask", out="y")], {"mask": weight(6, 3)}),
        "parameter 'mask': the train graph has this name already; rename it",
    ),
    "a parameter named as a metric": (
        forward([node("MatMul", "x", "loss", out="y")], {"loss": weight(6, 3)}),
        "parameter 'loss': the train graph has this name already; rename it",
    ),
    "a name too long": (
        forward([node("MatMul", "x", "w" * 200, out="y")], {"w" * 200: weight(6, 3)}),
        "a name of 200 characters, rank 2; at most 128",
    ),
    "truncated": (forward([dense("x", "y")], W)[:-40], "not a valid ONNX model"),
    "empty": (b"", "not a valid ONNX model"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_trained_is_refused_with_its_name_and_mend(name: str) -> None:
    model, says = REFUSALS[name]
    with pytest.raises(UnsupportedModel, match=says):
        compile_bundle(model, objective="cross_entropy", name="m", classes=5 if name == "classes" else 0)


def test_a_model_with_everything_frozen_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="every parameter is frozen"):
        compile_bundle(forward([dense("x", "y")], W), objective="mse", name="m", frozen=("*",))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_worse(payload: bytes) -> None:
    with pytest.raises(UnsupportedModel):
        compile_bundle(payload, objective="mse", name="m")
