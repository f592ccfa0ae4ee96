"""Law: who takes part in a round follows from the members, the plan's fraction and the plan's seed.

    needed = ⌈C·n⌉            of n members, C the fraction: FedAvg, McMahan et al. 2017, algorithm 1
    asked  = ⌈(1 + o)·C·n⌉    n at most; over-selection, Bonawitz et al. 2019, section 9, where o is 0.3

Of those asked the slowest are not waited for.
"""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from headwater.schemas.messages import RoundKey


class Chosen(NamedTuple):
    """A round's cohort, and how many of it make the round complete.

    `cohort` None means everyone, latecomers included; `needed` then counts those who are there now.
    """

    cohort: frozenset[str] | None
    needed: int


EVERYONE: Final = Chosen(None, 0)


def share_of(count: int, fraction: float) -> int:
    """`ceil(fraction * count)`, at least 1 of any: so many that the fraction is reached, whatever its rounding."""
    return max(1, math.ceil(fraction * count - 1e-9)) if count else 0


def chosen(members: Iterable[str], fraction: float, over_selection: float, seed: int, key: RoundKey) -> Chosen:
    """Some of the members, uniformly without replacement, the same ones for the same seed and key.

    Raises:
        ValueError: a fraction that is not positive, or an over-selection below 0.
    """
    if not fraction > 0:
        raise ValueError(f"fraction: {fraction} chooses nobody; give a number above 0 and up to 1")
    if not over_selection >= 0:
        raise ValueError(f"over_selection: {over_selection}; give 0 or more")
    names = sorted(members)
    if fraction >= 1:
        return Chosen(None, len(names))
    asked = min(len(names), share_of(len(names), (1 + over_selection) * fraction))
    rng = np.random.default_rng([seed, key.round, key.step, key.attempt])
    cohort = frozenset(names[i] for i in rng.choice(len(names), size=asked, replace=False))
    return Chosen(cohort, share_of(len(names), fraction))
