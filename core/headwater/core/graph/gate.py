"""Law: no graph is published before its steps, from several points, agree with finite differences of the step's loss.

The differences are taken in float64 on the forward part alone, which has no backward rule in it, so the gate does not
share the compiler's mistakes. Three more things are held against something else: a step of the train graph against
the optimiser's formula in numpy; the graphs' prediction against stock onnxruntime's of the owner's model; and one
example's prediction against its neighbours, who must have no part in it. A step has filler, and a step of filler
alone goes before it: neither may count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.graph.compiler import Compiled
from headwater.core.graph.exact import in_float64
from headwater.core.graph.execution import Runnable
from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.update import RULES, clipped_numbers, decayed_numbers, rate_of

TOLERANCE: Final = 2e-3
"""Of a directional derivative, relative to the gradient's length: float32 steps against float64 differences."""

_STEP: Final = 1e-6
_EXAMPLES: Final = 8
_FILLER: Final = 3
_SMALLEST_GRADIENT: Final = 1e-3
"""Below this length errors are absolute: float32 has no more to say."""

_SAME: Final = 1e-4
"""What two float32 computations of one prediction may differ by, relative to its size."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Verification:
    """`worst` is the largest relative error over `checks` directional derivatives."""

    checks: int
    worst: float


@dataclass(frozen=True, slots=True)
class _Point:
    """Where to look: parameters by name, examples (`x`, and `y` where there is one), and a seed."""

    number: int
    parameters: Arrays
    examples: Arrays
    seed: int


def verify(compiled: Compiled, *, rng: np.random.Generator, points: int = 3) -> Verification:
    """Hold a bundle's graphs against their meaning at `points` random points.

    Raises:
        UnsupportedModel: they disagree; the parameter, the point and both values are named.
    """
    train = Runnable(compiled.bundle.graphs["train"])
    infer = Runnable(compiled.bundle.graphs["infer"])
    gradient = Runnable(compiled.proofs["gradient"])
    single = Runnable(compiled.proofs["loss"])
    loss = Runnable(in_float64(compiled.proofs["loss"], _shapes(compiled)))
    errors: list[float] = []
    for number in range(points):
        point = _point(compiled, rng, number)
        _check_prediction(infer, compiled, point)
        _check_independence(infer, compiled, point, rng)
        _check_loss(single, loss, point)
        # What the walk did not reach has no gradient, so the loss may not change with it.
        nothing = {p.name: np.zeros(p.shape) for p in compiled.manifest.trainable}
        found = nothing | _gradients(gradient, point)
        for name, value in found.items():
            # Along itself a gradient shows its length, along a random direction what it lacks.
            directions = (np.asarray(rng.normal(0, 1, value.shape)), value)
            errors += [_compare(loss, point, name, value, direction) for direction in directions]
        _check_step(train, gradient, compiled, point, rng)
    return Verification(len(errors), max(errors))


def _shapes(compiled: Compiled) -> dict[str, tuple[int | None, ...]]:
    """Of the forward values, as the proofs name them."""
    model = compiled.forward
    made = {name for node in model.nodes for name in node.output}
    names = {name: f"f_{name}" for name in made} | {name: f"c_{name}" for name in model.constants} | {model.x: "x"}
    return {names.get(name, name): shape for name, shape in model.shapes.items()}


def _point(compiled: Compiled, rng: np.random.Generator, number: int) -> _Point:
    manifest = compiled.manifest
    parameters = {
        parameter.name: _near(value, rng) if parameter.trainable else value
        for parameter, value in zip(manifest.parameters, compiled.initial, strict=True)
    }
    examples: Arrays = {"x": rng.normal(0, 1, (_EXAMPLES, *manifest.x.shape)).astype(np.float32)}
    if manifest.y is not None and manifest.y.classes:
        examples["y"] = rng.integers(0, manifest.y.classes, _EXAMPLES)
    elif manifest.y is not None:
        examples["y"] = rng.uniform(0, 1, (_EXAMPLES, *manifest.y.shape)).astype(np.float32)
    return _Point(number, parameters, examples, int(rng.integers(2**31)))


def _near(value: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    return np.asarray(value + rng.normal(0, 0.1, value.shape), np.float32)


# ── gradients against differences ───────────────────────────────────────────────────────────────────────────────


def _gradients(gradient: Runnable, point: _Point, keep: NDArray[Any] | None = None) -> Arrays:
    """The mean loss's gradient by parameter, float64, as the graph has it."""
    mask = np.ones(_EXAMPLES, np.float32) if keep is None else keep
    names = [name for name in gradient.outputs if name.startswith("gradient_")]
    given = {**point.parameters, **point.examples, "mask": mask, "seeds": np.array(point.seed)}
    return {
        name.removeprefix("gradient_"): value.astype(np.float64) for name, value in gradient.run(given, names).items()
    }


def _compare(loss: Runnable, point: _Point, name: str, gradient: NDArray[Any], towards: NDArray[Any]) -> float:
    direction = towards / max(float(np.linalg.norm(towards)), 1e-12)
    values = {key: _wide(value) for key, value in {**point.parameters, **point.examples}.items()}
    given = values | {"mask": np.ones(_EXAMPLES), "seeds": np.array(point.seed)}
    found = []
    for sign in (1.0, -1.0):
        moved = {**given, name: np.asarray(values[name] + sign * _STEP * direction)}
        found.append(float(loss.run(moved)["probe_loss"]))
    expected = (found[0] - found[1]) / (2 * _STEP)
    got = float((gradient * direction).sum())
    error = abs(got - expected) / max(float(np.linalg.norm(gradient)), abs(expected), _SMALLEST_GRADIENT)
    if not error <= TOLERANCE:
        raise UnsupportedModel(
            f"parameter {name!r}: at point {point.number} its gradient along a direction is {got:.6g}, finite "
            f"differences say {expected:.6g}; the model is not published, please report it with the ONNX file"
        )
    return error


def _check_loss(single: Runnable, loss: Runnable, point: _Point) -> None:
    """The loss in float64, where some operators are said otherwise, is the loss that is trained."""
    given = {**point.parameters, **point.examples, "seeds": np.array(point.seed)}
    got = float(single.run(given | {"mask": np.ones(_EXAMPLES, np.float32)})["probe_loss"])
    wide = {name: _wide(value) for name, value in given.items()}
    expected = float(loss.run(wide | {"mask": np.ones(_EXAMPLES)})["probe_loss"])
    if not abs(got - expected) <= _SAME * max(1.0, abs(expected)):
        raise UnsupportedModel(
            f"model: at point {point.number} its loss is {got:.6g}, and {expected:.6g} in double precision; it is not "
            "published, keep its values in a range that float32 can tell, or report it with the ONNX file"
        )


def _wide(value: NDArray[Any]) -> NDArray[Any]:
    return value.astype(np.float64) if value.dtype == np.float32 else value


# ── a step against the optimiser's formula ──────────────────────────────────────────────────────────────────────


def _check_step(
    train: Runnable, gradient: Runnable, compiled: Compiled, point: _Point, rng: np.random.Generator
) -> None:
    """One step of filler alone, one with filler in it, from slots under way, against numpy on verified gradients."""
    manifest, rate = compiled.manifest, _rate(compiled)
    slots = {slot.name: np.abs(rng.normal(0, 0.1, slot.shape)).astype(np.float32) for slot in manifest.slots}
    if "steps" in slots:
        slots["steps"] = np.array(3.0, np.float32)
    references = {p.name: _near(point.parameters[p.name], rng) for p in manifest.trainable}
    # What acts is set to something that shows.
    hyper = {**manifest.hyperparameters} | _telling(manifest.hyperparameters)
    noise = {p.name: rng.normal(0, 1, (2, *p.shape)).astype(np.float32) for p in manifest.trainable}
    given: Arrays = {**point.parameters, **point.examples}
    given |= {f"slot_{name}": value for name, value in slots.items()}
    given |= {f"hyper_{name}": np.array(value, np.float32) for name, value in hyper.items()}
    given |= {f"{stem}_{name}": value for name, value in references.items() for stem in ("anchor", "correction")}
    given |= {f"noise_{name}": value for name, value in noise.items()}
    rows = [*range(_EXAMPLES), *[0] * _FILLER]
    given |= {
        "order": np.array([rows, rows], np.int64),
        "mask": np.array([[0.0] * len(rows), [1.0] * _EXAMPLES + [0.0] * _FILLER], np.float32),
        "learning_rate": np.full(2, rate, np.float32),
        "seeds": np.array([point.seed + 1, point.seed], np.int64),
    }
    new = train.run(given)
    grads = _mean_gradients(gradient, compiled, point, hyper, {n: v[1] for n, v in noise.items()})
    grads = _varied(compiled, point, grads, references, hyper)
    expected = _expected(compiled, point, grads, slots, hyper, rate)
    for name, value in expected.items():
        old = slots[name.removeprefix("slot_")] if name.startswith("slot_") else point.parameters[name]
        _hold(point, name, np.asarray(new[f"new_{name}"] - old, np.float64), value - old, _SMALLEST_GRADIENT * rate)


def _rate(compiled: Compiled) -> float:
    """Large where a step is as long as the gradient, so that rounding does not hide it; a power of two, so exact."""
    return 1.0 if RULES[compiled.local.optimiser].counts else 1024.0


_ACTING: Final = {
    "proximal": 0.5,
    "noise_multiplier": 0.25,
    "example_norm": 0.5,
    "shared_rate": 0.5,
    "personal_rate": 0.25,
}


def _telling(hyper: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in _ACTING.items() if name in hyper}


def _mean_gradients(
    gradient: Runnable, compiled: Compiled, point: _Point, hyper: Mapping[str, float], noise: Arrays
) -> Arrays:
    if compiled.manifest.variant != "clipped":
        return _gradients(gradient, point)
    total = {name: np.zeros(value.shape) for name, value in _gradients(gradient, point).items()}
    for place in range(_EXAMPLES):
        alone = _Point(
            point.number,
            point.parameters,
            {name: value[place : place + 1] for name, value in point.examples.items()},
            # As the graph draws for an example.
            point.seed * 65_537 + place,
        )
        each = _gradients(gradient, alone, np.ones(1, np.float32))
        length = float(np.sqrt(sum(float((g * g).sum()) for g in each.values())))
        for name, value in each.items():
            total[name] += value * min(1.0, hyper["example_norm"] / max(length, 1e-12))
    spread = hyper["noise_multiplier"] * hyper["example_norm"]
    return {name: (value + spread * noise[name]) / _EXAMPLES for name, value in total.items()}


def _varied(compiled: Compiled, point: _Point, grads: Arrays, references: Arrays, hyper: Mapping[str, float]) -> Arrays:
    variant = compiled.manifest.variant
    if variant == "proximal":
        pull = hyper["proximal"]
        grads = {name: g + pull * (_wide(point.parameters[name]) - references[name]) for name, g in grads.items()}
    if compiled.local.clip_norm:
        grads = clipped_numbers(grads, hyper["clip_norm"])
    if variant == "corrected":
        grads = {name: g + references[name] for name, g in grads.items()}
    return grads


def _expected(
    compiled: Compiled, point: _Point, grads: Arrays, slots: Arrays, hyper: Mapping[str, float], rate: float
) -> Arrays:
    local, rule, expected = compiled.local, RULES[compiled.local.optimiser], {}
    count = {"steps": _wide(slots["steps"]) + 1.0} if rule.counts else {}
    rates = {parameter.name: rate_of(parameter) for parameter in compiled.manifest.trainable}
    for name, gradient in grads.items():
        own = {slot: _wide(slots[f"{slot}_{name}"]) for slot in rule.slots} | count
        weight, gradient = decayed_numbers(local, _wide(point.parameters[name]), gradient, rate)
        expected[name], moved = rule.numbers(weight, gradient, own, rate, hyper)
        if compiled.manifest.variant == "alternating":
            old = _wide(point.parameters[name])
            expected[name] = old + hyper[rates[name]] * (expected[name] - old)
        expected |= {f"slot_{slot}_{name}": value for slot, value in moved.items()}
    return expected


def _hold(point: _Point, name: str, got: NDArray[Any], expected: NDArray[Any], smallest: float) -> None:
    error = float(np.linalg.norm(got - expected)) / max(float(np.linalg.norm(expected)), smallest)
    if not error <= TOLERANCE:
        raise UnsupportedModel(
            f"parameter {name!r}: at point {point.number} a step moves it by {np.linalg.norm(got):.6g}, its formula "
            f"says {np.linalg.norm(expected):.6g} (off by {error:.2g}); the model is not published, please report it "
            "with the ONNX file"
        )


# ── predictions ─────────────────────────────────────────────────────────────────────────────────────────────────


def _check_prediction(infer: Runnable, compiled: Compiled, point: _Point) -> None:
    """The graph for inference, against the owner's model with these parameters."""
    model = compiled.forward.model.__class__()
    model.CopyFrom(compiled.forward.model)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in point.parameters]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    listed = {value.name for value in model.graph.input}
    for parameter in compiled.manifest.parameters:
        if parameter.name not in listed:
            value = model.graph.input.add(name=parameter.name)
            value.type.tensor_type.elem_type = 1
            for size in parameter.shape:
                value.type.tensor_type.shape.dim.add(dim_value=size)
    owner = Runnable(model.SerializeToString(), as_written=True)
    x = point.examples["x"]
    expected = owner.run({**point.parameters, compiled.forward.x: x})[compiled.forward.output]
    got = infer.run({**point.parameters, "x": x})["prediction"]
    if not np.abs(got - expected).max(initial=0.0) <= _SAME * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise UnsupportedModel(
            f"output {compiled.forward.output!r}: at point {point.number} the compiled graph predicts otherwise than "
            "the model; it is not published, please report it with the ONNX file"
        )


def _check_independence(infer: Runnable, compiled: Compiled, point: _Point, rng: np.random.Generator) -> None:
    """All examples but the last change; what is said of the last may not."""
    x = point.examples["x"]
    others = rng.normal(0, 3, x.shape).astype(np.float32)
    others[-1] = x[-1]
    one, other = (infer.run({**point.parameters, "x": value})["prediction"][-1] for value in (x, others))
    if not np.abs(one - other).max(initial=0.0) <= _SAME * max(1.0, float(np.abs(one).max(initial=0.0))):
        raise UnsupportedModel(
            f"output {compiled.forward.output!r}: an example's prediction depends on its neighbours in the batch; "
            "remove what mixes them (a softmax, mean, reshape or transpose over the first axis)"
        )
