"""By what a parent chooses: each rule on numbers worked by hand, and what all of them promise."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.select import Candidate, Situation, chosen, in_their_place
from headwater.core.select.rules import RULES
from headwater.core.select.shares import places_of, share_of
from headwater.core.select.utility import utilities
from headwater.schemas.learning import Selection, SelectionRule
from headwater.schemas.messages import RoundKey


def situation(*candidates: Candidate, rounds: int = 4, deadline_s: float = 60.0, **rule: object) -> Situation:
    known = {candidate.name: candidate for candidate in candidates}
    return Situation(Selection.model_validate(rule), known, rounds, deadline_s)


def cohorts(about: Situation, places: int, seeds: int = 50) -> list[frozenset[str]]:
    fraction = places / len(about.known)
    found = [
        chosen(about.known, fraction, 0.0, seed, RoundKey(run="r", round=1), about).cohort for seed in range(seeds)
    ]
    return [cohort for cohort in found if cohort is not None]


def often(about: Situation, places: int, seeds: int = 2000) -> dict[str, float]:
    """How often each takes part."""
    counts = Counter(name for cohort in cohorts(about, places, seeds) for name in cohort)
    return {name: counts[name] / seeds for name in about.known}


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_examples_draw_one_in_proportion() -> None:
    found = often(situation(Candidate("a", 10), Candidate("b", 30), Candidate("c", 60), by="examples"), 1)
    assert found == pytest.approx({"a": 0.1, "b": 0.3, "c": 0.6}, abs=0.04)


def test_examples_draw_two_as_one_after_the_other() -> None:
    """P(a) = 1/10 + 3/10 · 1/7 + 6/10 · 1/4, and so on."""
    found = often(situation(Candidate("a", 10), Candidate("b", 30), Candidate("c", 60), by="examples"), 2)
    expected = {
        "a": 0.1 + 0.3 / 7 + 0.6 / 4,
        "b": 0.3 + 0.1 * 3 / 9 + 0.6 * 3 / 4,
        "c": 0.6 + 0.1 * 6 / 9 + 0.3 * 6 / 7,
    }
    assert found == pytest.approx(expected, abs=0.04)


def test_whose_examples_are_not_known_counts_as_the_others_do_in_the_mean() -> None:
    found = often(situation(Candidate("a", 10), Candidate("b"), Candidate("c", 30), by="examples"), 1)
    assert found == pytest.approx({"a": 1 / 6, "b": 2 / 6, "c": 3 / 6}, abs=0.04)


LOSSES = (Candidate("a", 1, 0.1), Candidate("b", 1, 0.9), Candidate("c", 1, 0.5), Candidate("d", 1, 0.7))


@pytest.mark.parametrize(
    ("candidates", "places", "expected"),
    [
        pytest.param(LOSSES, 2, {"b", "d"}, id="the highest"),
        pytest.param((*LOSSES, Candidate("e")), 2, {"e", "b"}, id="unknown is higher than any"),
        pytest.param((*LOSSES, Candidate("e"), Candidate("f")), 2, {"e", "f"}, id="both unknown"),
    ],
)
def test_power_of_choice_among_all(candidates: tuple[Candidate, ...], places: int, expected: set[str]) -> None:
    assert set(cohorts(situation(*candidates, by="loss", candidates=100.0), places)) == {frozenset(expected)}


def test_power_of_choice_is_the_best_of_those_drawn() -> None:
    """Two of four are drawn: a never wins, c beats one other of three, d two, b all of its three."""
    found = often(situation(*LOSSES, by="loss", candidates=2.0), 1)
    assert found == pytest.approx({"a": 0, "c": 1 / 6, "d": 2 / 6, "b": 3 / 6}, abs=0.04)
    alike = often(situation(*LOSSES, by="loss", candidates=1.0), 1)
    assert alike == pytest.approx(dict.fromkeys("abcd", 0.25), abs=0.04)


def labelled(**histograms: Sequence[float]) -> tuple[Candidate, ...]:
    return tuple(Candidate(name, 10, histogram=tuple(counts)) for name, counts in histograms.items())


def test_diversity_takes_one_of_each_label() -> None:
    pairs = labelled(a=(9, 0, 0), b=(8, 0, 0), c=(0, 9, 0), d=(0, 8), e=(0, 0, 9), f=(-1.5, -0.2, 8))
    found = set(cohorts(situation(*pairs, by="diversity"), 3))
    labels = {"a": 0, "b": 0, "c": 1, "d": 1, "e": 2, "f": 2}
    assert all({labels[name] for name in cohort} == {0, 1, 2} for cohort in found)
    assert {name for cohort in found for name in cohort} >= {"a", "c", "e"}


def test_diversity_fills_what_is_missing() -> None:
    """After a: b makes √7 + √5 = 4.88, c √8 + √2 = 4.24, d √6 + √4 = 4.45. Likewise b takes a, c takes b, d takes a."""
    about = situation(*labelled(a=(6, 0), b=(1, 5), c=(2, 2), d=(0, 4)), by="diversity", candidates=2.0)
    assert set(cohorts(about, 2)) == {frozenset("ab"), frozenset("bc"), frozenset("ad")}


def test_who_claims_more_than_its_examples_gains_nothing_by_it() -> None:
    """Each has 10 examples; b and c say that they have more of the one label that everybody has."""
    about = labelled(a=(10, 0), b=(1e308, 0), c=(1e9, 0), d=(0, 10), e=(0, 9))
    found = set(cohorts(situation(*about, by="diversity", candidates=5.0), 2))
    assert all(len(cohort & {"d", "e"}) == 1 for cohort in found)


def test_diversity_looks_at_no_more_than_it_drew() -> None:
    about = situation(*labelled(a=(6, 0), b=(1, 5), c=(2, 2), d=(0, 4)), by="diversity", candidates=1.0)
    assert set(cohorts(about, 2)) == {frozenset(pair) for pair in ("ab", "ac", "ad", "bc", "bd", "cd")}


def test_who_shares_no_histogram_takes_part_as_often_as_by_chance() -> None:
    about = situation(*labelled(a=(5, 0), b=(0, 5), c=(5, 0)), Candidate("d"), Candidate("e"), by="diversity")
    found = often(about, 2)
    assert (found["d"], found["e"]) == pytest.approx((0.4, 0.4), abs=0.04)
    assert often(situation(*map(Candidate, "abcd"), by="diversity"), 2) == pytest.approx(
        dict.fromkeys("abcd", 0.5), abs=0.04
    )


def test_a_utility_by_hand() -> None:
    """Round 10; of 20·0.5 = 10, 10·1 = 10 and 40·0.5 = 20 the 95th percentile is 19."""
    candidates = (
        Candidate("a", 20, 0.5, loss_age_rounds=1, round_s=2.0),
        Candidate("b", 10, 1.0, loss_age_rounds=9, round_s=1.0, battery_percent=50.0),
        Candidate("c", 40, 0.5, loss_age_rounds=5, round_s=4.0),
    )
    log = math.log(10)
    found = utilities(candidates, situation(*candidates, rounds=9, penalty=2.0))
    expected = [
        10 / 19 + math.sqrt(0.1 * log / 9),
        (10 / 19 + math.sqrt(0.1 * log / 1)) * 0.5,
        (1 + math.sqrt(0.1 * log / 5)) * (2 / 4) ** 2,
    ]
    assert found == pytest.approx(np.array(expected))
    hurried = utilities(candidates, situation(*candidates, rounds=9, preferred_s=1.0, penalty=1.0))
    assert hurried / found == pytest.approx([1 / 2, 1, (1 / 4) / (1 / 4)])
    assert utilities(candidates, situation(*candidates, rounds=9, deadline_s=1.0, penalty=1.0)) == pytest.approx(
        hurried
    )


def test_utility_asks_the_useful_and_some_that_are_new() -> None:
    useful = [Candidate(name, 10, 1.0, round_s=1.0) for name in "abc"]
    slow = [Candidate(name, 10, 1.0, round_s=50.0) for name in "de"]
    new = [Candidate(name, 10) for name in "xyz"]
    everyone = (*useful, *slow, *new)
    for cohort in cohorts(situation(*everyone, rounds=200, by="utility", exploration=0.25, preferred_s=1.0), 4):
        assert len(cohort & {"x", "y", "z"}) == 1
        assert cohort >= {"a", "b", "c"}
    for cohort in cohorts(situation(*everyone, by="utility", exploration=0.0, preferred_s=1.0), 3):
        assert cohort == {"a", "b", "c"}


@pytest.mark.parametrize(("rounds", "new"), [(0, 9), (1, 9), (10, 8), (50, 4), (90, 2), (500, 2)])
def test_utility_explores_less_and_less(rounds: int, new: int) -> None:
    """Of ten places ⌈10 · max(0.2, 0.9 · 0.98^R)⌉."""
    known = [Candidate(f"k{i}", 10, 1.0) for i in range(10)]
    unknown = [Candidate(f"u{i}", 10) for i in range(10)]
    for cohort in cohorts(situation(*known, *unknown, rounds=rounds, by="utility", exploration=0.2), 10, seeds=3):
        assert sum(name.startswith("u") for name in cohort) == new


def test_utility_explores_where_too_few_are_known() -> None:
    few = (Candidate("a", 10, 1.0), *map(Candidate, "xyz"))
    assert all("a" in cohort for cohort in cohorts(situation(*few, by="utility", exploration=0.0), 3))
    nobody = cohorts(situation(*map(Candidate, "wxyz"), by="utility"), 2)
    assert len(set(nobody)) == math.comb(4, 2)


def test_turns_are_those_who_waited_longest() -> None:
    waiting = (Candidate("a", waited_rounds=3), Candidate("b", waited_rounds=1), Candidate("c"), Candidate("d"))
    assert set(cohorts(situation(*waiting, by="turns"), 3)) == {frozenset("acd")}
    assert set(cohorts(situation(*waiting, by="turns"), 1)) == {frozenset("c"), frozenset("d")}


def test_a_floor_is_rounded_up_and_the_rule_has_the_rest() -> None:
    """⌈0.3 · 3⌉ = 1 place for c, who waited longest; the two highest losses have the others."""
    losses = {"a": 0.9, "b": 0.8, "c": 0.1, "d": 0.2}
    waited = {"a": 1, "b": 1, "c": 7, "d": 2}
    candidates = tuple(Candidate(name, 1, losses[name], waited_rounds=waited[name]) for name in losses)
    about = situation(*candidates, by="loss", candidates=100.0, floor=0.3)
    assert set(cohorts(about, 3)) == {frozenset("abc")}
    assert set(cohorts(situation(*candidates, by="loss", candidates=100.0, floor=1.0), 2)) == {frozenset("cd")}


# ── what all of them promise ────────────────────────────────────────────────────────────────────────────────────

NAMES = [f"d{number:02}" for number in range(12)]
MAYBE = {
    "examples": st.none() | st.integers(0, 10**6),
    "loss": st.none() | st.floats(0, 1e6),
    "loss_age_rounds": st.integers(1, 9),
    "round_s": st.none() | st.floats(0, 1e6),
    "waited_rounds": st.none() | st.integers(1, 9),
    "histogram": st.lists(st.floats(-1e6, 1e6), max_size=4).map(tuple),
    "battery_percent": st.none() | st.floats(0, 100),
}


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    rule = {
        "by": draw(st.sampled_from(get_args(SelectionRule))),
        "candidates": draw(st.floats(1, 5)),
        "exploration": draw(st.floats(0, 1)),
        "floor": draw(st.floats(0, 1)),
    }
    return situation(*(draw(st.builds(Candidate, name=st.just(name), **MAYBE)) for name in names), rounds=9, **rule)


@settings(max_examples=150)
@given(situations(), st.sets(st.sampled_from(NAMES)), st.floats(0.01, 0.99), st.floats(0, 2), st.integers(0, 9))
def test_as_many_as_wanted_each_once_the_same_again(
    about: Situation, members: set[str], fraction: float, over_selection: float, seed: int
) -> None:
    """Whoever is known or not: knowledge may be of other children than are there."""
    key = RoundKey(run="r", round=3, step=1)
    found = chosen(members, fraction, over_selection, seed, key, about)
    assert found.cohort is not None
    assert found.cohort <= members
    assert len(found.cohort) == len(chosen(members, fraction, over_selection, seed, key).cohort or ())
    assert found == chosen(sorted(members, reverse=True), fraction, over_selection, seed, key, about)
    others = members - found.cohort
    reserves = in_their_place(others, len(found.cohort), seed, key, about)
    assert set(reserves) <= others
    assert len(reserves) == len(set(reserves)) == min(len(others), len(found.cohort))


def test_every_rule_that_a_run_may_name_is_there() -> None:
    assert set(RULES) == set(get_args(SelectionRule))


Choice = Callable[[Situation, int], frozenset[str]]


def longest_gap(choose: Choice, members: Sequence[str], rule: Selection, rounds: int) -> int:
    """The most rounds from one that asks a child to the next that does, where only the first few are ever useful."""
    asked = dict.fromkeys(members, 0)
    longest = 0
    for round_ in range(1, rounds + 1):
        known = {
            name: Candidate(name, 10, float(i < 2), waited_rounds=round_ - last if last else None)
            for i, (name, last) in enumerate(asked.items())
        }
        cohort = choose(Situation(rule, known, round_ - 1), round_)
        longest = max(longest, *(round_ - last for last in asked.values()))
        asked |= dict.fromkeys(cohort, round_)
    return longest


def ours(fraction: float) -> Choice:
    def choose(about: Situation, round_: int) -> frozenset[str]:
        return chosen(about.known, fraction, 0.0, 0, RoundKey(run="r", round=round_), about).cohort or frozenset()

    return choose


@settings(max_examples=30)
@given(st.integers(3, 12), st.floats(0.1, 0.9), st.floats(0.05, 1), st.sampled_from(get_args(SelectionRule)))
def test_with_a_floor_nobody_waits_for_longer_than_it_says(
    members: int, fraction: float, floor: float, by: SelectionRule
) -> None:
    rule = Selection(by=by, floor=floor, candidates=100.0)
    places = places_of(share_of(members, fraction), floor)
    assert longest_gap(ours(fraction), NAMES[:members], rule, 40) <= math.ceil(members / places)


def test_a_floor_that_forgets_who_waited_is_caught() -> None:
    """The planted bug: a parent that never learns whom it asked."""
    rule = Selection(by="loss", floor=0.5, candidates=100.0)

    def forgetful(about: Situation, round_: int) -> frozenset[str]:
        known = {name: Candidate(name, c.examples, c.loss) for name, c in about.known.items()}
        return ours(1 / 3)(Situation(rule, known, about.rounds), round_)

    assert longest_gap(ours(1 / 3), NAMES, rule, 40) <= 12 / 2
    assert longest_gap(forgetful, NAMES, rule, 40) > 12 / 2


def test_without_a_floor_power_of_choice_forgets_the_others() -> None:
    """Why there is one."""
    assert longest_gap(ours(1 / 6), NAMES, Selection(by="loss", candidates=100.0), 40) == 40
