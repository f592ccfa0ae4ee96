"""Law: who makes the cohort's labels evenest comes next, of those who share how many they have of each.

    evenness of a sum of histograms s:   Σ_c (s_c / Σs − 1/C)²,   the smaller the better

That is the quadratic class-imbalance degree of Fed-CBS (Zhang et al. 2023, section 3). The greedy choice, one child
after the other, is that of Astraea (Duan et al. 2019, section 3.4), which measures by the Kullback-Leibler divergence.

Who shares nothing is not passed over for it: as many of them take part as would by a uniform draw, and the first of
the others is such a draw's too, so that not every cohort is the same. Counts below 0 are noise, and taken for 0.
Work is of the order of places · children · labels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headwater.core.select import uniform
from headwater.core.select.candidate import Candidate, Draw


def prefer(draw: Draw) -> tuple[str, ...]:
    known = {candidate.name: candidate for candidate in draw.candidates if any(n > 0 for n in candidate.histogram)}
    lot = uniform.prefer(draw)
    sharing = [name for name in lot if name in known]
    if not sharing:
        return lot
    evened = iter(_evened(tuple(known.values()), sharing[0], len(sharing)))
    return tuple(next(evened) if name in known else name for name in lot)


def _evened(candidates: Sequence[Candidate], first: str, places: int) -> list[str]:
    """`places` of the candidates, each the one that makes the sum so far evenest; of equals the first by name."""
    counts = _counts(candidates)
    totals, squares = counts.sum(axis=1), np.square(counts).sum(axis=1)
    left = np.ones(len(candidates), dtype=bool)
    sum_ = np.zeros(counts.shape[1])
    chosen: list[str] = []
    index = next(i for i, candidate in enumerate(candidates) if candidate.name == first)
    for _ in range(places):
        if chosen:
            # |s + h|² / (Σs + Σh)²; the constant 1/C orders nothing.
            unevenness = (sum_ @ sum_ + 2 * counts @ sum_ + squares) / (sum_.sum() + totals) ** 2
            index = int(np.argmin(np.where(left, unevenness, np.inf)))
        left[index] = False
        sum_ += counts[index]
        chosen.append(candidates[index].name)
    return chosen


def _counts(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """A row of each; where one names fewer labels it has none of the others."""
    counts = np.zeros((len(candidates), max(len(candidate.histogram) for candidate in candidates)))
    for row, candidate in zip(counts, candidates, strict=True):
        row[: len(candidate.histogram)] = candidate.histogram
    return np.maximum(counts, 0.0)
