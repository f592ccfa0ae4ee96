"""Law: features are normalised by sums that add up along the tree, so that no example leaves its device."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from headwater.core.aggregate import Parameters
from headwater.core.models import NORMALISER_NAMES
from headwater.schemas.manifest import Manifest
from headwater.schemas.tensors import Array

SMALLEST_SPREAD: Final = 1e-6
"""Of a feature's root mean square: one that varies less is shifted, not blown up, for elsewhere it may vary."""


def normalised(
    manifest: Manifest, parameters: Sequence[Array], sums: Sequence[Array], examples: float
) -> tuple[Array, ...]:
    """The model with its normaliser filled; the other parameters stay."""
    filled = dict(zip(NORMALISER_NAMES, normaliser(sums, examples), strict=True))
    return tuple(
        filled.get(parameter.name, value) for parameter, value in zip(manifest.parameters, parameters, strict=True)
    )


def normaliser(sums: Sequence[Array], examples: float) -> Parameters:
    """Mean and reciprocal standard deviation of each feature, float32, from (Σx, Σx²) in float64 over `examples`."""
    total, squares = sums
    mean = total / examples
    spread = np.sqrt(np.maximum(squares / examples - mean**2, 0.0))
    varies = spread > SMALLEST_SPREAD * np.sqrt(squares / examples)
    scale = 1.0 / np.where(varies, spread, 1.0)
    return mean.astype(np.float32), scale.astype(np.float32)
