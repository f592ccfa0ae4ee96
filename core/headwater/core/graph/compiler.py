"""Law: forward, loss, backward and update are one graph of standard operators; a run of steps is one `Scan`.

Parameters are inputs, so a graph is shipped once and afterwards only parameters travel. What a step carries to the
next (parameters, statistics, the optimiser's slots) comes in and goes out, so a run may be cut anywhere.

step.py holds what one step computes; here it is put into graphs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headwater.core.graph.differentiate import run_forward
from headwater.core.graph.forward import OPSET, Forward, depending, read_forward
from headwater.core.graph.objective import DTYPES, OBJECTIVES
from headwater.core.graph.operators import attributes_of
from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.step import Recipe, measured, probe, renamed, step_body
from headwater.core.graph.tape import FLOAT, INT64, Tape, needed
from headwater.core.graph.update import RULES, hyper, hyperparameters
from headwater.schemas.manifest import Example, GraphName, Manifest, Slot, Variant
from headwater.schemas.manifest import Objective as ObjectiveName
from headwater.schemas.messages import Bundle
from headwater.schemas.run import LocalTraining, Loss

IR_VERSION: Final = 10

_VARIANT_HYPERPARAMETERS: Final[Mapping[Variant, dict[str, float]]] = {
    "proximal": {"proximal": 0.0},
    "clipped": {"example_norm": 1.0, "noise_multiplier": 0.0},
    "alternating": {"shared_rate": 1.0, "personal_rate": 1.0},
}
"""What a variant takes besides; with these it trains plainly, but that `clipped` clips."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A bundle for the devices, and the forward model's own parameters in the manifest's order.

    `local` is what the train graph was made for. `proofs` never leave the cloud: graphs by which the gate judges
    those of the bundle: `loss` (a step's loss in training mode, without a backward rule in it) and `gradient` (of it).
    """

    bundle: Bundle
    initial: tuple[NDArray[np.float32], ...]
    forward: Forward
    local: LocalTraining = field(default_factory=LocalTraining)
    proofs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest


def compile_bundle(
    forward: bytes,
    *,
    objective: ObjectiveName,
    name: str,
    classes: int = 0,
    frozen: tuple[str, ...] = (),
    personal: tuple[str, ...] = (),
    loss: Loss | None = None,
    local: LocalTraining | None = None,
    variant: Variant = "plain",
) -> Compiled:
    """Turn a forward ONNX model into the graphs `train`, `evaluate` and `infer`.

    Args:
        classes: what the run expects, or 0 to take what the model gives.
        frozen: name patterns of parameters that do not train.
        personal: name patterns of parameters that train and never leave their device.
        local: the optimiser with its weight decay and clipping.
        variant: what a step does besides (see `Manifest`).

    Raises:
        UnsupportedModel: by operator, attribute and node, with the mend.
    """
    model = read_forward(forward, frozen, personal)
    _check_output(model)
    row = OBJECTIVES[objective]
    prediction = _prediction(model, row.steps_over)
    local = local or LocalTraining()
    recipe = Recipe(model, row, prediction, loss or Loss(), local, variant)
    manifest = _manifest(recipe, objective, name, classes)
    if not manifest.trainable:
        raise UnsupportedModel("model: every parameter is frozen; let at least one train")
    if not manifest.shared:
        raise UnsupportedModel(
            "model: every parameter that moves is personal; share at least one, or nothing is learned"
        )
    if prediction not in depending(model.nodes, [parameter.name for parameter in manifest.trainable]):
        raise UnsupportedModel(
            f"output {model.output!r}: no parameter that trains reaches it; check the model's output"
        )
    if variant == "clipped" and objective == "cross_entropy" and recipe.loss.class_weights:
        raise UnsupportedModel(
            "loss.class_weights: where each example's gradient is clipped, each counts alike; leave them out"
        )
    if variant == "clipped" and any(parameter.state for parameter in manifest.parameters):
        raise UnsupportedModel(
            "model: BatchNormalization lets an example see its neighbours, so no gradient is one example's alone; "
            "use GroupNormalization or LayerNormalization"
        )
    graphs: dict[GraphName, bytes] = {
        "train": _train_graph(recipe, manifest).SerializeToString(),
        "evaluate": _evaluate_graph(recipe, manifest).SerializeToString(),
        "infer": _infer_graph(recipe, manifest).SerializeToString(),
    }
    proofs = {what: _proof(recipe, manifest, what).SerializeToString() for what in ("loss", "gradient")}
    return Compiled(Bundle(manifest=manifest, graphs=graphs), model.initial, model, local, proofs)


def export_inference(forward: bytes, parameters: Sequence[NDArray[np.float32]]) -> bytes:
    """The forward model with these parameters (in the manifest's order) as its initializers.

    Raises:
        UnsupportedModel: the forward model is none, or takes other parameters.
    """
    model = read_forward(forward)
    if [value.shape for value in parameters] != [parameter.shape for parameter in model.parameters]:
        raise UnsupportedModel("parameters: other shapes than the model's; export with the run's own forward model")
    values = {parameter.name: value for parameter, value in zip(model.parameters, parameters, strict=True)}
    for tensor in model.model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values[tensor.name], np.float32), tensor.name))
    onnx.checker.check_model(model.model)
    return bytes(model.model.SerializeToString())


# ── what a model and an objective make of each other ────────────────────────────────────────────────────────────


def _check_output(model: Forward) -> None:
    shape = model.shapes.get(model.output)
    if shape is None or shape[:1] != (None,) or model.output not in depending(model.nodes, [model.x]):
        raise UnsupportedModel(
            f"output {model.output!r}: it is not computed from x with the batch first; check the model's output"
        )


def _prediction(model: Forward, steps_over: str | None) -> str:
    """Losses that take logits step over a final activation, which is kept for inference."""
    makers = {name: node for node in model.nodes for name in node.output}
    last = makers.get(model.output)
    while last is not None and last.op_type == "Identity":
        last = makers.get(last.input[0])
    if last is None or last.op_type != steps_over:
        return model.output
    if steps_over == "Softmax" and attributes_of(last)["axis"] not in (-1, len(model.shapes[model.output]) - 1):
        return model.output
    return str(last.input[0])


def _manifest(recipe: Recipe, objective: ObjectiveName, name: str, classes: int) -> Manifest:
    model, rule = recipe.model, RULES[recipe.local.optimiser]
    shape = model.shapes[recipe.prediction]
    trainable = [parameter for parameter in model.parameters if parameter.trainable]
    slots = [Slot(name=f"{slot}_{p.name}", shape=p.shape) for slot in rule.slots for p in trainable]
    if rule.counts:
        slots.append(Slot(name="steps", shape=()))
    dropping = [node for node in recipe.nodes if node.op_type == "Dropout"]
    return Manifest(
        model=name,
        objective=objective,
        parameters=model.parameters,
        x=Example(shape=tuple(size or 0 for size in model.shapes[model.x][1:]), dtype="float32"),
        y=recipe.row.target(shape, classes, model.shapes[model.x]),
        metrics=recipe.row.metrics,
        tallies=recipe.row.tallies(shape),
        variant=recipe.variant,
        random=bool(dropping),
        slots=tuple(slots),
        hyperparameters=hyperparameters(recipe.local) | _VARIANT_HYPERPARAMETERS.get(recipe.variant, {}),
    )


# ── graphs ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _train_graph(recipe: Recipe, manifest: Manifest) -> onnx.ModelProto:
    """One `Scan` over the steps: what a step carries goes in and comes out; order, mask, rate and draws are cut up."""
    step = step_body(recipe, manifest)
    outer = Tape("out_", {})
    finals = [
        *(f"new_{p.name}" for p in manifest.moving),
        *(f"new_slot_{slot.name}" for slot in manifest.slots),
        *manifest.metrics,
    ]
    starts = [p.name for p in manifest.moving] + [f"slot_{slot.name}" for slot in manifest.slots]
    starts += [outer.constant(0.0)] * len(manifest.metrics)
    scanned = [name for name, _, _ in scanned_inputs(manifest)]
    scan = helper.make_node(
        "Scan", starts + scanned, finals, name="steps", body=step.body, num_scan_inputs=len(scanned)
    )
    inputs = [
        *_parameter_inputs(manifest),
        *_example_inputs(manifest),
        *(helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in scanned_inputs(manifest)),
        *(helper.make_tensor_value_info(f"slot_{s.name}", FLOAT, s.shape) for s in manifest.slots),
        *(helper.make_tensor_value_info(hyper(name), FLOAT, []) for name in sorted(manifest.hyperparameters)),
        *_reference_inputs(manifest),
    ]
    outputs = [helper.make_tensor_value_info(f"new_{p.name}", FLOAT, p.shape) for p in manifest.moving]
    outputs += [helper.make_tensor_value_info(f"new_slot_{s.name}", FLOAT, s.shape) for s in manifest.slots]
    outputs += _measure_outputs(manifest)[: len(manifest.metrics)]
    initializers = [*outer.constants.values(), *step.constants.values(), *_constants(recipe, step.nodes)]
    inner = [value.name for value in step.body.input] + [name for node in step.body.node for name in node.output]
    return _model(helper.make_graph([scan], "train", inputs, outputs, initializers), inner)


def scanned_inputs(manifest: Manifest) -> list[tuple[str, int, list[Any]]]:
    """The inputs that each step takes one row of: name, dtype, shape."""
    inputs: list[tuple[str, int, list[Any]]] = [
        ("order", INT64, ["steps", "batch"]),
        ("mask", FLOAT, ["steps", "batch"]),
        ("learning_rate", FLOAT, ["steps"]),
    ]
    if manifest.random:
        inputs.append(("seeds", INT64, ["steps"]))
    if manifest.variant == "clipped":
        inputs += [(f"noise_{p.name}", FLOAT, ["steps", *p.shape]) for p in manifest.trainable]
    return inputs


def _reference_inputs(manifest: Manifest) -> list[onnx.ValueInfoProto]:
    stem = {"proximal": "anchor", "corrected": "correction"}.get(manifest.variant)
    if stem is None:
        return []
    return [helper.make_tensor_value_info(f"{stem}_{p.name}", FLOAT, p.shape) for p in manifest.trainable]


def _evaluate_graph(recipe: Recipe, manifest: Manifest) -> onnx.ModelProto:
    tape = measured(recipe, manifest)
    inputs = [
        *_parameter_inputs(manifest),
        *_example_inputs(manifest),
        helper.make_tensor_value_info("mask", FLOAT, ["n"]),
    ]
    return _finished("evaluate", recipe, tape, inputs, _measure_outputs(manifest))


def _infer_graph(recipe: Recipe, manifest: Manifest) -> onnx.ModelProto:
    model = recipe.model
    names = recipe.names() | {model.x: "x"}
    tape = recipe.tape("infer_", names, None)
    run_forward(tape, renamed(needed(model.nodes, [model.output]), names))
    tape.emit("Identity", names[model.output], name="prediction")
    shape = [size or "n" for size in model.shapes[model.output]]
    inputs = [*_parameter_inputs(manifest), _example_inputs(manifest)[0]]
    return _finished("infer", recipe, tape, inputs, [helper.make_tensor_value_info("prediction", FLOAT, shape)])


def _proof(recipe: Recipe, manifest: Manifest, what: str) -> onnx.ModelProto:
    tape, outputs = probe(recipe, manifest, gradient=what == "gradient")
    inputs = [
        *_parameter_inputs(manifest),
        *_example_inputs(manifest),
        helper.make_tensor_value_info("mask", FLOAT, ["n"]),
        *([helper.make_tensor_value_info("seeds", INT64, [])] if manifest.random else []),
    ]
    shapes: dict[str, Sequence[int]] = {f"gradient_{p.name}": p.shape for p in manifest.trainable}
    shapes |= {f"new_{p.name}": p.shape for p in manifest.parameters if p.state}
    infos = [helper.make_tensor_value_info(name, FLOAT, shapes.get(name, ())) for name in outputs]
    return _finished(what, recipe, tape, inputs, infos)


def _finished(
    name: str, recipe: Recipe, tape: Tape, inputs: list[Any], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    nodes = needed(tape.nodes, [value.name for value in outputs])
    initializers = [*tape.constants.values(), *_constants(recipe, nodes)]
    return _model(helper.make_graph(nodes, name, inputs, outputs, initializers))


def _constants(recipe: Recipe, nodes: Sequence[onnx.NodeProto]) -> list[onnx.TensorProto]:
    """The forward model's constants that these nodes take."""
    taken = {name for node in nodes for name in node.input}
    return [
        numpy_helper.from_array(np.asarray(value, order="C"), f"c_{name}")
        for name, value in recipe.model.constants.items()
        if f"c_{name}" in taken
    ]


def _parameter_inputs(manifest: Manifest) -> list[Any]:
    return [helper.make_tensor_value_info(p.name, FLOAT, p.shape) for p in manifest.parameters]


def _example_inputs(manifest: Manifest) -> list[Any]:
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", *manifest.x.shape])]
    if manifest.y is not None:
        inputs.append(helper.make_tensor_value_info("y", DTYPES[manifest.y.dtype], ["n", *manifest.y.shape]))
    return inputs


def _measure_outputs(manifest: Manifest) -> list[onnx.ValueInfoProto]:
    return [
        *(helper.make_tensor_value_info(metric, FLOAT, []) for metric in manifest.metrics),
        *(helper.make_tensor_value_info(tally.name, FLOAT, [tally.length]) for tally in manifest.tallies),
    ]


def _model(graph: onnx.GraphProto, inner: Sequence[str] = ()) -> onnx.ModelProto:
    """Args: inner: the names inside a subgraph, which may not hide an outer one."""
    outer = [value.name for value in (*graph.input, *graph.initializer)]
    names = Counter([*outer, *(name for node in graph.node for name in node.output), *inner])
    clash = next((name for name, count in names.items() if count > 1), None)
    if clash is not None:
        raise UnsupportedModel(f"parameter {clash!r}: the {graph.name} graph has this name already; rename it")
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="headwater"
    )
    onnx.checker.check_model(model)
    return model
