"""The compiler: every rule against finite differences, planted bugs that the gate must catch, refusals by name."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "oracle"))

import points
from cases import CASES, conv, conv_transpose, ints, pool, positive, recurrent
from graphs import dense, dense_weights, forward, node, weight

from headwater.core.graph import Compiled, UnsupportedModel, compile_bundle, operators, step, update
from headwater.core.graph import objective as objectives
from headwater.core.graph.forward import depending
from headwater.core.graph.gate import verify
from headwater.core.graph.operators import batch_norm, convolution
from headwater.core.graph.operators.elementwise import no_gradient
from headwater.core.models import NORMALISER, mlp
from headwater.schemas.manifest import Objective
from headwater.schemas.run import LocalTraining, Loss

W = dense_weights(6, 3)


@pytest.mark.parametrize(("name", "objective"), points.pairs())
def test_a_gradient_agrees_with_finite_differences(name: str, objective: Objective) -> None:
    made = points.compiled(name, objective)
    checks = verify(made, rng=np.random.default_rng(3), points=2)
    assert checks.checks == 2 * 2 * len(made.manifest.trainable)
    assert checks.worst < 1e-4


def test_every_operator_that_trains_has_a_case() -> None:
    told = {case.operator for case in CASES.values()} | {"Constant"}
    assert {*operators.SUPPORTED} - told - {*without_gradient()} == set()


def without_gradient() -> list[str]:
    return [name for name, row in operators.OPERATORS.items() if row.backward is no_gradient]


@settings(max_examples=12)
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
    verify(compile_bundle(model, objective=objective, name="m", frozen=NORMALISER), rng=rng, points=1)


@pytest.mark.parametrize("name", CASES)
def test_a_step_computes_nothing_that_it_does_not_use(name: str) -> None:
    step_attributes = onnx.load_from_string(points.compiled(name, "mse").bundle.graphs["train"]).graph.node[0].attribute
    body = next(attribute.g for attribute in step_attributes if attribute.name == "body")
    used = {value for inner in body.node for value in inner.input} | {value.name for value in body.output}
    used |= {value for inner in body.node for a in inner.attribute for n in a.g.node for value in n.input}
    assert [inner.name for inner in body.node if not used.intersection(inner.output)] == []


# ── planted bugs: a wrong rule ──────────────────────────────────────────────────────────────────────────────────

WRONG: dict[str, Callable[..., str]] = {
    "a twentieth too long": lambda tape, grad: tape.emit("Mul", grad, tape.constant(1.05)),
    "shifted": lambda tape, grad: tape.emit("Add", grad, tape.constant(0.1)),
}


def passing(operator: str) -> list[tuple[str, int]]:
    """A case in which the operator stands, for each of its inputs that a gradient passes through."""
    found: dict[int, str] = {}
    for name, case in CASES.items():
        model = points.compiled(name, "mse")
        depends = depending(model.forward.nodes, [p.name for p in model.manifest.trainable])
        for inner in model.forward.nodes:
            if inner.op_type == operator:
                taken = [p for p, value in enumerate(inner.input) if value in depends]
                taken = [
                    p
                    for p in taken
                    if p not in (*operators.OPERATORS[operator].fixed, *operators.OPERATORS[operator].state)
                ]
                for position in taken:
                    # The case about the operator itself comes first.
                    if position not in found or (CASES[found[position]].operator != operator == case.operator):
                        found[position] = name
    return [(found[position], position) for position in sorted(found)]


@pytest.mark.parametrize("how", WRONG)
@pytest.mark.parametrize("operator", sorted({*operators.OPERATORS} - {*without_gradient()}))
def test_a_wrong_rule_does_not_pass_the_gate(operator: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule in turn gives one of its gradients wrong."""
    row, caught = operators.OPERATORS[operator], 0
    for name, position in passing(operator):
        planted = []

        def wrong(tape, node_, attributes, *grads, at=position, planted=planted):  # type: ignore[no-untyped-def]
            back = list(row.backward(tape, node_, attributes, *grads))
            if at < len(back) and back[at] is not None:
                back[at] = WRONG[how](tape, back[at])
                planted.append(at)
            return tuple(back)

        with monkeypatch.context() as patch:
            patch.setitem(operators.OPERATORS, operator, replace(row, backward=wrong))
            broken = case(name)
        if planted:
            with pytest.raises(UnsupportedModel, match=r"parameter '\w+': at point \d (its gradient|a step)"):
                verify(broken, rng=np.random.default_rng(3), points=1)
            caught += 1
    assert caught


def case(name: str, objective: Objective = "mse", **how: object) -> Compiled:
    """Compiled anew, with what is planted."""
    return compile_bundle(CASES[name].model(), objective=objective, name="m", frozen=CASES[name].frozen, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_gradient_that_lies_on_its_side_does_not_pass_the_gate(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = operators.OPERATORS[operator]

    def wrong(tape, node_, attributes, grad):  # type: ignore[no-untyped-def]
        to_a, to_b, *rest = row.backward(tape, node_, attributes, grad)
        return to_a, tape.emit("Transpose", to_b, perm=[1, 0]), *rest

    monkeypatch.setitem(operators.OPERATORS, operator, replace(row, backward=wrong))
    model = forward([node(operator, "x", "w", out="y")], {"w": weight(6, 6)}, outputs=(6,))
    with pytest.raises(UnsupportedModel, match="finite differences say"):
        verify(compile_bundle(model, objective="mse", name="m"), rng=np.random.default_rng(3))


def test_a_gradient_that_is_left_out_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter that silently does not train."""
    row = operators.OPERATORS["Mul"]
    monkeypatch.setitem(
        operators.OPERATORS, "Mul", replace(row, backward=lambda *given: (row.backward(*given)[0], None))
    )
    with pytest.raises(UnsupportedModel, match=r"parameter 'r': .* gradient along a direction is 0, finite"):
        verify(case("Mul"), rng=np.random.default_rng(3))


def test_an_error_of_a_hundredth_in_a_wide_layer_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random direction alone misses it: in 2048 dimensions it sees 1/45 of a gradient."""
    row = operators.OPERATORS["Gemm"]

    def wrong(tape, node_, attributes, grad):  # type: ignore[no-untyped-def]
        grad_a, grad_b, *rest = row.backward(tape, node_, attributes, grad)
        return grad_a, tape.emit("Mul", grad_b, tape.constant(1.01)), *rest

    monkeypatch.setitem(operators.OPERATORS, "Gemm", replace(row, backward=wrong))
    model = mlp(64, (32,), 10, rng=np.random.default_rng(5))
    with pytest.raises(UnsupportedModel, match=r"parameter 'layer\d.weight': .* finite differences say"):
        verify(compile_bundle(model, objective="cross_entropy", name="m"), rng=np.random.default_rng(3))


@pytest.mark.parametrize("objective", [name for name in objectives.OBJECTIVES if name != "reconstruction"])
def test_a_wrong_loss_gradient_does_not_pass_the_gate(objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    row = objectives.OBJECTIVES[objective]

    def wrong(tape, *given_):  # type: ignore[no-untyped-def]
        return tape.emit("Mul", row.gradient(tape, *given_), tape.constant(1.01))

    monkeypatch.setitem(objectives.OBJECTIVES, objective, replace(row, gradient=wrong))
    with pytest.raises(UnsupportedModel, match="finite differences say"):
        verify(case("Gemm", objective), rng=np.random.default_rng(3))


def test_dropout_that_goes_back_another_way_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    row = operators.OPERATORS["Dropout"]

    def wrong(tape, node_, attributes, grad):  # type: ignore[no-untyped-def]
        mask = tape.as_float(tape.emit("Greater", tape.saved[node_.output[0]][0], tape.constant(0.0)))
        return (tape.emit("Mul", grad, mask),)

    monkeypatch.setitem(operators.OPERATORS, "Dropout", replace(row, backward=wrong))
    with pytest.raises(UnsupportedModel, match="finite differences say"):
        verify(case("Dropout"), rng=np.random.default_rng(3))


def test_a_window_that_is_wrong_everywhere_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule and double precision share their windows; the loss of stock onnxruntime does not."""
    true = convolution.transposed_window

    def wrong(*given_):  # type: ignore[no-untyped-def]
        window = true(*given_)
        return replace(window, before=window.after, after=window.before)

    monkeypatch.setattr(convolution, "transposed_window", wrong)
    monkeypatch.setattr("headwater.core.graph.exact.transposed_window", wrong)
    model = conv_transpose((3,), (2, 5), strides=[2], pads=[1, 0]).model()
    with pytest.raises(UnsupportedModel, match=r"its loss is .* in double precision"):
        verify(compile_bundle(model, objective="mse", name="m"), rng=np.random.default_rng(3))


# ── planted bugs: a wrong step ──────────────────────────────────────────────────────────────────────────────────


def refused_by_the_gate(says: str, name: str = "Gemm", objective: Objective = "mse", **how: object) -> None:
    with pytest.raises(UnsupportedModel, match=says):
        verify(case(name, objective, **how), rng=np.random.default_rng(3), points=1)


OFF = r"a step moves it by .*, its formula says"


def test_filler_that_counts_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is taken over all rows of a batch, as if none were filler."""
    monkeypatch.setattr(step, "_divisor", lambda recipe, tape, target, keep: tape.as_float(tape.emit("Size", keep)))
    refused_by_the_gate(OFF)


def test_filler_in_the_gradient_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    row = objectives.OBJECTIVES["mse"]

    def wrong(tape, prediction, target, share, loss):  # type: ignore[no-untyped-def]
        everyone = tape.emit("ReduceMax", share, keepdims=1)
        return row.gradient(tape, prediction, target, tape.emit("Max", share, everyone), loss)

    monkeypatch.setitem(objectives.OBJECTIVES, "mse", replace(row, gradient=wrong))
    refused_by_the_gate(OFF)


def test_statistics_that_see_filler_do_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    true = batch_norm._presence

    def wrong(tape, x):  # type: ignore[no-untyped-def]
        training = tape.training
        everyone = tape.emit("Add", tape.emit("Abs", training.keep), tape.constant(1.0))
        tape.training = replace(training, keep=everyone)
        found = true(tape, x)
        tape.training = training
        return found

    monkeypatch.setattr(batch_norm, "_presence", wrong)
    refused_by_the_gate(OFF, "BatchNormalization of rows")


@pytest.mark.parametrize("optimiser", ["momentum", "nesterov"])
def test_a_velocity_that_is_not_carried_does_not_pass_the_gate(optimiser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = update.RULES[optimiser]  # type: ignore[index]

    def wrong(tape, w, g, slots, active):  # type: ignore[no-untyped-def]
        new, _ = row.graph(tape, w, g, slots, active)
        return new, {"velocity": tape.emit("Identity", slots["velocity"])}

    monkeypatch.setitem(update.RULES, optimiser, replace(row, graph=wrong))  # type: ignore[misc]
    refused_by_the_gate(
        f"parameter 'slot_velocity_w': {OFF}".replace("a step", ".* a step"), local=LocalTraining(optimiser=optimiser)
    )


def test_a_velocity_that_filler_wears_down_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_decay", lambda tape, beta, active: update.hyper(beta))
    refused_by_the_gate(OFF, local=LocalTraining(optimiser="momentum"))


def test_adam_without_bias_correction_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "_correction", lambda tape, beta, steps: tape.constant(1.0))
    refused_by_the_gate(OFF, local=LocalTraining(optimiser="adam"))


def test_decay_through_the_moments_does_not_pass_the_gate_as_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(tape, local, weight_, gradient, active):  # type: ignore[no-untyped-def]
        return update.decayed(tape, local.model_copy(update={"optimiser": "adam"}), weight_, gradient, active)

    monkeypatch.setattr(step, "decayed", wrong)
    refused_by_the_gate(OFF, local=LocalTraining(optimiser="adamw", weight_decay=0.5))


def test_decay_of_a_step_of_filler_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(tape, local, weight_, gradient, active):  # type: ignore[no-untyped-def]
        return update.decayed(tape, local, weight_, gradient, tape.constant(1.0))

    monkeypatch.setattr(step, "decayed", wrong)
    refused_by_the_gate(OFF, local=LocalTraining(weight_decay=0.5))


def test_clipping_one_by_one_does_not_pass_the_gate_as_clipping_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(tape, grads, bound):  # type: ignore[no-untyped-def]
        return {name: update.clipped(tape, {name: g}, bound)[name] for name, g in grads.items()}

    monkeypatch.setattr(step, "clipped", wrong)
    refused_by_the_gate(OFF, local=LocalTraining(clip_norm=0.1))


def test_a_pull_away_from_the_anchor_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(recipe, tape, grads, active):  # type: ignore[no-untyped-def]
        away = {n: tape.emit("Sub", f"anchor_{n}", f"w_{n}") for n in grads}
        return {n: tape.emit("Add", g, tape.emit("Mul", away[n], step.hyper("proximal"))) for n, g in grads.items()}

    monkeypatch.setattr(step, "_adjusted", wrong)
    refused_by_the_gate(OFF, variant="proximal")


def test_a_rate_for_the_wrong_parameters_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "rate_of", lambda parameter: "shared_rate" if parameter.personal else "personal_rate")
    refused_by_the_gate(OFF, variant="alternating")


def test_a_correction_that_is_taken_away_does_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(recipe, tape, grads, active):  # type: ignore[no-untyped-def]
        return {name: tape.emit("Sub", g, f"correction_{name}") for name, g in grads.items()}

    monkeypatch.setattr(step, "_adjusted", wrong)
    refused_by_the_gate(OFF, variant="corrected")


def test_examples_that_are_clipped_too_late_do_not_pass_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm of one parameter's gradient instead of the whole one's."""
    true = step.norm
    monkeypatch.setattr(step, "norm", lambda tape, grads: true(tape, dict([next(iter(grads.items()))])))
    refused_by_the_gate(OFF, variant="clipped")


# ── planted bugs: other graphs than the model ───────────────────────────────────────────────────────────────────


def with_graph(made: Compiled, name: str, payload: bytes) -> Compiled:
    return replace(made, bundle=made.bundle.model_copy(update={"graphs": {**made.bundle.graphs, name: payload}}))


def test_an_infer_graph_of_another_model_does_not_pass_the_gate() -> None:
    broken = with_graph(case("Tanh"), "infer", case("Sigmoid").bundle.graphs["infer"])
    with pytest.raises(UnsupportedModel, match=r"output 'y': .* predicts otherwise than the model"):
        verify(broken, rng=np.random.default_rng(3))


def test_examples_that_mix_do_not_pass_the_gate() -> None:
    """Each example with its mirror image in the batch: shapes do not tell."""
    nodes = [
        node("Transpose", "x", out="t", perm=[1, 0]),
        node("ArgMax", "t", out="place", axis=0, keepdims=0),
        node("Gather", "table", "place", out="row", axis=0),
        node("Reshape", "row", "turned", out="u"),
        node("Transpose", "u", out="o", perm=[1, 0]),
        node("Reshape", "o", "back", out="y"),
    ]
    weights = {"table": weight(6, 3), "turned": ints(3, -1), "back": ints(-1, 3)}
    made = compile_bundle(forward(nodes, weights), objective="mse", name="m")
    with pytest.raises(UnsupportedModel, match="output 'y': an example's prediction depends on its neighbours"):
        verify(made, rng=np.random.default_rng(3))


def test_what_onnxruntime_cannot_run_is_refused_by_the_gate() -> None:
    with pytest.raises(UnsupportedModel, match="onnxruntime cannot run its graphs"):
        verify(with_graph(case("Gemm"), "train", b"not a graph"), rng=np.random.default_rng(3))


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────


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


def with_input(kind: str, position: int, value: np.ndarray) -> bytes:
    """A recurrent layer with one more input."""
    model = onnx.load_from_string(recurrent(kind).model())
    layer = next(inner for inner in model.graph.node if inner.name == "layer")
    layer.input.extend([""] * (position + 1 - len(layer.input)))
    layer.input[position] = "more"
    model.graph.initializer.append(numpy_helper.from_array(value, "more"))
    return model.SerializeToString()


def after_dense(*nodes: onnx.NodeProto, **weights: np.ndarray) -> bytes:
    """x → dense h → the nodes, to y."""
    return forward([dense("x", "h"), *nodes], W | weights)


def of_x(*nodes: onnx.NodeProto, opset: int = 18, features: tuple[int, ...] = (6,), **weights: np.ndarray) -> bytes:
    """x → the nodes to z → dense y."""
    return forward([*nodes, dense("z", "y")], W | weights, opset=opset, features=features)


STATISTICS = {"s": positive(3), "b": weight(3), "m": weight(3), "v": positive(3)}


def normalise(x: str, out: str) -> onnx.NodeProto:
    return node("BatchNormalization", x, "s", "b", "m", "v", out=out)


REFUSALS: dict[str, tuple[bytes, str]] = {
    # ── the file ──
    "operator": (
        of_x(node("Det", "x", out="z")),
        "node 'Det_z': operator Det cannot be trained yet; supported are Abs, Add",
    ),
    "operator with a mend": (
        of_x(node("Selu", "x", out="z")),
        "node 'Selu_z': operator Selu .*; use Elu and Mul; supported are",
    ),
    "operator in an old opset": (
        of_x(node("Selu", "x", out="z"), opset=14),
        "node 'Selu_z': operator Selu .*; use Elu and Mul",
    ),
    "attribute": (
        after_dense(node("Constant", out="c", value_string="s"), node("Mul", "h", "c", out="y")),
        "node 'Constant_c': Constant with value_string; leave it out",
    ),
    "attribute of a cast": (
        forward([dense("x", "h"), node("Cast", "h", out="y", to=1, saturate=1)], W, opset=19),
        "node 'Cast_y': Cast with saturate; leave it out",
    ),
    "domain": (
        forward([helper.make_node("Gemm", ["x", "w"], ["y"], "odd", domain="com.acme")], W, domains=["com.acme"]),
        "node 'odd': domain 'com.acme'; export with standard",
    ),
    "functions": (with_function(), "functions"),
    "external data": (external(), "external data|not a valid ONNX"),
    "old opset": (forward([dense("x", "y")], W, opset=12), "opset 12; export with 13 to 21"),
    "new opset": (forward([dense("x", "y")], W, opset=22), "opset 22; export with 13 to 21"),
    "truncated": (forward([dense("x", "y")], W)[:-40], "not a valid ONNX model"),
    "empty": (b"", "not a valid ONNX model"),
    # ── what goes in and out ──
    "two inputs": (forward([node("Add", "x", "z", out="h"), dense("h", "y")], W, extra_inputs=["z"]), "2 inputs"),
    "two outputs": (
        forward([dense("x", "y"), node("Relu", "y", out="z")], W, extra_outputs=["z"]),
        "2 outputs; exactly one",
    ),
    "fixed batch": (forward([dense("x", "y")], W, batch=4), "the first must be the .dynamic. batch"),
    "dynamic inside": (forward([dense("x", "y")], W, features=("f",)), "all others fixed"),
    "float64": (in_double(), "input 'x': DOUBLE; the examples must be FLOAT"),
    "float64 inside": (
        after_dense(node("Cast", "h", out="d", to=11), node("Cast", "d", out="y", to=1)),
        "node 'Cast_d': Cast to DOUBLE; everything is computed in float32, cast to FLOAT",
    ),
    "float16 inside": (
        after_dense(node("Cast", "h", out="d", to=10), node("Cast", "d", out="y", to=1)),
        "node 'Cast_d': Cast to FLOAT16",
    ),
    "a parameter in float64": (
        after_dense(node("Mul", "h", "c", out="y"), c=np.ones(3)),
        "parameter 'c': DOUBLE; parameters must be FLOAT",
    ),
    "no parameters": (forward([node("Relu", "x", out="y")], {}, outputs=(6,)), "nothing to train"),
    "classes": (forward([dense("x", "y")], W), "3 values where the run has 5 classes"),
    "an output of x alone": (
        forward([dense("x", "h"), node("Identity", "x", out="y")], W, outputs=(6,)),
        "model: no float32 parameters; there is nothing to train",
    ),
    "an output without x": (forward([node("Add", "w", "w", out="y")], W), "output 'y': "),
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
    # ── examples that would see each other ──
    "the batch in a Softmax": (
        of_x(node("Softmax", "x", out="z", axis=0)),
        "node 'Softmax_z': Softmax along axis 0, the batch; an example may not depend on its neighbours",
    ),
    "the batch in a LogSoftmax": (
        of_x(node("LogSoftmax", "x", out="z", axis=-2)),
        "node 'LogSoftmax_z': LogSoftmax along axis -2, the batch",
    ),
    "the batch in a Softmax of a transposed value": (
        of_x(
            node("Transpose", "x", out="t"),
            node("Softmax", "t", out="s", axis=1),
            node("Transpose", "s", out="z"),
        ),
        "node 'Softmax_s': Softmax along axis 1, the batch",
    ),
    "the batch in a LayerNormalization": (
        of_x(
            node("Transpose", "x", out="t"),
            node("LayerNormalization", "t", "one", out="n", axis=0),
            node("Transpose", "n", out="z"),
            one=np.ones(1, np.float32),
        ),
        "node 'LayerNormalization_n': LayerNormalization along axis 1, the batch",
    ),
    "the batch in a mean": (
        of_x(node("ReduceMean", "x", "first", out="m", keepdims=1), node("Sub", "x", "m", out="z"), first=ints(0)),
        r"value 'm': shape \[1, 6\] for batches of 3→5; one dimension must be the .dynamic. batch",
    ),
    "the batch in a sum of all": (
        of_x(node("ReduceSum", "x", out="m", keepdims=1), node("Sub", "x", "m", out="z")),
        r"value 'm': shape \[1, 1\] for batches of 3→5",
    ),
    "the batch in a Concat": (
        of_x(node("Concat", "x", "x", out="z", axis=0)),
        "node 'Concat_z': Concat along axis 0, the batch",
    ),
    "the batch in a Gather": (
        of_x(node("Gather", "x", "i", out="z", axis=0), i=ints(0, 1)),
        "value 'z': shape .2, 6. for batches|node 'Gather_z': Gather along axis 0, the batch",
    ),
    "the batch in a Slice": (
        of_x(node("Slice", "x", "one", "end", "zero", out="z"), one=ints(1), end=ints(2**31), zero=ints(0)),
        r"value 'z': shape \['2→4', 6\] for batches of 3→5",
    ),
    "the batch turned around": (
        after_dense(
            node("Slice", "h", "last", "end", "zero", "last", out="y"), last=ints(-1), end=ints(-(2**31)), zero=ints(0)
        ),
        "node 'Slice_y': Slice along axis 0, the batch",
    ),
    "the batch in a Reshape": (
        forward([node("Reshape", "x", "s", out="r"), dense("r", "y")], dense_weights(3, 3) | {"s": ints(-1, 3)}),
        "output 'y': its first axis must be the .dynamic. batch, one row an example",
    ),
    "the batch in a Flatten": (
        of_x(
            node("Flatten", "x", out="f", axis=0),
            node("Softmax", "f", out="s"),
            node("Reshape", "s", "n", out="z"),
            n=ints(-1, 6),
        ),
        "node 'Softmax_s': Softmax along axis -1, the batch",
    ),
    "the batch contracted": (
        forward([node("Gemm", "x", "x", out="q", transA=1), dense("q", "y")], W),
        r"value 'q': shape \[6, 6\] for batches of 3→5; one dimension must be the .dynamic. batch",
    ),
    "every example by every other": (
        of_x(node("Gemm", "x", "x", out="q", transB=1), node("MatMul", "q", "x", out="z")),
        r"value 'q': shape \['batch', 'batch'\]; every example meets every other",
    ),
    "normalised rows that are no examples": (
        forward(
            [
                node("Reshape", "x", "rows", out="r"),
                normalise("r", "n"),
                node("Reshape", "n", "back", out="q"),
                dense("q", "y"),
            ],
            dense_weights(6, 3) | STATISTICS | {"rows": ints(-1, 3), "back": ints(-1, 6)},
            features=(2, 3),
        ),
        "node 'BatchNormalization_n': BatchNormalization of rows that are not the examples",
    ),
    "shared running statistics": (
        after_dense(normalise("h", "n"), normalise("n", "y"), **STATISTICS),
        "parameter 'm': two nodes keep their running statistics in it; give each its own",
    ),
    # ── what has no rule ──
    "a computed exponent": (
        after_dense(node("Sigmoid", "h", out="s"), node("Pow", "s", "s", out="y")),
        "node 'Pow_y': Pow whose input 1 's' is computed or trains; .* make it a constant",
    ),
    "an exponent that trains": (
        after_dense(
            node("Sigmoid", "h", out="s"), node("Pow", "s", "p", out="q"), node("Mul", "q", "p", out="y"), p=positive(3)
        ),
        "node 'Pow_q': Pow whose input 1 'p' is computed or trains",
    ),
    "a bound that trains": (
        after_dense(node("Tanh", "low", out="l"), node("Clip", "h", "l", out="y"), low=weight()),
        "node 'Clip_y': Clip whose input 1 'l' is computed or trains",
    ),
    "a computed part": (
        after_dense(
            node("ArgMax", "w", out="a", axis=0, keepdims=0),
            node("Mul", "a", "none", out="o"),
            node("Slice", "o", "none", "one", out="from"),
            node("Slice", "h", "from", "three", "one", out="y"),
            none=ints(0),
            one=ints(1),
            three=ints(3),
        ),
        "node 'Slice_y': Slice whose input 1 'from' is computed or trains",
    ),
    "Max of three": (after_dense(node("Max", "h", "h", "h", out="y")), "node 'Max_y': Max of 3 values; nest it"),
    "a product with a vector": (
        forward([node("MatMul", "x", "w", out="y")], {"w": weight(6)}, outputs=()),
        "node 'MatMul_y': MatMul with input 1 of rank 1; give it an axis of size 1",
    ),
    "padding by reflection": (
        of_x(node("Pad", "x", "p", out="z", mode="reflect"), features=(4,), p=ints(0, 1, 0, 1)),
        "node 'Pad_z': Pad with mode .*reflect.*; supported is constant",
    ),
    "a computed dropout": (
        after_dense(node("Tanh", "some", out="all"), node("Dropout", "h", "all", out="y"), some=weight()),
        "node 'Dropout_y': Dropout whose input 1 'all' is computed or trains",
    ),
    "a used dropout mask": (
        after_dense(
            helper.make_node("Dropout", ["h"], ["d", "mask"], name="drop"),
            node("Cast", "mask", out="f", to=1),
            node("Mul", "d", "f", out="y"),
        ),
        "node 'drop': Dropout whose output 'mask' is used; only the first can be",
    ),
    "three spatial axes": (conv((2, 2, 2), (2, 4, 4, 4)).model(), "node 'Conv_h': Conv with an input of rank 5"),
    "places of maxima, column by column": (
        pool("MaxPool", kernel_shape=[2, 2], storage_order=1).model(),
        "node 'MaxPool_o': MaxPool with storage_order=1; leave it out",
    ),
    "an average with holes": (
        replace(pool("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), opset=19).model(),
        r"node 'AveragePool_o': AveragePool with dilations \[2, 2\]; leave them out",
    ),
    "group normalisation of old": (
        replace(CASES["GroupNormalization"], opset=18).model(),
        "node 'GroupNormalization_y': GroupNormalization of opset 18, .*; export with opset 21",
    ),
    # ── recurrence ──
    "sequence lengths": (with_input("GRU", 4, np.full(3, 5, np.int32)), "node 'layer': GRU with sequence_lens; cut"),
    "peepholes": (with_input("LSTM", 7, weight(1, 9)), "node 'layer': LSTM with peepholes .input P.; leave it out"),
    "batch first": (recurrent("RNN", layout=1).model(), "node 'layer': RNN with layout=1; transpose the input"),
    "clipped states": (recurrent("GRU", clip=1.0).model(), "node 'layer': GRU with clip=1.0; leave it out"),
    "coupled gates": (recurrent("LSTM", input_forget=1).model(), "node 'layer': LSTM with input_forget=1; leave"),
    "an activation of a cell": (
        recurrent("RNN", activations=["Elu"]).model(),
        r"node 'layer': RNN with activations \['elu'\]; supported are \['tanh'\], relu and sigmoid",
    ),
    "activations of gates": (
        recurrent("LSTM", activations=["HardSigmoid", "Tanh", "Tanh"]).model(),
        r"node 'layer': LSTM with activations .*; supported are \['sigmoid', 'tanh', 'tanh'\]",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_trained_is_refused_with_its_name_and_mend(name: str) -> None:
    model, says = REFUSALS[name]
    with pytest.raises(UnsupportedModel, match=says):
        compile_bundle(model, objective="cross_entropy", name="m", classes=5 if name == "classes" else 0)


def test_a_model_with_everything_frozen_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="every parameter is frozen"):
        compile_bundle(forward([dense("x", "y")], W), objective="mse", name="m", frozen=("*",))


def test_clipped_examples_refuse_what_lets_them_see_each_other() -> None:
    with pytest.raises(UnsupportedModel, match="BatchNormalization lets an example see its neighbours"):
        case("BatchNormalization of rows", variant="clipped")
    with pytest.raises(UnsupportedModel, match=r"loss.class_weights: .* each counts alike; leave them out"):
        case("Gemm", "cross_entropy", variant="clipped", loss=Loss(class_weights=(1.0, 2.0, 3.0)))


@pytest.mark.parametrize(
    ("objective", "loss", "says"),
    [
        ("cross_entropy", Loss(class_weights=(1.0, 2.0)), "loss.class_weights: 2 weights where there are 3 classes"),
        ("binary_cross_entropy", Loss(class_weights=(1.0, 2.0)), "takes one, for positives"),
        ("reconstruction", Loss(), "reconstruction needs that of the input"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(objective: Objective, loss: Loss, says: str) -> None:
    with pytest.raises(UnsupportedModel, match=says):
        case("Gemm", objective, loss=loss)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_and_nothing_worse(payload: bytes) -> None:
    with pytest.raises(UnsupportedModel):
        compile_bundle(payload, objective="mse", name="m")
