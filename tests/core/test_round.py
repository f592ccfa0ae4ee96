"""The round engine: its table of cases, and a property test against an independent model of what must hold."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.round import (
    Acknowledge,
    Arrived,
    Close,
    Declined,
    Fold,
    Hold,
    Invited,
    Joined,
    Left,
    Refuse,
    Round,
    Tick,
    Tolerance,
    open_round,
    step,
    taken_up,
    worth_taking,
)
from headwater.schemas.messages import RoundKey

KEY = RoundKey(run="r", round=3, step=0, attempt=1)


def opened(*cohort: str, quorum: float = 0.5, deadline_s: float = 10.0, open_to_all: bool = True) -> Round:
    return open_round(KEY, cohort, quorum=quorum, deadline_s=deadline_s, now=100.0, open_to_all=open_to_all)


def arrived(sender: str, key: RoundKey = KEY, weight: float = 2.0) -> Arrived:
    return Arrived(key, sender, weight, examples=2, devices=1)


def play(round_: Round, *events: tuple[object, float]) -> tuple[Round, list[object]]:
    told: list[object] = []
    for event, now in events:
        round_, effects = step(round_, event, now)
        told.extend(effects)
    return round_, told


def test_a_full_house_closes_before_the_deadline() -> None:
    round_, told = play(opened("a", "b"), (arrived("a"), 101.0), (arrived("b"), 102.0))
    assert round_.state == "closed"
    assert told == [Fold("a"), Acknowledge("a"), Fold("b"), Acknowledge("b"), Close()]
    assert (round_.weight, round_.devices, round_.examples) == (4.0, 2, 4)


@pytest.mark.parametrize(
    ("cohort", "contributors", "quorum", "state"),
    [
        pytest.param("abcd", "ab", 0.5, "closed", id="just the quorum"),
        pytest.param("abcd", "a", 0.5, "failed", id="one short of the quorum"),
        pytest.param("abc", "ab", 0.67, "failed", id="a fraction rounds up"),
        pytest.param("abcd", "", 0.01, "failed", id="an empty round always fails"),
        pytest.param("", "", 0.5, "failed", id="nobody was there"),
    ],
)
def test_the_deadline_closes_with_a_quorum_and_fails_without(
    cohort: str, contributors: str, quorum: float, state: str
) -> None:
    round_, _ = play(opened(*cohort, quorum=quorum), *((arrived(node), 101.0) for node in contributors))
    assert round_.state == "open"
    round_, told = play(round_, (Tick(), 110.0))
    assert round_.state == state
    assert told == [Close()]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        pytest.param(arrived("a", RoundKey(run="r", round=2, attempt=1)), "stale", id="an earlier round"),
        pytest.param(arrived("a", RoundKey(run="r", round=3, attempt=0)), "stale", id="an earlier attempt"),
        pytest.param(
            arrived("a", RoundKey(run="r", round=3, step=2)), "stale", id="a later step of an earlier attempt"
        ),
        pytest.param(arrived("a", RoundKey(run="r", round=4)), "unknown_round", id="a later round"),
        pytest.param(arrived("a", RoundKey(run="x", round=3, attempt=1)), "unknown_round", id="another run"),
        pytest.param(arrived("z"), "not_in_cohort", id="not chosen"),
    ],
)
def test_a_delta_that_does_not_belong_is_refused_and_changes_nothing(event: Arrived, reason: str) -> None:
    before = opened("a", "b", open_to_all=False)
    after, effects = step(before, event, 101.0)
    assert after == before
    assert [effect.reason for effect in effects if isinstance(effect, Refuse)] == [reason]


def test_arriving_twice_has_the_effect_of_arriving_once() -> None:
    once, _ = play(opened("a", "b"), (arrived("a"), 101.0))
    twice, told = play(once, (arrived("a", weight=99.0), 102.0))
    assert twice == once
    assert told == [Acknowledge("a")]


def test_what_comes_after_the_close_is_refused_as_closed() -> None:
    round_, _ = play(opened("a", "b"), (arrived("a"), 101.0), (Tick(), 110.0))
    assert round_.state == "closed"
    after, told = play(round_, (arrived("b"), 110.5))
    assert after == round_
    assert [effect.reason for effect in told if isinstance(effect, Refuse)] == ["closed"]


@pytest.mark.parametrize(
    ("open_to_all", "max_staleness", "reason"),
    [(True, 0, "closed"), (True, 2, "closed"), (False, 0, "closed"), (False, 2, "not_in_cohort")],
)
def test_who_came_behind_the_close_of_a_round_for_all_was_late_and_not_left_out(
    open_to_all: bool, max_staleness: int, reason: str
) -> None:
    begun = replace(opened("a", open_to_all=open_to_all), tolerance=Tolerance(max_staleness))
    round_, _ = play(begun, (arrived("a"), 101.0), (Joined("b"), 102.0))
    _, told = play(round_, (arrived("b"), 103.0))
    assert [effect.reason for effect in told if isinstance(effect, Refuse)] == [reason]


def test_a_late_delta_is_late_even_when_no_tick_came_first() -> None:
    round_, told = play(opened("a", "b", quorum=1.0), (arrived("a"), 101.0), (arrived("b"), 110.0))
    assert round_.state == "failed"
    assert Fold("b") not in told


def test_whoever_leaves_is_not_waited_for_and_may_come_back() -> None:
    round_, _ = play(opened("a", "b", "c"), (arrived("a"), 101.0), (Left("b"), 102.0), (Joined("b"), 103.0))
    assert round_.waiting == {"b", "c"}
    round_, _ = play(round_, (arrived("b"), 104.0), (Left("c"), 105.0))
    assert round_.state == "closed"


def test_a_round_without_its_quorum_waits_for_the_deadline_when_everyone_left() -> None:
    round_, _ = play(opened("a", "b", "c", "d"), (arrived("a"), 101.0), (Left("b"), 101.0), (Left("c"), 101.0))
    round_, _ = play(round_, (Left("d"), 102.0))
    assert round_.state == "open"
    round_, _ = play(round_, (Joined("d"), 103.0), (arrived("d"), 104.0))
    assert round_.state == "closed"


def test_a_child_that_appears_mid_round_joins_the_cohort_only_when_the_round_is_open_to_all() -> None:
    round_, _ = play(opened("a"), (Joined("b"), 101.0), (arrived("b"), 102.0))
    assert round_.waiting == {"a"}
    chosen, told = play(opened("a", open_to_all=False), (Joined("b"), 101.0), (arrived("b"), 102.0))
    assert chosen.cohort == {"a"}
    assert [effect.reason for effect in told if isinstance(effect, Refuse)] == ["not_in_cohort"]


def test_a_round_with_nobody_in_it_waits_for_the_first_who_joins() -> None:
    round_, _ = play(opened(), (Tick(), 101.0), (Joined("a"), 102.0), (arrived("a"), 103.0))
    assert round_.state == "closed"


def test_a_child_that_declines_is_not_waited_for() -> None:
    round_, _ = play(opened("a", "b"), (arrived("a"), 101.0), (Declined(KEY, "b"), 102.0))
    assert round_.state == "closed"
    round_, _ = play(opened("a", "b"), (Declined(RoundKey(run="r", round=2), "b"), 102.0))
    assert round_.waiting == {"a", "b"}


@pytest.mark.parametrize(
    ("quorum", "deadline_s", "field"), [(0.0, 1.0, "quorum"), (1.5, 1.0, "quorum"), (0.5, 0.0, "deadline_s")]
)
def test_a_round_that_could_not_end_is_not_opened(quorum: float, deadline_s: float, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        open_round(KEY, ["a"], quorum=quorum, deadline_s=deadline_s, now=0.0)


# ── enough of them, and late ones ───────────────────────────────────────────────────────────────────────────────


def behind(versions: int, attempt: int = 0) -> RoundKey:
    return RoundKey(run="r", round=KEY.round - versions, attempt=attempt)


def tolerant(*cohort: str, enough: int = 0, **tolerance: object) -> Round:
    allowed = Tolerance(**({"max_staleness": 2} | tolerance))  # type: ignore[arg-type]
    return open_round(
        KEY, cohort, quorum=0.5, deadline_s=10.0, now=100.0, open_to_all=False, enough=enough, tolerance=allowed
    )


def test_a_round_that_needs_some_of_those_it_asked_closes_with_the_fastest() -> None:
    asked = open_round(KEY, "abcd", quorum=1.0, deadline_s=10.0, now=100.0, open_to_all=False, enough=3)
    round_, told = play(asked, *((arrived(node), 101.0) for node in "dab"))
    assert (round_.state, sorted(round_.received)) == ("closed", ["a", "b", "d"])
    assert told[-1] == Close()
    assert asked.quorum == 3


def test_a_buffered_round_closes_with_its_number_of_updates_old_ones_among_them() -> None:
    round_, told = play(
        tolerant(*"abcd", enough=3), (arrived("a"), 101.0), (arrived("b", behind(1)), 102.0), (arrived("b"), 103.0)
    )
    assert round_.state == "closed"
    assert told == [
        Fold("a"),
        Acknowledge("a"),
        Fold("b", 2**-0.5),
        Acknowledge("b"),
        Fold("b"),
        Acknowledge("b"),
        Close(),
    ]
    assert (round_.updates, round_.weight, sorted(round_.received)) == (3, 6.0, ["a", "b"])


def test_a_buffered_round_does_not_wait_for_more_updates_than_there_are_children() -> None:
    round_, _ = play(tolerant("a", "b", enough=10), (arrived("a"), 101.0), (arrived("b"), 102.0))
    assert round_.state == "closed"


@pytest.mark.parametrize(
    ("key", "factor"),
    [
        pytest.param(behind(0), 1.0, id="an earlier attempt has the same model"),
        pytest.param(behind(1), 2**-0.5, id="one version"),
        pytest.param(behind(2), 3**-0.5, id="two versions, the most that are allowed"),
        pytest.param(behind(3), None, id="three versions"),
        pytest.param(RoundKey(run="r", round=4), None, id="a version that is not there yet"),
        pytest.param(RoundKey(run="x", round=3), None, id="another run"),
        pytest.param(RoundKey(run="r", round=2, step=1), None, id="an edge round of another parent"),
    ],
)
def test_an_old_update_counts_by_its_age_up_to_the_cap(key: RoundKey, factor: float | None) -> None:
    """FedBuff's 1/sqrt(1 + staleness); the cohort was that of its own round."""
    _, (first, *_) = step(tolerant("a", "b"), arrived("z", key), 101.0)
    assert first == Fold("z", factor) if factor else isinstance(first, Refuse)
    assert worth_taking(key, KEY, 2) == (factor is not None)


def test_an_update_that_an_earlier_round_holds_is_not_counted_again() -> None:
    before = tolerant("a", "b", counted=frozenset({("a", behind(1))}))
    after, told = step(before, arrived("a", behind(1)), 101.0)
    assert (after, told) == (before, (Acknowledge("a"),))
    _, told = step(before, arrived("b", behind(1)), 101.0)
    assert Fold("b", 2**-0.5) in told


def test_a_sender_has_one_late_update_a_version_whatever_its_attempt() -> None:
    round_, _ = play(tolerant("a", "b"), (arrived("a", behind(1, attempt=0)), 101.0))
    after, told = step(round_, arrived("a", behind(1, attempt=1)), 102.0)
    assert after == round_
    assert [effect.reason for effect in told if isinstance(effect, Refuse)] == ["duplicate"]
    _, told = step(round_, arrived("a", behind(2)), 102.0)
    assert Fold("a", 3**-0.5) in told


def test_what_comes_between_rounds_is_held_for_the_next() -> None:
    round_, told = play(
        tolerant("a", "b", enough=1), (arrived("a"), 101.0), (arrived("b"), 102.0), (arrived("a"), 103.0)
    )
    assert told[2:] == [Close(), Hold("b"), Acknowledge("a")]
    assert round_.updates == 1


def test_what_was_acknowledged_before_a_kill_is_in_though_fewer_are_enough_and_the_deadline_is_near() -> None:
    """Over-selection asks for a share of those who are there, and behind a restart there are fewer."""
    round_ = open_round(KEY, "abcd", quorum=0.5, deadline_s=0.01, now=100.0, open_to_all=False, enough=1)
    told: list[object] = []
    for sender in "abab":
        round_, effects = taken_up(round_, arrived(sender))
        told += effects
    assert told == [Fold("a"), Acknowledge("a"), Fold("b"), Acknowledge("b"), Acknowledge("a"), Acknowledge("b")]
    assert round_.state == "open"
    round_, told = play(round_, (Tick(), 100.0))
    assert (round_.state, sorted(round_.received), told) == ("closed", ["a", "b"], [Close()])


def test_another_takes_the_place_of_one_that_declines() -> None:
    """Who was not chosen is waited for from then on; how many are needed does not change."""
    chosen = opened("a", "b", quorum=1.0, open_to_all=False)
    round_, told = play(chosen, (arrived("a"), 101.0), (Invited("c"), 102.0), (Declined(KEY, "b"), 102.0))
    assert (round_.state, round_.waiting, round_.quorum) == ("open", {"c"}, 2)
    round_, told = play(round_, (arrived("c"), 103.0))
    assert (round_.state, told) == ("closed", [Fold("c"), Acknowledge("c"), Close()])
    over, told = play(round_, (Invited("d"), 104.0))
    assert (over, told) == (round_, [])


# ── property ────────────────────────────────────────────────────────────────────────────────────────────────────

NODES = "abcd"
keys = st.sampled_from(
    [
        KEY,
        behind(1),
        behind(1).model_copy(update={"step": 1}),
        behind(3),
        RoundKey(run="r", round=4),
        RoundKey(run="x", round=3),
    ]
)
events = st.one_of(
    st.builds(arrived, st.sampled_from(NODES + "z"), keys, st.sampled_from([1.0, 2.0, 4.0])),
    st.builds(Joined, st.sampled_from(NODES + "z")),
    st.builds(Invited, st.sampled_from(NODES + "z")),
    st.builds(Left, st.sampled_from(NODES)),
    st.builds(Declined, keys, st.sampled_from(NODES)),
    st.just(Tick()),
)
histories = st.lists(st.tuples(events, st.floats(0.0, 0.9)), max_size=40)


@given(
    st.sets(st.sampled_from(NODES)),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 2),
    histories,
)
def test_whatever_happens_each_is_counted_once_and_the_round_ends(
    cohort: set[str],
    quorum: float,
    open_to_all: bool,
    enough: int,
    max_staleness: int,
    history: list[tuple[object, float]],
) -> None:
    tolerance = Tolerance(max_staleness, counted=frozenset({("b", behind(1))}))
    round_ = open_round(
        KEY,
        cohort,
        quorum=quorum,
        deadline_s=10.0,
        now=100.0,
        open_to_all=open_to_all,
        enough=enough,
        tolerance=tolerance,
    )
    now, folded, closes, ever_in = 100.0, [], 0, set(cohort)
    for event, passed in history:
        now += passed
        was_open = round_.state == "open" and now < round_.deadline_at
        before = round_
        round_, effects = step(round_, event, now)
        new = [effect for effect in effects if isinstance(effect, Fold)]
        assert len(new) <= 1
        if new:
            assert was_open
            assert isinstance(event, Arrived)
            assert event.key.run == "r"
            assert 0 <= KEY.round - event.key.round <= max_staleness
            assert event.key.step == KEY.step
            assert new[0].factor == (1 + KEY.round - event.key.round) ** -0.5
            assert (event.sender, event.key) not in {*folded, ("b", behind(1))}
            folded.append((event.sender, event.key))
        if (isinstance(event, Invited) or (isinstance(event, Joined) and open_to_all)) and was_open:
            ever_in.add(event.node)
        assert not (max_staleness == 0 and any(isinstance(effect, Hold) for effect in effects))
        closes += sum(isinstance(effect, Close) for effect in effects)
        if before.state != "open":
            assert round_ == before
    fresh = {sender for sender, key in folded if key == KEY}
    assert fresh == round_.received.keys()
    assert fresh <= ever_in
    assert len(folded) == round_.updates
    assert not enough or round_.updates <= max(enough, round_.quorum)
    round_, effects = step(round_, Tick(), 200.0)
    closes += sum(isinstance(effect, Close) for effect in effects)
    assert closes == 1
    assert (round_.state == "closed") == (len(folded) >= round_.quorum)
