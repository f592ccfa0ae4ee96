"""Law: a quantile sketch is counts in fixed buckets, so that sketches add up along the tree like any other sum.

    bucket i = clip(⌊log(e / SMALLEST) / log γ⌋, 0, BUCKETS − 1)          DDSketch, Masson, Rim & Lee 2019
    it covers [SMALLEST·γ^i, SMALLEST·γ^(i+1)), the first also all below, the last all above

A quantile is answered with its bucket's geometric middle, which is within a factor √γ of the exact one.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headwater.schemas.base import Split
from headwater.schemas.manifest import SKETCH_BUCKETS
from headwater.schemas.messages import Counts, Errors
from headwater.schemas.tensors import decode_tensor

NAME: Final = "error_sketch"
"""What the tally is called in a manifest."""

BUCKETS: Final = SKETCH_BUCKETS
SMALLEST: Final = 1e-6
LARGEST: Final = 1e6
"""Where the last bucket begins."""

TOLD: Final[tuple[Split, ...]] = ("test", "personal")
"""Whose errors a plan tells: those of the models that devices use."""

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


# ── what a fleet is told ────────────────────────────────────────────────────────────────────────────────────────

FleetErrors = Mapping[Split, NDArray[np.float64]]
"""The fleet's counts `[BUCKETS]`, by split."""


def fleet_errors(before: FleetErrors, tallies: Iterable[Counts], share: float) -> FleetErrors:
    """A fleet's counts behind a round in which `share` of it was heard: of the others the earlier ones still hold.

        S' = S_round + (1 − share)·S

    As when SCAFFOLD's control variate is moved by those who took part (Karimireddy et al. 2020, algorithm 1). What the
    round did not measure stays as it was.
    """
    after = dict(before)
    for tally in tallies:
        if tally.name == NAME and tally.split in TOLD:
            counts = decode_tensor(tally.values, tally.name)
            if counts.sum() > 0:
                after[tally.split] = counts + (1 - share) * before.get(tally.split, np.zeros(BUCKETS))
    return after


def told_errors(counts: FleetErrors) -> tuple[Errors, ...]:
    """The counts as they travel: without the empty buckets at either end."""
    return tuple(_trimmed(split, counts[split]) for split in TOLD if split in counts)


def level(errors: Errors, share: float) -> float:
    """The error that `share` of what was told does not exceed, as `quantile`."""
    behind = BUCKETS - errors.first - len(errors.counts)
    return quantile(np.pad(np.array(errors.counts), (errors.first, behind)), share)


def _trimmed(split: Split, counts: NDArray[np.float64]) -> Errors:
    places = np.flatnonzero(counts)
    first, last = int(places[0]), int(places[-1])
    return Errors(split=split, first=first, counts=tuple(counts[first : last + 1].tolist()))
