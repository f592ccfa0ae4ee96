"""Law: dense layers take a flat example; without a hidden layer they are logistic regression."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from headwater.core.models.builder import Builder

ACTIVATIONS: Final = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def mlp(
    features: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    rng: np.random.Generator,
    activation: str = "relu",
    normalise: bool = False,
) -> bytes:
    """A multilayer perceptron as forward ONNX: x float32 `[batch, features]` to `[batch, outputs]` (logits or values).

    Weights are drawn as by He et al. 2015 (normal, variance 2/fan-in), biases are 0; without hidden layers it is a
    linear model. With `normalise`, x' = (x − mean)·scale stands in front, with mean 0 and scale 1 to begin with.
    """
    build = Builder("mlp", [features], rng, normalise=normalise)
    return build.finished(_stack(build, [features, *hidden, outputs], activation), [outputs])


def autoencoder(
    features: int, hidden: Sequence[int], code: int, *, rng: np.random.Generator, activation: str = "relu"
) -> bytes:
    """Hinton & Salakhutdinov 2006: x `[batch, features]` through a narrow code and, mirrored, back to itself."""
    build = Builder("autoencoder", [features], rng)
    widths = [features, *hidden, code, *reversed(hidden), features]
    return build.finished(_stack(build, widths, activation), [features])


def _stack(build: Builder, widths: Sequence[int], activation: str) -> str:
    """Layers of these widths with an activation between them."""
    value = build.first
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
        name = f"layer{layer}"
        value = build.dense(value, fan_in, fan_out, name=name, result=f"{name}.sum")
        if layer < len(widths) - 1:
            value = build.node(ACTIVATIONS[activation], value, name=f"{name}.{activation}", result=f"{name}.out")
    return value
