"""Law: a server optimiser takes the mean update for the negative of a gradient, and makes a step of it.

sgd        x ← x + η·Δ                                        FedAvg, McMahan et al. 2017, algorithm 1, with a rate
momentum   m ← β·m + Δ              x ← x + η·m               FedAvgM, Hsu, Qi & Brown 2019, section 4.3
majority   x ← x + η·sign(Δ)                                  signSGD, Bernstein et al. 2018, algorithm 3: where
                                                              devices send signs, what most of them say
adagrad    v ← v + Δ²                                         Reddi et al. 2021, algorithm 2, line 13
yogi       v ← v − (1 − β₂)·Δ²·sign(v − Δ²)                   line 14
adam       v ← β₂·v + (1 − β₂)·Δ²                             line 15
           m ← β·m + (1 − β)·Δ      x ← x + η·m / (√v + τ)    lines 11 and 16; v begins as τ²
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.aggregate import Sums
from headwater.schemas.learning import ServerOptimiser, Strategy
from headwater.schemas.tensors import Array

State = Mapping[str, Sums]

Floats = NDArray[np.float64]

_SECOND: Final[dict[ServerOptimiser, Callable[[Floats, Floats, float], Floats]]] = {
    "adagrad": lambda v, square, beta: v + square,
    "yogi": lambda v, square, beta: v - (1 - beta) * square * np.sign(v - square),
    "adam": lambda v, square, beta: beta * v + (1 - beta) * square,
}
"""v after an update, by v, Δ² and β₂."""


def init(strategy: Strategy, shapes: Sequence[tuple[int, ...]]) -> State:
    """The state before the first step."""
    optimiser = strategy.optimiser
    if optimiser in ("sgd", "majority"):
        return {}
    state = {"momentum": tuple(np.zeros(shape) for shape in shapes)}
    if optimiser == "momentum":
        return state
    return state | {"second": tuple(np.full(shape, strategy.tau**2) for shape in shapes)}


def apply(strategy: Strategy, state: State, mean: Sequence[Array]) -> tuple[State, Sums]:
    """The state behind a step, and the step.

    Args:
        mean: Δ, float64, in the shapes that `init` was given.
    """
    optimiser, beta, rate = strategy.optimiser, strategy.momentum, strategy.server_learning_rate
    delta = tuple(np.asarray(tensor, dtype=np.float64) for tensor in mean)
    if optimiser == "sgd":
        return {}, tuple(rate * tensor for tensor in delta)
    if optimiser == "majority":
        return {}, tuple(rate * np.sign(tensor) for tensor in delta)
    held = state["momentum"]
    if optimiser == "momentum":
        momentum = tuple(beta * m + tensor for m, tensor in zip(held, delta, strict=True))
        return {"momentum": momentum}, tuple(rate * m for m in momentum)
    momentum = tuple(beta * m + (1 - beta) * tensor for m, tensor in zip(held, delta, strict=True))
    grown = _SECOND[optimiser]
    second = tuple(grown(v, tensor**2, strategy.beta2) for v, tensor in zip(state["second"], delta, strict=True))
    step = tuple(rate * m / (np.sqrt(v) + strategy.tau) for m, v in zip(momentum, second, strict=True))
    return {"momentum": momentum, "second": second}, step
