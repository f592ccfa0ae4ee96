"""Law: who learns much in little time is asked first, and some are always asked to see whether they do (Oort).

    U(i) ← |Bᵢ| · lossᵢ              clipped at the 95th percentile, then as a share of that
    U(i) ← U(i) + √(0.1 · ln R / L(i))          R this round, L(i) the one of its last update
    U(i) ← U(i) · (T / tᵢ)^α         where it is slower: T < tᵢ
    U(i) ← U(i) · battery share

    ε ← max(ε, 0.9 · 0.98^R)

Lai et al. 2021, section 4 and algorithm 1. (1 − ε) of the places go to those of whom a loss is known: all whose U is
above 95 % of the last one's that would just get a place take part in a draw in proportion to U. The others go to those
of whom none is known yet; ε is the plan's `exploration`, where the paper has 0.2. Differences:

- |Bᵢ|·√(mean of the squared losses) needs each example's loss; a device sends their mean, which is at most that root.
- T is the plan's `preferred_s`, or the median of the known times, and never above the deadline; no pacer moves it.
- Who is explored is left to chance: the speed of a child that never trained is not known here.
- The battery's share is not in the paper. Whoever has none is not held back.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.select.candidate import Candidate, Draw, Situation
from headwater.core.select.lottery import drawn, examples_of
from headwater.core.select.shares import places_of

CLIPPED_AT: Final = 95
"""Percentile beyond which a utility is no larger: an outlier, or someone who claims one, gains nothing more."""

CUTOFF: Final = 0.95
STALENESS: Final = 0.1
EXPLORED_FIRST: Final = 0.9
EXPLORED_LESS: Final = 0.98
"""Each round, until it is the plan's own share."""


def prefer(draw: Draw) -> tuple[str, ...]:
    known = [candidate for candidate in draw.candidates if candidate.loss is not None]
    unknown = [candidate for candidate in draw.candidates if candidate.loss is None]
    wanted = max(places_of(draw.places, _exploration(draw.situation)), draw.places - len(known))
    explored = min(len(unknown), wanted)
    new = drawn(np.ones(len(unknown)), explored, draw.rng)
    return (*_exploited(known, draw.places - explored, draw), *(unknown[i].name for i in new))


def _exploration(situation: Situation) -> float:
    """ε of this round; of a plan that explores at all."""
    least = situation.selection.exploration
    return max(least, EXPLORED_FIRST * EXPLORED_LESS**situation.rounds) if least else 0.0


def _exploited(candidates: Sequence[Candidate], places: int, draw: Draw) -> tuple[str, ...]:
    if not places:
        return ()
    values = utilities(candidates, draw.situation)
    cutoff = CUTOFF * np.sort(values)[-places]
    pool = np.flatnonzero(values >= cutoff)
    return tuple(candidates[pool[i]].name for i in drawn(values[pool], places, draw.rng))


def utilities(candidates: Sequence[Candidate], situation: Situation) -> NDArray[np.float64]:
    """U of each, at least 0. All have a loss."""
    learned = np.array(examples_of(candidates)) * [max(0.0, candidate.loss or 0.0) for candidate in candidates]
    bound = float(np.percentile(learned, CLIPPED_AT)) or 1.0
    values = np.minimum(learned / bound, 1.0) + [_bonus(candidate, situation.rounds + 1) for candidate in candidates]
    preferred_s = _preferred_s(candidates, situation)
    return np.array(
        values * [_haste(c, preferred_s, situation.selection.penalty) * _energy(c) for c in candidates], np.float64
    )


def _bonus(candidate: Candidate, round_: int) -> float:
    last = max(1, round_ - candidate.loss_age_rounds)
    return math.sqrt(STALENESS * math.log(max(1, round_)) / last)


def _preferred_s(candidates: Sequence[Candidate], situation: Situation) -> float:
    times_s = [candidate.round_s for candidate in candidates if candidate.round_s is not None]
    typical_s = median(times_s) if times_s else math.inf
    return min(situation.selection.preferred_s or typical_s, situation.deadline_s)


def _haste(candidate: Candidate, preferred_s: float, penalty: float) -> float:
    if candidate.round_s is None or candidate.round_s <= preferred_s:
        return 1.0
    return float((preferred_s / candidate.round_s) ** penalty)


def _energy(candidate: Candidate) -> float:
    return 1.0 if candidate.battery_percent is None else candidate.battery_percent / 100
