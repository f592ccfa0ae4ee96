"""Law: first weights follow a published rule and the generator alone; biases begin at 0, scales at 1."""

import math

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]


def he(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> Weights:
    """He et al. 2015, for layers before a ReLU: normal, variance 2/fan-in."""
    return rng.normal(0.0, math.sqrt(2.0 / fan_in), shape)


def glorot(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Weights:
    """Glorot & Bengio 2010, for layers without one: uniform, variance 2/(fan-in + fan-out)."""
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)


def orthogonal(rng: np.random.Generator, size: int) -> Weights:
    """Saxe et al. 2014, for a state's own weights: a random rotation, uniform over all of them."""
    rotation, upper = np.linalg.qr(rng.normal(0.0, 1.0, (size, size)))
    return np.asarray(rotation * np.sign(np.diag(upper)))
