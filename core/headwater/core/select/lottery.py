"""Law: there is one way to draw by weights, and one to tell who waited longest; both leave ties to chance.

The smallest of Eᵢ/wᵢ, E exponential: as likely as drawing one after the other without putting back, each in
proportion to its weight among those left (Efraimidis & Spirakis 2006, algorithm A).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from headwater.core.select.candidate import Candidate

LEAST: Final = 1e-9
"""Of the largest weight: what weighs nothing comes last, not never."""


def drawn(weights: ArrayLike, count: int, rng: np.random.Generator) -> list[int]:
    """Indices of `count` of the weights, the first drawn first; with nothing but zeros all are alike."""
    heavy = np.asarray(weights, dtype=np.float64)
    heaviest = heavy.max(initial=0.0)
    heavy = np.maximum(heavy / heaviest, LEAST) if heaviest > 0 else np.ones_like(heavy)
    return [int(i) for i in np.argsort(rng.exponential(size=len(heavy)) / heavy, kind="stable")[:count]]


def longest_waiting(candidates: Sequence[Candidate], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Whoever was not asked for most rounds, those who never were first."""
    waited = [float("inf") if c.waited_rounds is None else c.waited_rounds for c in candidates]
    order = sorted(rng.permutation(len(candidates)).tolist(), key=lambda i: -waited[i])
    return tuple(candidates[i].name for i in order[:count])


def examples_of(candidates: Sequence[Candidate]) -> list[float]:
    """How many examples each has; of whom that is not known, as many as the others have in the mean."""
    known = [c.examples for c in candidates if c.examples is not None]
    mean = sum(known) / len(known) if known else 1.0
    return [mean if c.examples is None else float(c.examples) for c in candidates]
