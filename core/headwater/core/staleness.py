"""Law: an update of an older model counts less, by a rule that knows nothing but how many versions older.

    w(s) = (1 + s)^(−a)                          FedAsync, Xie, Koyejo & Gupta 2019, section 5.2, "polynomial";
                                                 FedBuff, Nguyen et al. 2022, takes a = 1/2
    x' = (1 − α·w(s))·x + α·w(s)·(b + Δ)         FedAsync, algorithm 1: b is the model that Δ began from

s = 0 is an update of the current model and counts whole; a = 0 lets all count alike.
"""

from collections.abc import Sequence

import numpy as np

from headwater.core.aggregate import Sums
from headwater.schemas.tensors import Array


def discount(staleness: int, exponent: float) -> float:
    """w(s), in (0, 1]: what to multiply an update's weight, or FedAsync's alpha, by.

    Raises:
        ValueError: a staleness or an exponent below 0.
    """
    if staleness < 0:
        raise ValueError(f"staleness: {staleness}; an update is 0 or more versions old")
    if not exponent >= 0:
        raise ValueError(f"exponent: {exponent} would let older updates count more; give 0 or more")
    return float((1 + staleness) ** -exponent)


def mixed(current: Sequence[Array], base: Sequence[Array], delta: Sequence[Array], alpha: float) -> Sums:
    """x' − x = α·(b + Δ − x) in float64: the step that mixes one update into the current model.

    Args:
        current: the parameters now.
        base: those that the update began from, in the same shapes.
        delta: the update itself, not multiplied by its weight.
        alpha: in (0, 1], already multiplied by the update's `discount`.

    Raises:
        ValueError: an alpha outside (0, 1], or tensors of other numbers or shapes.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: {alpha} is no share of the new model; give a number above 0 and up to 1")
    shapes = [[np.shape(tensor) for tensor in tensors] for tensors in (current, base, delta)]
    if not shapes[0] == shapes[1] == shapes[2]:
        raise ValueError(f"base, delta: shapes {shapes[1]} and {shapes[2]} where {shapes[0]} belong")
    return tuple(
        alpha * (np.asarray(b, dtype=np.float64) + d - x) for x, b, d in zip(current, base, delta, strict=True)
    )
