"""Law: so many are asked that the plan's fraction is reached; by whatever rule, the floor's places go to who waited.

    needed = ⌈C·n⌉            of n members, C the fraction: FedAvg, McMahan et al. 2017, algorithm 1
    asked  = ⌈(1 + o)·C·n⌉    n at most; over-selection, Bonawitz et al. 2019, section 9, where o is 0.3
    floor  = ⌈f·asked⌉        of those asked, to whoever waited longest: nobody waits longer than about n/floor rounds

Of those asked the slowest are not waited for.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from headwater.core.select.candidate import Candidate, Draw, Situation
from headwater.core.select.lottery import longest_waiting
from headwater.core.select.rules import RULES
from headwater.core.select.shares import places_of, share_of
from headwater.schemas.messages import RoundKey

_UNKNOWN: Final = Situation()
_RESERVE: Final = 1
"""A stream of its own, apart from that of the cohort."""


class Chosen(NamedTuple):
    """A round's cohort, and how many of it make the round complete.

    `cohort` None means everyone, latecomers included; `needed` then counts those who are there now.
    """

    cohort: frozenset[str] | None
    needed: int


EVERYONE: Final = Chosen(None, 0)


def chosen(
    members: Iterable[str],
    fraction: float,
    over_selection: float,
    seed: int,
    key: RoundKey,
    situation: Situation = _UNKNOWN,
) -> Chosen:
    """Some of the members, by the rule of the situation; the same ones for the same seed, key and situation.

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
    return Chosen(frozenset(_drawn(names, asked, situation, rng)), share_of(len(names), fraction))


def in_their_place(
    others: Iterable[str], count: int, seed: int, key: RoundKey, situation: Situation = _UNKNOWN
) -> tuple[str, ...]:
    """Up to `count` of those who were not chosen, in the order in which they take the places of who declines."""
    names = sorted(others)
    rng = np.random.default_rng([seed, key.round, key.step, key.attempt, _RESERVE])
    return _drawn(names, min(count, len(names)), situation, rng)


def _drawn(names: list[str], places: int, situation: Situation, rng: np.random.Generator) -> tuple[str, ...]:
    candidates = tuple(situation.known.get(name) or Candidate(name) for name in names)
    kept = places_of(places, situation.selection.floor)
    # Without a floor nothing is drawn for it: a run that goes on asks the same children as before there were floors.
    waiting = longest_waiting(candidates, kept, rng) if kept else ()
    if len(waiting) == places:
        return waiting
    asked = frozenset(waiting)
    left = tuple(candidate for candidate in candidates if candidate.name not in asked)
    return (*waiting, *RULES[situation.selection.by](Draw(left, places - kept, situation, rng)))
