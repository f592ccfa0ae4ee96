"""Law: who adds most examples of labels that the cohort lacks comes next, of those who share how many they have.

    worth of a sum of histograms s:   Σ_c √s_c          of as many examples the evenest are worth most

To take who adds most, one after the other, as Astraea does for its mediators (Duan et al. 2019, section 3), comes
within 1 − 1/e of the best cohort, for the worth is submodular (Nemhauser, Wolsey & Fisher 1978). The evenness alone, as
Astraea and Fed-CBS measure it (Zhang et al. 2023, section 3), rewards cohorts that have next to no examples: on digits
it learned no faster than a uniform choice.

They are those of a uniform draw of `candidates` times as many as there are places: among all, the same few that even
each other out would make every cohort. Who shares nothing is not passed over for it: as many of them take part as are
among the first of that draw. Counts below 0 are noise, and taken for 0. The work is of the order of places · drawn ·
labels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headwater.core.select.candidate import Candidate, Draw
from headwater.core.select.shares import share_of


def prefer(draw: Draw) -> tuple[str, ...]:
    count = min(len(draw.candidates), share_of(draw.places, draw.selection.candidates))
    pool = [draw.candidates[i] for i in draw.rng.choice(len(draw.candidates), size=count, replace=False)]
    sharing = [candidate for candidate in pool if _says_something(candidate)]
    lot = pool[: draw.places]
    evened = iter(_evened(sharing, sum(map(_says_something, lot))))
    return tuple(next(evened) if _says_something(candidate) else candidate.name for candidate in lot)


def _says_something(candidate: Candidate) -> bool:
    return any(count > 0 for count in candidate.histogram)


def _evened(candidates: Sequence[Candidate], places: int) -> list[str]:
    """`places` of the candidates: the first, and then each that adds most; of equals the foremost."""
    if not places:
        return []
    counts = _counts(candidates)
    left = np.ones(len(candidates), dtype=bool)
    sum_ = np.zeros(counts.shape[1])
    chosen: list[str] = []
    index = 0
    for _ in range(places):
        if chosen:
            worth = np.sqrt(sum_ + counts).sum(axis=1)
            index = int(np.argmax(np.where(left, worth, -np.inf)))
        left[index] = False
        sum_ += counts[index]
        chosen.append(candidates[index].name)
    return chosen


def _counts(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """A row of each; where one names fewer labels it has none of the others, and nobody has more than its examples."""
    counts = np.zeros((len(candidates), max(len(candidate.histogram) for candidate in candidates)))
    for row, candidate in zip(counts, candidates, strict=True):
        told = np.maximum(candidate.histogram, 0.0)
        most = candidate.examples
        row[: len(told)] = told if most is None else told * min(1.0, most / max(float(told.sum()), 1.0))
    return counts
