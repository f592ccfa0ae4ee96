"""Law: forward, loss, backward and update are one graph of standard operators; a local epoch is one `Scan`.

The walk goes once over the forward nodes in reverse, asks each operator's row for its backward rule, and adds where
gradients meet. Parameters are inputs, so a graph is shipped once and afterwards only parameters travel.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headwater.core.graph.forward import OPSET, Forward, depending, read_forward
from headwater.core.graph.objective import DTYPES, OBJECTIVES, Objective
from headwater.core.graph.operators import OPERATORS, attributes_of
from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Tape
from headwater.schemas.manifest import Example, GraphName, Manifest, Parameter
from headwater.schemas.manifest import Objective as ObjectiveName
from headwater.schemas.messages import Bundle

IR_VERSION: Final = 10
_FLOAT: Final = onnx.TensorProto.FLOAT
_INT64: Final = onnx.TensorProto.INT64


@dataclass(frozen=True, slots=True)
class Compiled:
    """A bundle for the devices, and the forward model's own parameters in the manifest's order."""

    bundle: Bundle
    initial: tuple[NDArray[np.float32], ...]

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
) -> Compiled:
    """Turn a forward ONNX model into the graphs `train` and `evaluate`.

    Args:
        classes: what the run expects, or 0 to take what the model gives.
        frozen: name patterns of parameters that do not train.

    Raises:
        UnsupportedModel: by operator, attribute and node, with the mend.
    """
    model = read_forward(forward, frozen)
    row = OBJECTIVES[objective]
    prediction = _prediction(model, objective)
    manifest = Manifest(
        model=name,
        objective=objective,
        parameters=model.parameters,
        x=Example(shape=tuple(size or 0 for size in model.shapes[model.x][1:]), dtype="float32"),
        y=row.target(model.shapes[prediction], classes),
        metrics=row.metrics,
    )
    if not manifest.trainable:
        raise UnsupportedModel("model: every parameter is frozen; let at least one train")
    if prediction not in depending(model.nodes, [parameter.name for parameter in manifest.trainable]):
        raise UnsupportedModel(
            f"output {model.output!r}: no parameter that trains reaches it; check the model's output"
        )
    graphs: dict[GraphName, bytes] = {
        "train": _train_graph(model, manifest, row, prediction).SerializeToString(),
        "evaluate": _evaluate_graph(model, manifest, row, prediction).SerializeToString(),
    }
    return Compiled(Bundle(manifest=manifest, graphs=graphs), model.initial)


def export_inference(forward: bytes, parameters: Sequence[NDArray[np.float32]]) -> bytes:
    """The forward model with these parameters (in the manifest's order) as its initializers.

    Raises:
        UnsupportedModel: the forward model is none, or takes other parameters.
    """
    model = read_forward(forward, ())
    if [value.shape for value in parameters] != [parameter.shape for parameter in model.parameters]:
        raise UnsupportedModel("parameters: other shapes than the model's; export with the run's own forward model")
    values = {parameter.name: value for parameter, value in zip(model.parameters, parameters, strict=True)}
    for tensor in model.model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(values[tensor.name], np.float32), tensor.name))
    onnx.checker.check_model(model.model)
    return bytes(model.model.SerializeToString())


def gradients(tape: Tape, nodes: Sequence[onnx.NodeProto], seed: Mapping[str, str], wanted: set[str]) -> dict[str, str]:
    """Reverse-mode differentiation: the name of the gradient of each value of `wanted` that the seeds depend on."""
    depends = depending(nodes, wanted)
    arriving: dict[str, list[str]] = {name: [gradient] for name, gradient in seed.items()}
    for node in reversed(nodes):
        output = node.output[0]
        if output not in arriving or output not in depends:
            continue
        gradient = tape.total(arriving.pop(output))
        back = OPERATORS[node.op_type].backward(tape, node, attributes_of(node), gradient)
        for name, grad in zip(node.input, back, strict=False):
            if grad is not None and name in depends:
                arriving.setdefault(name, []).append(grad)
    return {name: tape.total(terms) for name, terms in arriving.items() if name in wanted}


def _prediction(model: Forward, objective: ObjectiveName) -> str:
    """Cross-entropy takes logits: a final Softmax is stepped over for the loss and kept for inference."""
    last = next((node for node in model.nodes if model.output in node.output), None)
    if last is None or model.shapes[model.output][:1] != (None,):
        raise UnsupportedModel(f"output {model.output!r}: it is not computed from x; check the model's output")
    if objective == "cross_entropy" and last.op_type == "Softmax" and attributes_of(last)["axis"] in (-1, 1):
        return str(last.input[0])
    return model.output


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _renamed(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> list[onnx.NodeProto]:
    renamed = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names.get(name, name) for name in node.output]
        renamed.append(copy)
    return renamed


def _train_graph(model: Forward, manifest: Manifest, row: Objective, prediction: str) -> onnx.ModelProto:
    body, constants = _train_body(model, manifest, row, prediction)
    outer = Tape("out_", {})
    zero = outer.constant(0.0)
    finals = [_new(parameter) for parameter in manifest.trainable] + list(manifest.metrics)
    scan = helper.make_node(
        "Scan",
        [parameter.name for parameter in manifest.trainable] + [zero] * len(manifest.metrics) + ["order", "mask"],
        finals,
        name="steps",
        body=body,
        num_scan_inputs=2,
    )
    inputs = [
        *_parameter_inputs(manifest),
        *_example_inputs(manifest),
        helper.make_tensor_value_info("order", _INT64, ["steps", "batch"]),
        helper.make_tensor_value_info("mask", _FLOAT, ["steps", "batch"]),
        helper.make_tensor_value_info("learning_rate", _FLOAT, []),
    ]
    outputs = [helper.make_tensor_value_info(_new(p), _FLOAT, p.shape) for p in manifest.trainable]
    outputs += [helper.make_tensor_value_info(metric, _FLOAT, []) for metric in manifest.metrics]
    initializers = [*outer.constants.values(), *constants.values(), *_constants(model)]
    inner = [value.name for value in body.input] + [name for node in body.node for name in node.output]
    return _model(helper.make_graph([scan], "train", inputs, outputs, initializers), inner)


def _train_body(
    model: Forward, manifest: Manifest, row: Objective, prediction: str
) -> tuple[onnx.GraphProto, dict[str, onnx.TensorProto]]:
    """One step: gather the rows, forward, loss, backward, update; the metrics' sums are carried along."""
    names = _inner_names(model, manifest)
    inner = {names.get(name, name): shape for name, shape in model.shapes.items()}
    tape = Tape("step_", inner)
    tape.emit("Gather", "x", "rows", name=names[model.x], axis=0)
    target = tape.emit("Gather", "y", "rows", axis=0)
    nodes = _renamed(_needed(model.nodes, [prediction]), names)
    tape.nodes.extend(nodes)
    output = names.get(prediction, prediction)
    # A step whose rows are all filler must neither divide by zero nor move anything.
    divisor = tape.emit("Max", tape.emit("ReduceSum", "keep", tape.axes([0]), keepdims=0), tape.constant(1.0))
    share = tape.emit("Div", "keep", divisor)
    values = row.values(tape, output, target)
    seed = row.gradient(tape, output, target, share)
    trainable = [names[parameter.name] for parameter in manifest.trainable]
    found = gradients(tape, nodes, {output: seed}, set(trainable))
    new = [_updated(tape, name, found.get(name)) for name in trainable]
    sums = [
        tape.emit("Add", f"sum_{metric}", tape.emit("ReduceSum", tape.emit("Mul", value, "keep"), keepdims=0))
        for metric, value in zip(manifest.metrics, values, strict=True)
    ]
    inputs = [
        helper.make_tensor_value_info(n, _FLOAT, p.shape) for n, p in zip(trainable, manifest.trainable, strict=True)
    ]
    inputs += [helper.make_tensor_value_info(f"sum_{metric}", _FLOAT, []) for metric in manifest.metrics]
    inputs += [
        helper.make_tensor_value_info("rows", _INT64, ["batch"]),
        helper.make_tensor_value_info("keep", _FLOAT, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info(n, _FLOAT, p.shape) for n, p in zip(new, manifest.trainable, strict=True)]
    outputs += [helper.make_tensor_value_info(name, _FLOAT, []) for name in sums]
    # The rules also give gradients that nobody asked for, above all that of x.
    body = helper.make_graph(_needed(tape.nodes, [*new, *sums]), "step", inputs, outputs)
    return body, tape.constants


def _updated(tape: Tape, parameter: str, gradient: str | None) -> str:
    """w − η·g. A parameter that the loss does not see stays."""
    if gradient is None:
        return tape.emit("Identity", parameter)
    return tape.emit("Sub", parameter, tape.emit("Mul", "learning_rate", gradient))


def _inner_names(model: Forward, manifest: Manifest) -> dict[str, str]:
    """Values of the forward model as they are called inside the step, clear of the outer graph's names."""
    names = _value_names(model)
    names |= {parameter.name: f"w_{parameter.name}" for parameter in manifest.trainable}
    names[model.x] = "f_x"
    return names


def _value_names(model: Forward) -> dict[str, str]:
    names = {name: f"f_{name}" for node in model.nodes for name in node.output}
    return names | {name: f"c_{name}" for name in model.constants}


def _constants(model: Forward) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(numpy_helper.to_array(t), f"c_{name}") for name, t in model.constants.items()]


def _evaluate_graph(model: Forward, manifest: Manifest, row: Objective, prediction: str) -> onnx.ModelProto:
    names = _value_names(model) | {model.x: "x"}
    tape = Tape("eval_", {names.get(name, name): shape for name, shape in model.shapes.items()})
    tape.nodes.extend(_renamed(_needed(model.nodes, [prediction]), names))
    for metric, value in zip(manifest.metrics, row.values(tape, names.get(prediction, prediction), "y"), strict=True):
        tape.emit("ReduceSum", value, name=metric, keepdims=0)
    inputs = [*_parameter_inputs(manifest), *_example_inputs(manifest)]
    outputs = [helper.make_tensor_value_info(metric, _FLOAT, []) for metric in manifest.metrics]
    initializers = [*tape.constants.values(), *_constants(model)]
    return _model(helper.make_graph(tape.nodes, "evaluate", inputs, outputs, initializers))


def _parameter_inputs(manifest: Manifest) -> list[Any]:
    return [helper.make_tensor_value_info(p.name, _FLOAT, p.shape) for p in manifest.parameters]


def _example_inputs(manifest: Manifest) -> list[Any]:
    return [
        helper.make_tensor_value_info("x", _FLOAT, ["n", *manifest.x.shape]),
        helper.make_tensor_value_info("y", DTYPES[manifest.y.dtype], ["n", *manifest.y.shape]),
    ]


def _new(parameter: Parameter) -> str:
    return f"new_{parameter.name}"


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
