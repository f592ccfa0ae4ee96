"""Law: a quantile sketch is counts in fixed buckets, so that sketches add up along the tree like any other sum.

    bucket i = clip(⌊log(e / SMALLEST) / log γ⌋, 0, BUCKETS − 1)          DDSketch, Masson, Rim & Lee 2019
    it covers [SMALLEST·γ^i, SMALLEST·γ^(i+1)), the first also all below, the last all above

A quantile is answered with its bucket's geometric middle, which is within a factor √γ of the exact one.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

NAME: Final = "error_sketch"
"""What the tally is called in a manifest."""

BUCKETS: Final = 128
SMALLEST: Final = 1e-6
LARGEST: Final = 1e6
"""Where the last bucket begins."""

GAMMA: Final = (LARGEST / SMALLEST) ** (1 / (BUCKETS - 1))


def bucket_of(errors: ArrayLike) -> NDArray[np.int64]:
    """The bucket of each error, all of which are finite and at least 0."""
    ratios = np.maximum(np.asarray(errors, dtype=np.float64), SMALLEST) / SMALLEST
    return np.clip(np.floor(np.log(ratios) / math.log(GAMMA)), 0, BUCKETS - 1).astype(np.int64)


def sketch(errors: ArrayLike) -> NDArray[np.float64]:
    """The counts of some errors."""
    return np.bincount(bucket_of(errors).ravel(), minlength=BUCKETS).astype(np.float64)


def middles() -> NDArray[np.float64]:
    """The geometric middle of each bucket."""
    return np.asarray(SMALLEST * GAMMA ** (np.arange(BUCKETS) + 0.5))


def quantile(counts: NDArray[Any], share: float) -> float:
    """A value that `share` of what was counted does not exceed, within a factor √γ.

    Raises:
        ValueError: nothing was counted, another number of buckets, or a share outside 0 to 1.
    """
    if counts.shape != (BUCKETS,):
        raise ValueError(f"counts: shape {list(counts.shape)} where [{BUCKETS}] belongs")
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share} is no share; use 0 to 1")
    reached = np.cumsum(counts, dtype=np.float64)
    if not reached[-1] > 0:
        raise ValueError("counts: nothing was counted, so there is no quantile")
    # The first bucket that holds anything is that of the least, whatever the share.
    bucket = int(np.argmax((reached >= share * reached[-1]) & (reached > 0)))
    return float(middles()[bucket])
