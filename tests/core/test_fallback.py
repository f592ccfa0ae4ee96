"""Which of two parents is followed: stories, and a property test against the law read off the whole history."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.fallback import Event, Following, Heard, Place, Tick, Unusable, begin, step
from headwater.core.members import SILENCES
from headwater.schemas.settings import FallbackSettings

RULE = FallbackSettings(parent="gw2", after_s=100.0, return_after_s=60.0)
ALIVE = Heard(every_s=10.0)
FAR = Heard(every_s=90.0)

Timed = tuple[Event, float]


def play(*events: Timed, start: Following | None = None) -> Following:
    following = start or begin(0.0)
    for event, now in events:
        following = step(following, event, RULE, now)
    return following


def away(at: float = 100.0) -> Following:
    return play((Tick(), at))


def alive(*times: float, every_s: float = 10.0) -> list[Timed]:
    return [(Heard(every_s), now) for now in times]


STORIES: dict[str, tuple[Sequence[Timed], Place]] = {
    "it was never heard, for not quite long enough": ([(Tick(), 99.9)], "first"),
    "it was never heard": ([(Tick(), 100.0)], "second"),
    "it fell silent a moment ago": ([(Heard(), 50.0), (Tick(), 149.9)], "first"),
    "it fell silent": ([(Heard(), 50.0), (Tick(), 150.0)], "second"),
    "it speaks more seldom than it may be silent": ([(FAR, 5.0), (Tick(), 274.9)], "first"),
    "it spoke seldom, and fell silent": ([(FAR, 5.0), (Tick(), 275.0)], "second"),
    "its broker cannot be used": ([(Unusable(), 30.0)], "second"),
    "nor can the other's": ([(Unusable(), 30.0), (Unusable(), 65.0)], "first"),
}


@pytest.mark.parametrize(("events", "place"), STORIES.values(), ids=STORIES.keys())
def test_a_node_leaves_its_first_parent_when(events: Sequence[Timed], place: Place) -> None:
    assert play(*events).place == place


RETURNS: dict[str, tuple[Sequence[Timed], Place]] = {
    "not at its first word": (alive(500), "second"),
    "not before it was heard for long enough": (alive(*range(500, 560, 10)), "second"),
    "once it was": (alive(*range(500, 570, 10)), "first"),
    "with two signs of life lost in a row": (alive(500, 510, 540, 550, 560), "first"),
    "not across a gap": (alive(500, 510, 541, 550, 560), "second"),
    "but after it, for as long again": (alive(500, 510, 541, 570, 590, 601), "first"),
    "not for what was heard and then no more": ([*alive(500, 510), (Tick(), 999)], "second"),
    "by two words that are far apart, if it said so": (alive(500, 590, every_s=90.0), "first"),
}


@pytest.mark.parametrize(("events", "place"), RETURNS.values(), ids=RETURNS.keys())
def test_a_node_goes_back(events: Sequence[Timed], place: Place) -> None:
    assert play(*events, start=away()).place == place


def test_whoever_is_back_gives_the_first_parent_its_full_time_again() -> None:
    back = play(*alive(500, 530, 560), start=away())
    assert back == Following("first", 560.0, every_s=10.0)
    assert back.silent_at(RULE) == 660.0
    assert play((Tick(), 659.0), start=back).place == "first"
    assert play((Tick(), 660.0), start=back).place == "second"


def test_what_the_first_parent_said_of_its_pace_while_away_is_remembered() -> None:
    """Else one that speaks seldom would be left and taken up again and again."""
    back = play(*alive(500, 590, every_s=90.0), start=away())
    assert back.silent_at(RULE) == 590.0 + SILENCES * 90.0


# ── any history ─────────────────────────────────────────────────────────────────────────────────────────────────

EVENTS = st.sampled_from([ALIVE, ALIVE, FAR, Tick(), Tick(), Unusable()])
HISTORIES = st.lists(st.tuples(EVENTS, st.floats(0.5, 120.0)), max_size=60)


def timed(history: Sequence[tuple[Event, float]]) -> list[Timed]:
    now, events = 0.0, []
    for event, passed_s in history:
        now += passed_s
        events.append((event, now))
    return events


def heard_over_s(words: Sequence[tuple[float, float]]) -> float:
    """How long it was heard without a gap, told backwards from the last word. Each word has its time and its pace."""
    begun_at = words[-1][0]
    for (at, _), (next_at, pace_s) in reversed(list(pairwise(words))):
        if next_at - at > SILENCES * pace_s:
            break
        begun_at = at
    return words[-1][0] - begun_at


@given(HISTORIES)
def test_every_change_has_its_reason_in_what_was_heard(history: Sequence[tuple[Event, float]]) -> None:
    following = begin(0.0)
    words: list[tuple[float, float]] = []
    for event, now in timed(history):
        before, following = following, step(following, event, RULE, now)
        if isinstance(event, Heard):
            words.append((now, event.every_s or 0.0))
        changes = isinstance(event, Unusable)
        if before.place == "first" and isinstance(event, Tick):
            last = max([before.since, *(at for at, _ in words)])
            pace_s = words[-1][1] if words else 0.0
            changes = now - last >= max(RULE.after_s, SILENCES * pace_s)
        elif before.place == "second" and isinstance(event, Heard):
            changes = heard_over_s([word for word in words if word[0] > before.since]) >= RULE.return_after_s
        assert (following.place != before.place) == changes
        assert following.since == (now if changes else before.since)


@given(HISTORIES)
def test_a_parent_that_can_be_heard_is_followed_in_the_end(history: Sequence[tuple[Event, float]]) -> None:
    events = timed(history)
    last = events[-1][1] if events else 0.0
    steady = alive(*(last + 10.0 * i for i in range(1, 9)))
    following = play(*events, *steady)
    assert following.place == "first"
    assert play((Tick(), last + 81.0), start=following).place == "first"


@given(HISTORIES)
def test_one_that_cannot_be_heard_is_left_in_the_end(history: Sequence[tuple[Event, float]]) -> None:
    following = play(*timed(history))
    assert play((Tick(), following.silent_at(RULE)), start=following).place == "second"


@given(st.lists(st.tuples(st.sampled_from([ALIVE, Tick()]), st.floats(0.5, 300.0)), max_size=60))
def test_a_parent_that_comes_and_goes_is_not_followed_to_and_fro(history: Sequence[tuple[Event, float]]) -> None:
    following = begin(0.0)
    left: list[float] = []
    for event, now in timed(history):
        before, following = following, step(following, event, RULE, now)
        if (before.place, following.place) == ("first", "second"):
            left.append(now)
    assert all(b - a >= RULE.after_s + RULE.return_after_s for a, b in pairwise(left))
