"""Law: who takes part in a round follows from the members, the plan's fraction and the plan's seed."""

import math
from collections.abc import Iterable

import numpy as np

from headwater.schemas.messages import RoundKey


def uniform_cohort(members: Iterable[str], fraction: float, seed: int, key: RoundKey) -> frozenset[str] | None:
    """`ceil(fraction * members)` of them, uniformly without replacement; None means everyone, latecomers included."""
    if fraction >= 1:
        return None
    names = sorted(members)
    size = max(1, math.ceil(fraction * len(names) - 1e-9)) if names else 0
    rng = np.random.default_rng([seed, key.round, key.step, key.attempt])
    return frozenset(names[i] for i in rng.choice(len(names), size=size, replace=False))
