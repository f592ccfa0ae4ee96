"""Law: a local optimiser is one row: its slots, its hyperparameters, and what a step makes of weight and gradient.

Each is written twice, as a graph and in float64 numpy; the gate holds the one against the other. A step of filler
alone changes neither weights nor slots. Formulas and their order of operations are those of torch.optim.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.graph.tape import Tape
from headwater.schemas.manifest import Parameter
from headwater.schemas.run import LocalTraining, Optimiser

Floats = NDArray[np.float64]
Slots = Mapping[str, str]
Numbers = Mapping[str, Floats]

_SMALL: Final = 1e-6
"""Added to a norm before it divides, as torch.nn.utils.clip_grad_norm_ does."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`slots`: of the parameter's shape; `counts`: whether a scalar slot `steps` counts the steps.

    graph: (tape, weight, gradient, slots, active) -> (new weight, new slots); the learning rate is the value `rate`.
    `active` is 0 in a step of filler, whose gradient is 0: what decays then does not.
    numbers: the same in numpy, with the hyperparameters by name.
    """

    slots: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    graph: Callable[[Tape, str, str, Slots, str], tuple[str, dict[str, str]]]
    numbers: Callable[[Floats, Floats, Numbers, float, Mapping[str, float]], tuple[Floats, dict[str, Floats]]]
    counts: bool = False


RATE: Final = "rate"
"""The learning rate of a step, in its graph."""


def hyper(name: str) -> str:
    """The graph input of a hyperparameter."""
    return f"hyper_{name}"


def rate_of(parameter: Parameter) -> str:
    """The hyperparameter that multiplies a parameter's learning rate in the variant alternating."""
    return "personal_rate" if parameter.personal else "shared_rate"


def _moved(tape: Tape, weight: str, rate: str, step: str) -> str:
    return tape.emit("Sub", weight, tape.emit("Mul", rate, step))


def _awake(tape: Tape, scalar: str, active: str) -> str:
    """0 in a step of filler."""
    return tape.emit("Mul", scalar, active)


def _decay(tape: Tape, beta: str, active: str) -> str:
    """β, or 1 in a step of filler."""
    asleep = tape.emit("Sub", tape.constant(1.0), active)
    return tape.emit("Max", hyper(beta), asleep)


def _velocity(tape: Tape, velocity: str, g: str, active: str) -> str:
    return tape.emit("Add", tape.emit("Mul", velocity, _decay(tape, "momentum", active)), g)


def _sgd(tape: Tape, w: str, g: str, slots: Slots, active: str) -> tuple[str, dict[str, str]]:
    return _moved(tape, w, RATE, g), {}


def _sgd_numbers(
    w: Floats, g: Floats, slots: Numbers, rate: float, h: Mapping[str, float]
) -> tuple[Floats, dict[str, Floats]]:
    return w - rate * g, {}


def _momentum(tape: Tape, w: str, g: str, slots: Slots, active: str) -> tuple[str, dict[str, str]]:
    """Polyak 1964: v ← β·v + g, w ← w − η·v."""
    velocity = _velocity(tape, slots["velocity"], g, active)
    return _moved(tape, w, _awake(tape, RATE, active), velocity), {"velocity": velocity}


def _momentum_numbers(
    w: Floats, g: Floats, slots: Numbers, rate: float, h: Mapping[str, float]
) -> tuple[Floats, dict[str, Floats]]:
    velocity = h["momentum"] * slots["velocity"] + g
    return w - rate * velocity, {"velocity": velocity}


def _nesterov(tape: Tape, w: str, g: str, slots: Slots, active: str) -> tuple[str, dict[str, str]]:
    """Nesterov 1983, as in Sutskever et al. 2013: w ← w − η·(g + β·v)."""
    velocity = _velocity(tape, slots["velocity"], g, active)
    ahead = tape.emit("Add", g, tape.emit("Mul", velocity, hyper("momentum")))
    return _moved(tape, w, _awake(tape, RATE, active), ahead), {"velocity": velocity}


def _nesterov_numbers(
    w: Floats, g: Floats, slots: Numbers, rate: float, h: Mapping[str, float]
) -> tuple[Floats, dict[str, Floats]]:
    velocity = h["momentum"] * slots["velocity"] + g
    return w - rate * (g + h["momentum"] * velocity), {"velocity": velocity}


def _adam(tape: Tape, w: str, g: str, slots: Slots, active: str) -> tuple[str, dict[str, str]]:
    """Kingma & Ba 2015, algorithm 1; `slots["steps"]` counts this step."""
    first = _decayed(tape, slots["first"], g, "beta1", active)
    second = _decayed(tape, slots["second"], tape.emit("Mul", g, g), "beta2", active)
    size = tape.emit("Div", _awake(tape, RATE, active), _correction(tape, "beta1", slots["steps"]))
    spread = tape.emit("Div", tape.emit("Sqrt", second), tape.emit("Sqrt", _correction(tape, "beta2", slots["steps"])))
    step = tape.emit("Div", first, tape.emit("Add", spread, hyper("epsilon")))
    return _moved(tape, w, size, step), {"first": first, "second": second}


def _decayed(tape: Tape, mean: str, value: str, beta: str, active: str) -> str:
    """β·mean + (1 − β)·value."""
    rest = tape.emit("Sub", tape.constant(1.0), hyper(beta))
    return tape.emit("Add", tape.emit("Mul", mean, _decay(tape, beta, active)), tape.emit("Mul", value, rest))


def _correction(tape: Tape, beta: str, steps: str) -> str:
    """1 − βᵗ."""
    return tape.emit("Sub", tape.constant(1.0), tape.emit("Pow", hyper(beta), steps))


def _adam_numbers(
    w: Floats, g: Floats, slots: Numbers, rate: float, h: Mapping[str, float]
) -> tuple[Floats, dict[str, Floats]]:
    first = h["beta1"] * slots["first"] + (1 - h["beta1"]) * g
    second = h["beta2"] * slots["second"] + (1 - h["beta2"]) * g * g
    steps = slots["steps"]
    unbiased = np.sqrt(second) / np.sqrt(1 - h["beta2"] ** steps)
    new = w - rate / (1 - h["beta1"] ** steps) * first / (unbiased + h["epsilon"])
    return np.asarray(new), {"first": first, "second": second}


_BETAS: Final = ("beta1", "beta2", "epsilon")

RULES: Final[dict[Optimiser, Rule]] = {
    "sgd": Rule((), (), _sgd, _sgd_numbers),
    "momentum": Rule(("velocity",), ("momentum",), _momentum, _momentum_numbers),
    "nesterov": Rule(("velocity",), ("momentum",), _nesterov, _nesterov_numbers),
    "adam": Rule(("first", "second"), _BETAS, _adam, _adam_numbers, counts=True),
    "adamw": Rule(("first", "second"), _BETAS, _adam, _adam_numbers, counts=True),
}


def hyperparameters(local: LocalTraining) -> dict[str, float]:
    """What the update's graph takes as scalars, with the run's values."""
    values = {name: float(getattr(local, name)) for name in RULES[local.optimiser].hyperparameters}
    if local.clip_norm:
        values["clip_norm"] = local.clip_norm
    if local.weight_decay:
        values["weight_decay"] = local.weight_decay
    return values


def clipped(tape: Tape, gradients: Mapping[str, str], bound: str) -> dict[str, str]:
    """All gradients scaled so that their common norm is at most `bound` (Pascanu et al. 2013, algorithm 1)."""
    factor = tape.emit(
        "Min",
        tape.constant(1.0),
        tape.emit("Div", bound, tape.emit("Add", norm(tape, gradients), tape.constant(_SMALL))),
    )
    return {name: tape.emit("Mul", gradient, factor) for name, gradient in gradients.items()}


def norm(tape: Tape, gradients: Mapping[str, str]) -> str:
    """The Euclidean norm of all gradients together."""
    squares = [tape.emit("ReduceSumSquare", gradient, keepdims=0) for gradient in gradients.values()]
    return tape.emit("Sqrt", tape.total(squares))


def clipped_numbers(gradients: Mapping[str, Floats], bound: float) -> dict[str, Floats]:
    """As `clipped`, in numpy."""
    length = float(np.sqrt(sum(float((g * g).sum()) for g in gradients.values())))
    return {name: g * min(1.0, bound / (length + _SMALL)) for name, g in gradients.items()}


def decayed(tape: Tape, local: LocalTraining, weight: str, gradient: str, active: str) -> tuple[str, str]:
    """Weight and gradient after weight decay: added to the gradient, or with adamw taken from the weight
    (Loshchilov & Hutter 2019)."""
    if not local.weight_decay:
        return weight, gradient
    decay = _awake(tape, hyper("weight_decay"), active)
    if local.optimiser == "adamw":
        return tape.emit("Sub", weight, tape.emit("Mul", weight, tape.emit("Mul", RATE, decay))), gradient
    return weight, tape.emit("Add", gradient, tape.emit("Mul", weight, decay))


def decayed_numbers(local: LocalTraining, weight: Floats, gradient: Floats, rate: float) -> tuple[Floats, Floats]:
    """As `decayed`, in numpy."""
    if local.optimiser == "adamw":
        return weight * (1 - rate * local.weight_decay), gradient
    return weight, gradient + local.weight_decay * weight
