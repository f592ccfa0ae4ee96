"""Law: no graph is published before one step of it, from several points, agrees with finite differences of its loss.

The differences are taken in float64 on the evaluate graph, whose loss has no backward rule in it, so the gate does
not share the compiler's mistakes. The step has filler, and a step of filler alone goes before it: neither may count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from headwater.core.graph.compiler import Compiled
from headwater.core.graph.refusal import UnsupportedModel

TOLERANCE: Final = 2e-3
"""Of a directional derivative, relative to the gradient's length: float32 steps against float64 differences."""

_STEP: Final = 1e-6
_EXAMPLES: Final = 8
_FILLER: Final = 3
_LEARNING_RATE: Final = 1024.0
"""Large, so that the parameter's own rounding does not hide a small gradient; a power of two, so that it is exact."""

_SMALLEST_GRADIENT: Final = 1e-3
"""Below this length errors are absolute: float32 has no more to say."""


@dataclass(frozen=True, slots=True)
class Verification:
    """`worst` is the largest relative error over `checks` directional derivatives."""

    checks: int
    worst: float


def verify(compiled: Compiled, *, rng: np.random.Generator, points: int = 3) -> Verification:
    """Compare the train graph's step with central differences, parameter by parameter, at `points` random points.

    Raises:
        UnsupportedModel: they disagree; the parameter, the point and both values are named.
    """
    manifest = compiled.manifest
    train = _session(compiled.bundle.graphs["train"])
    loss = _session(_in_float64(compiled.bundle.graphs["evaluate"]))
    errors = []
    for point in range(points):
        parameters = [
            np.asarray(value + rng.normal(0, 0.1, value.shape), np.float32) if parameter.trainable else value
            for parameter, value in zip(manifest.parameters, compiled.initial, strict=True)
        ]
        x = rng.normal(0, 1, (_EXAMPLES, *manifest.x.shape)).astype(np.float32)
        y = (
            rng.integers(0, manifest.y.classes, _EXAMPLES)
            if manifest.y.classes
            else rng.normal(0, 1, (_EXAMPLES, *manifest.y.shape)).astype(np.float32)
        )
        steps = _one_step(train, compiled, parameters, x, y)
        for parameter, gradient in steps.items():
            # Along itself a gradient shows its length, along a random direction what it lacks.
            errors += [
                _compare(loss, compiled, parameters, x, y, parameter, gradient, direction, point)
                for direction in (np.asarray(rng.normal(0, 1, gradient.shape)), gradient)
            ]
    return Verification(len(errors), max(errors))


def _one_step(
    train: ort.InferenceSession,
    compiled: Compiled,
    parameters: list[NDArray[np.float32]],
    x: NDArray[np.float32],
    y: NDArray[np.generic],
) -> dict[str, NDArray[np.float64]]:
    """The gradient that one step over all examples implies."""
    feed: dict[str, NDArray[Any]] = {
        p.name: value for p, value in zip(compiled.manifest.parameters, parameters, strict=True)
    }
    given = {value.name for value in train.get_inputs()}
    feed |= {
        "x": x,
        "y": y,
        "order": np.array([[*range(len(x)), *[0] * _FILLER]] * 2, np.int64),
        "mask": np.array([[0.0] * (len(x) + _FILLER), [1.0] * len(x) + [0.0] * _FILLER], np.float32),
        "learning_rate": np.array(_LEARNING_RATE, np.float32),
    }
    trainable = compiled.manifest.trainable
    new = _run(train, [f"new_{p.name}" for p in trainable], {name: v for name, v in feed.items() if name in given})
    return {
        p.name: np.asarray((feed[p.name].astype(np.float64) - value.astype(np.float64)) / _LEARNING_RATE)
        for p, value in zip(trainable, new, strict=True)
    }


def _compare(
    loss: ort.InferenceSession,
    compiled: Compiled,
    parameters: list[NDArray[np.float32]],
    x: NDArray[np.float32],
    y: NDArray[np.generic],
    name: str,
    gradient: NDArray[np.float64],
    towards: NDArray[np.float64],
    point: int,
) -> float:
    direction = towards / max(float(np.linalg.norm(towards)), 1e-12)
    values = {p.name: v.astype(np.float64) for p, v in zip(compiled.manifest.parameters, parameters, strict=True)}
    found = []
    for sign in (1.0, -1.0):
        moved = values | {name: np.asarray(values[name] + sign * _STEP * direction)}
        targets = y.astype(np.float64) if y.dtype == np.float32 else y
        feed = moved | {"x": x.astype(np.float64), "y": targets}
        given = {value.name for value in loss.get_inputs()}
        total = _run(loss, ["loss"], {key: value for key, value in feed.items() if key in given})[0]
        found.append(float(total) / len(x))
    expected = (found[0] - found[1]) / (2 * _STEP)
    got = float((gradient * direction).sum())
    error = abs(got - expected) / max(float(np.linalg.norm(gradient)), abs(expected), _SMALLEST_GRADIENT)
    if not error <= TOLERANCE:
        raise UnsupportedModel(
            f"parameter {name!r}: at point {point} its gradient along a direction is {got:.6g}, finite "
            f"differences say {expected:.6g}; the model is not published, please report it with the ONNX file"
        )
    return error


def _session(payload: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _refused(error) from None


def _run(session: ort.InferenceSession, outputs: list[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    try:
        return list(session.run(outputs, dict(feed)))
    except Exception as error:
        raise _refused(error) from None


def _refused(error: Exception) -> UnsupportedModel:
    # onnxruntime's exceptions have no base of their own.
    return UnsupportedModel(f"model: onnxruntime cannot run its graphs ({str(error).strip().splitlines()[0][:300]})")


def _in_float64(payload: bytes) -> bytes:
    """The evaluate graph with every float32 a float64."""
    model = onnx.load_from_string(payload)
    single, double = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = double
    for tensor in model.graph.initializer:
        if tensor.data_type == single:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == single:
                attribute.i = double
            if attribute.HasField("t") and attribute.t.data_type == single:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
    return bytes(model.SerializeToString())
