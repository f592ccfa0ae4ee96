"""Law: features are normalised by sums that add up along the tree, so that no example leaves its device."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from headwater.core.aggregate import Parameters
from headwater.schemas.tensors import Array

SMALLEST_SPREAD: Final = 1e-6
"""A feature that hardly varies is shifted, not blown up."""


def normaliser(sums: Sequence[Array], examples: float) -> Parameters:
    """Mean and reciprocal standard deviation of each feature, float32, from (Σx, Σx²) in float64 over `examples`."""
    total, squares = sums
    mean = total / examples
    variance = np.maximum(squares / examples - mean**2, 0.0)
    scale = 1.0 / np.maximum(np.sqrt(variance), SMALLEST_SPREAD)
    return mean.astype(np.float32), scale.astype(np.float32)
