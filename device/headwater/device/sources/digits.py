"""Law: a shard of digits follows from its description alone, so a reference in one process deals the same cards.

scikit-learn's 1,797 handwritten digits, 64 features in 0 to 1. A fifth, the same for all, is the test part; the rest
is dealt with label skew: each class is split over the devices by a draw from Dirichlet(alpha) (Hsu et al. 2019).
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import Dataset, dataset
from headwater.schemas.errors import DataError
from headwater.schemas.sources import DigitsSource

TEST_EXAMPLES: Final = 360
CLASSES: Final = 10


def load_digits(spec: DigitsSource) -> Dataset:
    """The training shard of one device, with everyone's test part.

    Raises:
        DataError: scikit-learn is not installed, or the draw left this device nothing.
    """
    x, y, test = digits(spec.seed)
    rows = shards(y[~test], spec.devices, spec.alpha, spec.seed)[spec.index]
    if not len(rows):
        raise DataError(f"digits: the draw left device {spec.index} of {spec.devices} nothing; take another seed")
    return dataset(x[~test][rows], y[~test][rows], x[test], y[test])


@lru_cache(maxsize=1)
def digits(seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """x float32 `[1797, 64]`, y int64 `[1797]`, and which rows are the test part."""
    table = np.loadtxt(_path(), delimiter=",")
    x, y = table[:, :-1], table[:, -1]
    test = np.zeros(len(x), dtype=bool)
    test[np.random.default_rng(seed).permutation(len(x))[:TEST_EXAMPLES]] = True
    return (x / 16.0).astype(np.float32), y.astype(np.int64), test


def shards(labels: NDArray[np.int64], devices: int, alpha: float, seed: int) -> list[NDArray[np.int64]]:
    """The rows of each device. Whoever the draw leaves empty gets one row from whoever has most."""
    rng = np.random.default_rng([seed, devices])
    hands: list[list[int]] = [[] for _ in range(devices)]
    for label in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(rng.dirichlet([alpha] * devices))[:-1] * len(rows)).astype(int)
        for hand, part in zip(hands, np.split(rows, cuts), strict=True):
            hand.extend(int(row) for row in part)
    for hand in hands:
        if not hand:
            hand.append(max(hands, key=len).pop())
    return [np.array(sorted(hand), dtype=np.int64) for hand in hands]


def _path() -> Path:
    # Found, not imported: importing scikit-learn would cost a small board more than the training does.
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("digits: scikit-learn is not installed; pip install 'headwater[testbed]'")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
