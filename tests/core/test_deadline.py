"""How long a round waits: RFC 6298's sums by hand, and fleets that slow down, die and come back, round by round."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core import deadline
from headwater.core.deadline import MAX_SPARED_ROUNDS, SAFETY, SHORTEST_S, Times, arrived, kept, missed, suggest

DEADLINE_S = 60.0
DEAD = float("inf")


def played(times: Times, after_s: Mapping[str, float], quorum: float = 0.5) -> tuple[Times, float, set[str]]:
    """One round: what was learned, how long its deadline was, and who was in."""
    waited_s = suggest(times, after_s, quorum, DEADLINE_S)
    there = {node: seconds for node, seconds in after_s.items() if seconds < waited_s}
    times = arrived(times, there, DEADLINE_S)
    return missed(times, after_s.keys() - there.keys(), waited_s, DEADLINE_S), waited_s, set(there)


def test_the_sums_of_rfc_6298_by_hand() -> None:
    times = arrived({}, {"a": 4.0}, DEADLINE_S)
    assert (times["a"].mean_s, times["a"].deviation_s) == (4.0, 2.0)
    times = arrived(times, {"a": 12.0}, DEADLINE_S)
    # ¾·2 + ¼·8 = 3.5; ⅞·4 + ⅛·12 = 5
    assert (times["a"].mean_s, times["a"].deviation_s) == (5.0, 3.5)
    assert suggest(times, ["a"], 0.5, DEADLINE_S) == SAFETY * (5.0 + 4 * 3.5)


@pytest.mark.parametrize(
    ("after_s", "cohort", "suggested_s"),
    [
        pytest.param({}, "ab", DEADLINE_S, id="nothing is known"),
        pytest.param({"a": 4.0}, "", DEADLINE_S, id="nobody is there yet"),
        pytest.param({"a": 4.0, "b": 2.0}, "ab", SAFETY * 12, id="the slowest counts"),
        pytest.param({"a": 4.0, "b": 2.0}, "b", SAFETY * 6, id="of the cohort"),
        pytest.param({"a": 4.0}, "ab", DEADLINE_S, id="a newcomer may need it all"),
        pytest.param({"a": 0.01}, "a", SHORTEST_S, id="not shorter"),
        pytest.param({"a": 50.0}, "a", DEADLINE_S, id="not longer"),
        pytest.param({"a": 61.0}, "a", DEADLINE_S, id="too late to say anything"),
    ],
)
def test_what_is_suggested(after_s: dict[str, float], cohort: str, suggested_s: float) -> None:
    assert suggest(arrived({}, after_s, DEADLINE_S), cohort, 0.5, DEADLINE_S) == suggested_s


def test_a_deadline_below_the_shortest_is_kept() -> None:
    assert suggest(arrived({}, {"a": 0.01}, 0.2), ["a"], 0.5, 0.2) == 0.2


def test_a_child_that_missed_a_shortened_deadline_gets_twice_the_time() -> None:
    times, waits_s = arrived({}, {"a": 1.0}, DEADLINE_S), []
    for _ in range(5):
        times, waited_s, there = played(times, {"a": 30.0})
        waits_s.append(waited_s)
    assert waits_s[:4] == [4.5, 9.0, 18.0, 36.0]
    assert there == {"a"}
    assert waits_s[4] > 30.0


def test_a_dead_child_costs_fewer_and_fewer_long_rounds() -> None:
    times: Times = {}
    long_rounds = []
    for number in range(134):
        times, waited_s, there = played(times, {"a": 1.0, "b": 1.0, "dead": DEAD})
        assert there == {"a", "b"}
        if waited_s == DEADLINE_S:
            long_rounds.append(number)
    assert long_rounds == [0, 3, 8, 17, 34, 67, 100, 133]


def test_a_child_that_was_given_up_is_waited_for_again_as_soon_as_it_was_in_time() -> None:
    times: Times = {}
    for _ in range(20):
        times, _, _ = played(times, {"a": 1.0, "b": DEAD})
    assert times["b"].spared_rounds
    times, _, there = played(times, {"a": 0.5, "b": 0.5})
    assert there == {"a", "b"}
    assert (times["b"].failures, times["b"].spared_rounds, times["b"].at_least_s) == (0, 0, 0.0)


def test_a_delta_that_came_too_late_for_its_round_says_how_long_to_wait() -> None:
    times = missed(arrived({}, {"a": 1.0}, DEADLINE_S), ["a"], 4.5, DEADLINE_S)
    assert suggest(times, ["a"], 0.5, DEADLINE_S) == 9.0
    assert suggest(arrived(times, {"a": 20.0}, DEADLINE_S), ["a"], 0.5, DEADLINE_S) > 20.0


def test_those_given_up_are_waited_for_where_the_others_are_no_quorum() -> None:
    times = arrived({}, {"a": 1.0}, DEADLINE_S)
    times = missed(times, ["b", "c"], DEADLINE_S, DEADLINE_S)
    assert suggest(times, "abc", 0.3, DEADLINE_S) == 4.5
    assert suggest(times, "abc", 0.5, DEADLINE_S) == DEADLINE_S


def test_a_fleet_that_was_slow_for_a_while_is_not_waited_for_for_ever() -> None:
    times: Times = {}
    for seconds in [2.0] * 20 + [40.0] * 5 + [2.0] * 40:
        times, waited_s, _ = played(times, {"a": seconds})
    assert waited_s < 4.0


def test_what_is_known_of_a_child_goes_with_its_membership_and_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "MAX_CHILDREN", 2)
    times = missed(arrived({}, {"a": 1.0, "b": 2.0, "c": 3.0}, DEADLINE_S), ["d"], 1.0, DEADLINE_S)
    assert times.keys() == {"a", "b"}
    assert arrived(times, {"b": 3.0}, DEADLINE_S)["b"] != times["b"]
    assert kept(times, ["b", "e"]) == {"b": times["b"]}


def test_what_is_no_time_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="after_s: -1"):
        arrived({}, {"a": -1.0}, DEADLINE_S)
    with pytest.raises(ValueError, match="deadline_s: 0"):
        suggest({}, ["a"], 0.5, 0.0)


# ── properties ──────────────────────────────────────────────────────────────────────────────────────────────────

NODES = "abcd"
rounds_played = st.lists(
    st.fixed_dictionaries({node: st.one_of(st.floats(0, 100), st.just(DEAD)) for node in NODES}), max_size=20
)
quorums = st.sampled_from([0.25, 0.5, 1.0])


def after(history: list[dict[str, float]], quorum: float = 0.5) -> Times:
    times: Times = {}
    for round_ in history:
        times, _, _ = played(times, round_, quorum)
    return times


@given(rounds_played, st.sets(st.sampled_from(NODES)), quorums, st.floats(0.01, 1000))
def test_no_wait_is_beyond_its_bounds(
    history: list[dict[str, float]], cohort: set[str], quorum: float, deadline_s: float
) -> None:
    suggested_s = suggest(after(history), cohort, quorum, deadline_s)
    assert min(SHORTEST_S, deadline_s) <= suggested_s <= deadline_s


@given(rounds_played, st.sets(st.sampled_from(NODES)), quorums, quorums, st.floats(0.1, 100), st.floats(0.1, 100))
def test_more_time_allowed_or_a_larger_quorum_never_shortens_a_wait(
    history: list[dict[str, float]], cohort: set[str], quorum: float, other: float, deadline_s: float, later_s: float
) -> None:
    times = after(history)
    shorter_s = suggest(times, cohort, min(quorum, other), min(deadline_s, later_s))
    assert shorter_s <= suggest(times, cohort, max(quorum, other), max(deadline_s, later_s))


@given(rounds_played, st.floats(0, 59), st.floats(0, 59))
def test_a_slower_arrival_than_any_before_never_shortens_a_wait(
    history: list[dict[str, float]], one_s: float, other_s: float
) -> None:
    times = after(history)
    mean_s = times["a"].mean_s if "a" in times else None
    slow_s, slower_s = sorted((max(one_s, mean_s or 0.0), max(other_s, mean_s or 0.0)))
    waits_s = [suggest(arrived(times, {"a": seconds}, 60.0), "a", 0.5, 60.0) for seconds in (slow_s, slower_s)]
    assert waits_s[0] <= waits_s[1]


@given(rounds_played, st.fixed_dictionaries({node: st.floats(0, 59.9) for node in NODES}), quorums)
def test_whatever_was_learned_everyone_who_can_come_in_time_soon_does_and_stays(
    history: list[dict[str, float]], pace: dict[str, float], quorum: float
) -> None:
    """Neither a slow-down nor a failure may shut anyone out: the wait grows back to what the slowest needs."""
    times = after(history, quorum)
    together = []
    # Its spared rounds, the long one after them, and the doublings from the shortest wait to the longest.
    for _ in range(MAX_SPARED_ROUNDS + 1 + 6):
        times, _, there = played(times, pace, quorum)
        together.append(there == set(NODES))
    assert together[-1]
    for _ in range(10):
        times, _, there = played(times, pace, quorum)
        assert there == set(NODES)
