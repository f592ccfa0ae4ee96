"""Law: a loss is one row: the examples' losses, their metrics, and the gradient of the weighted mean beside them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape, Tape
from headwater.core.sketch import BUCKETS, GAMMA, SMALLEST
from headwater.schemas.base import Dtype
from headwater.schemas.limits import MAX_TALLY_LENGTH
from headwater.schemas.manifest import Example, Tally
from headwater.schemas.manifest import Objective as ObjectiveName
from headwater.schemas.run import Loss

Values = tuple[str, ...]


def _no_tallies(shape: Shape) -> tuple[Tally, ...]:
    return ()


def _no_counts(tape: Tape, prediction: str, target: str, keep: str) -> Values:
    return ()


def _as_they_are(tape: Tape, target: str, keep: str, loss: Loss) -> str:
    return keep


@dataclass(frozen=True, slots=True)
class Objective:
    """How a loss is computed.

    `values` gives, for a prediction and target of b examples, a float32 `[b]` for each name in `metrics`, the loss
    first. `gradient` gives that of Σ share·loss to the prediction, `share` being float32 `[b]`. A step's loss is
    Σ keep·loss / Σ `norm(keep)`. `counts` gives a vector for each of `tallies`, summed over the examples that keep.
    `steps_over` is an activation that the model may end with and the loss does without.
    """

    metrics: tuple[str, ...]
    target: Callable[[Shape, int, Shape], Example | None]
    values: Callable[[Tape, str, str, Loss], Values]
    gradient: Callable[[Tape, str, str, str, Loss], str]
    tallies: Callable[[Shape], tuple[Tally, ...]] = _no_tallies
    counts: Callable[[Tape, str, str, str], Values] = _no_counts
    norm: Callable[[Tape, str, str, Loss], str] = _as_they_are
    steps_over: str | None = None


# ── cross-entropy ───────────────────────────────────────────────────────────────────────────────────────────────


def _label(shape: Shape, classes: int, _: Shape) -> Example:
    if len(shape) != 2 or shape[1] is None:
        raise UnsupportedModel(f"output: shape {list(shape)}; cross-entropy needs [batch, classes]")
    if classes and classes != shape[1]:
        raise UnsupportedModel(f"output: {shape[1]} values where the run has {classes} classes; make them equal")
    return Example(shape=(), dtype="int64", classes=shape[1])


def _classes(tape: Tape, logits: str) -> int:
    return tape.shapes[logits][1] or 0


def _one_hot(tape: Tape, labels: str, classes: int) -> str:
    """Float32 `[b, classes]`."""
    return tape.emit("OneHot", labels, tape.constant(classes, np.int64), tape.constant([0.0, 1.0]), axis=1)


def _class_weights(loss: Loss, classes: int) -> tuple[float, ...]:
    if loss.class_weights and len(loss.class_weights) != classes:
        raise UnsupportedModel(
            f"loss.class_weights: {len(loss.class_weights)} weights where there are {classes} classes; give one each"
        )
    return loss.class_weights


def _wanted(tape: Tape, labels: str, classes: int, loss: Loss) -> str:
    """The smoothed and weighted target distribution (Szegedy et al. 2016, section 7), not summing to 1 if weighted."""
    wanted, smoothing = _one_hot(tape, labels, classes), loss.label_smoothing
    if smoothing:
        scaled = tape.emit("Mul", wanted, tape.constant(1.0 - smoothing))
        wanted = tape.emit("Add", scaled, tape.constant(smoothing / classes))
    weights = _class_weights(loss, classes)
    return tape.emit("Mul", wanted, tape.constant(weights)) if weights else wanted


def _cross_entropy(tape: Tape, logits: str, labels: str, loss: Loss) -> Values:
    """−Σ q·log softmax(z), and whether arg max z = y."""
    log_p = tape.emit("LogSoftmax", logits, axis=1)
    if loss.label_smoothing or loss.class_weights:
        products = tape.emit("Mul", log_p, _wanted(tape, labels, _classes(tape, logits), loss))
        value = tape.emit("Neg", tape.emit("ReduceSum", products, tape.axes([1]), keepdims=0))
    else:
        column = tape.emit("Unsqueeze", labels, tape.axes([1]))
        picked = tape.emit("GatherElements", log_p, column, axis=1)
        value = tape.emit("Neg", tape.emit("Squeeze", picked, tape.axes([1])))
    return value, tape.as_float(tape.emit("Equal", _best(tape, logits), labels))


def _best(tape: Tape, logits: str) -> str:
    return tape.emit("ArgMax", logits, axis=1, keepdims=0)


def _cross_entropy_gradient(tape: Tape, logits: str, labels: str, share: str, loss: Loss) -> str:
    """share·(softmax(z)·Σ q − q)."""
    wanted, softmax = _wanted(tape, labels, _classes(tape, logits), loss), tape.emit("Softmax", logits, axis=1)
    if loss.class_weights:
        softmax = tape.emit("Mul", softmax, tape.emit("ReduceSum", wanted, tape.axes([1]), keepdims=1))
    return tape.emit("Mul", tape.emit("Sub", softmax, wanted), tape.per_example(share, 2))


def _by_class_weight(tape: Tape, labels: str, keep: str, loss: Loss) -> str:
    """A weighted mean divides by the weights of the classes that it saw."""
    if not loss.class_weights:
        return keep
    return tape.emit("Mul", keep, tape.emit("Gather", tape.constant(loss.class_weights), labels, axis=0))


def _class_tallies(shape: Shape) -> tuple[Tally, ...]:
    classes = shape[1] or 0
    if classes > MAX_TALLY_LENGTH:
        return ()
    return tuple(Tally(name=f"class_{what}", length=classes) for what in ("examples", "correct", "predicted"))


def _class_counts(tape: Tape, logits: str, labels: str, keep: str) -> Values:
    classes = _classes(tape, logits)
    if classes > MAX_TALLY_LENGTH:
        return ()
    best = _best(tape, logits)
    true, said = _one_hot(tape, labels, classes), _one_hot(tape, best, classes)
    return tuple(_summed(tape, value, keep) for value in (true, tape.emit("Mul", true, said), said))


def _summed(tape: Tape, rows: str, keep: str) -> str:
    """`[k]`: the weighted sum of `[b, k]` over the examples."""
    product = tape.emit("MatMul", tape.emit("Unsqueeze", keep, tape.axes([0])), rows)
    return tape.emit("Squeeze", product, tape.axes([0]))


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _number(shape: Shape, classes: int, _: Shape) -> Example:
    dimensions = tuple(size for size in shape[1:] if size is not None)
    if len(dimensions) != len(shape) - 1:
        raise UnsupportedModel(f"output: shape {list(shape)}; only the batch may be dynamic")
    return Example(shape=dimensions, dtype="float32")


def _outputs(tape: Tape, prediction: str) -> int:
    return math.prod(size or 1 for size in tape.shapes[prediction][1:])


def _mean(tape: Tape, prediction: str, value: str) -> str:
    """`[b]`: the mean over an example's outputs."""
    axes = range(1, len(tape.shapes[prediction]))
    return tape.emit("ReduceMean", value, tape.axes(axes), keepdims=0) if axes else value


def _scaled(tape: Tape, prediction: str, share: str, slope: str, factor: float = 1.0) -> str:
    """share·factor/d·slope for d outputs an example."""
    scaled = tape.emit("Mul", share, tape.constant(factor / _outputs(tape, prediction)))
    return tape.emit("Mul", slope, tape.per_example(scaled, len(tape.shapes[prediction])))


def _squared(tape: Tape, prediction: str, target: str) -> str:
    difference = tape.emit("Sub", prediction, target)
    return _mean(tape, prediction, tape.emit("Mul", difference, difference))


def _absolute(tape: Tape, prediction: str, target: str) -> str:
    return _mean(tape, prediction, tape.emit("Abs", tape.emit("Sub", prediction, target)))


def _mse(tape: Tape, prediction: str, target: str, _: Loss) -> Values:
    """The mean over an example's outputs of (ŷ − y)², and of |ŷ − y|."""
    return _squared(tape, prediction, target), _absolute(tape, prediction, target)


def _mse_gradient(tape: Tape, prediction: str, target: str, share: str, _: Loss) -> str:
    return _scaled(tape, prediction, share, tape.emit("Sub", prediction, target), 2.0)


def _mae(tape: Tape, prediction: str, target: str, _: Loss) -> Values:
    return _absolute(tape, prediction, target), _squared(tape, prediction, target)


def _mae_gradient(tape: Tape, prediction: str, target: str, share: str, _: Loss) -> str:
    return _scaled(tape, prediction, share, tape.emit("Sign", tape.emit("Sub", prediction, target)))


def _huber(tape: Tape, prediction: str, target: str, loss: Loss) -> Values:
    """Huber 1964: e²/2 within δ, δ·(|e| − δ/2) beyond; c·(|e| − c/2) with c = min(|e|, δ) is both."""
    error = tape.emit("Abs", tape.emit("Sub", prediction, target))
    clipped = tape.emit("Min", error, tape.constant(loss.huber_delta))
    inner = tape.emit("Sub", error, tape.emit("Mul", clipped, tape.constant(0.5)))
    value = _mean(tape, prediction, tape.emit("Mul", clipped, inner))
    return value, _absolute(tape, prediction, target), _squared(tape, prediction, target)


def _huber_gradient(tape: Tape, prediction: str, target: str, share: str, loss: Loss) -> str:
    delta = loss.huber_delta
    error = tape.emit("Sub", prediction, target)
    clipped = tape.emit("Max", tape.emit("Min", error, tape.constant(delta)), tape.constant(-delta))
    return _scaled(tape, prediction, share, clipped)


def _sketch(shape: Shape) -> tuple[Tally, ...]:
    return (Tally(name="error_sketch", length=BUCKETS),)


def _sketch_counts(tape: Tape, prediction: str, target: str, keep: str) -> Values:
    """Each example's squared error in its bucket: floor(log(e/smallest)/log γ), the ends open (Masson et al. 2019).

    Squared whatever the loss: an alarm's threshold then means the same under each.
    """
    error = tape.emit("Max", _squared(tape, prediction, target), tape.constant(SMALLEST))
    place = tape.emit("Log", tape.emit("Div", error, tape.constant(SMALLEST)))
    bucket = tape.emit("Floor", tape.emit("Mul", place, tape.constant(1.0 / math.log(GAMMA))))
    last = tape.emit("Min", bucket, tape.constant(float(BUCKETS - 1)))
    rows = _one_hot(tape, tape.emit("Cast", last, to=onnx.TensorProto.INT64), BUCKETS)
    return (_summed(tape, rows, keep),)


# ── binary cross-entropy ────────────────────────────────────────────────────────────────────────────────────────


def _yes_or_no(shape: Shape, classes: int, x: Shape) -> Example:
    """One output takes a label of two classes; several take a number from 0 to 1 each."""
    example = _number(shape, classes, x)
    if math.prod(example.shape) == 1:
        if classes not in (0, 2):
            raise UnsupportedModel(f"output: one value where the run has {classes} classes; binary_cross_entropy has 2")
        return Example(shape=(), dtype="int64", classes=2)
    return example


def _truth(tape: Tape, logits: str, target: str) -> str:
    if _outputs(tape, logits) > 1:
        return target
    return tape.per_example(tape.as_float(target), len(tape.shapes[logits]))


def _positive_weight(loss: Loss) -> float:
    if len(loss.class_weights) > 1:
        raise UnsupportedModel(
            f"loss.class_weights: {len(loss.class_weights)} weights; binary_cross_entropy takes one, for positives"
        )
    return loss.class_weights[0] if loss.class_weights else 1.0


def _binary_cross_entropy(tape: Tape, logits: str, target: str, loss: Loss) -> Values:
    """(1 − y)·z + (1 + (w − 1)·y)·softplus(−z), which no z can overflow; and the share of right outputs."""
    y, one = _truth(tape, logits, target), tape.constant(1.0)
    weight = tape.emit("Add", tape.emit("Mul", y, tape.constant(_positive_weight(loss) - 1.0)), one)
    soft = tape.emit("Mul", weight, _softplus(tape, tape.emit("Neg", logits)))
    value = tape.emit("Add", tape.emit("Mul", tape.emit("Sub", one, y), logits), soft)
    said = tape.emit("Greater", logits, tape.constant(0.0))
    right = tape.as_float(tape.emit("Equal", said, tape.emit("Greater", y, tape.constant(0.5))))
    return _mean(tape, logits, value), _mean(tape, logits, right)


def _softplus(tape: Tape, value: str) -> str:
    """max(v, 0) + log(1 + exp(−|v|))."""
    tail = tape.emit("Exp", tape.emit("Neg", tape.emit("Abs", value)))
    grown = tape.emit("Log", tape.emit("Add", tail, tape.constant(1.0)))
    return tape.emit("Add", tape.emit("Max", value, tape.constant(0.0)), grown)


def _binary_cross_entropy_gradient(tape: Tape, logits: str, target: str, share: str, loss: Loss) -> str:
    """σ(z)·(1 − y + w·y) − w·y."""
    y, weight, one = _truth(tape, logits, target), _positive_weight(loss), tape.constant(1.0)
    weighted = tape.emit("Mul", y, tape.constant(weight))
    factor = tape.emit("Add", tape.emit("Sub", one, y), weighted)
    slope = tape.emit("Sub", tape.emit("Mul", tape.emit("Sigmoid", logits), factor), weighted)
    return _scaled(tape, logits, share, slope)


# ── reconstruction ──────────────────────────────────────────────────────────────────────────────────────────────


def _itself(shape: Shape, classes: int, x: Shape) -> None:
    if shape[1:] != x[1:]:
        raise UnsupportedModel(f"output: shape {list(shape)}; reconstruction needs that of the input, {list(x)}")


OBJECTIVES: Final[dict[ObjectiveName, Objective]] = {
    "cross_entropy": Objective(
        ("loss", "correct"),
        _label,
        _cross_entropy,
        _cross_entropy_gradient,
        _class_tallies,
        _class_counts,
        _by_class_weight,
        "Softmax",
    ),
    "binary_cross_entropy": Objective(
        ("loss", "correct"),
        _yes_or_no,
        _binary_cross_entropy,
        _binary_cross_entropy_gradient,
        steps_over="Sigmoid",
    ),
    "mse": Objective(("loss", "absolute_error"), _number, _mse, _mse_gradient, _sketch, _sketch_counts),
    "mae": Objective(("loss", "squared_error"), _number, _mae, _mae_gradient, _sketch, _sketch_counts),
    "huber": Objective(
        ("loss", "absolute_error", "squared_error"), _number, _huber, _huber_gradient, _sketch, _sketch_counts
    ),
    "reconstruction": Objective(("loss", "absolute_error"), _itself, _mse, _mse_gradient, _sketch, _sketch_counts),
}

DTYPES: Final[Mapping[Dtype, int]] = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
