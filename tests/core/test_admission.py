"""Who may send now: its table of cases, and a property test that holds every history to the budget and the order."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core import admission
from headwater.core.admission import Event, Finished, Grant, Offered, Progressed, Queue, Tick, open_queue, step
from headwater.schemas.messages import ObjectRef

BUDGET_BYTES = 100
TIMEOUT_S = 10.0


def an_object(size_bytes: int, content: int = 0) -> ObjectRef:
    return ObjectRef(sha256=bytes([content] * 32), size_bytes=size_bytes)


def offered(sender: str, size_bytes: int = 40, content: int = 0) -> Offered:
    return Offered(sender, an_object(size_bytes, content))


def play(*events: tuple[Event, float], queue: Queue | None = None) -> tuple[Queue, list[str]]:
    """The queue after these, and who was granted, in order."""
    queue, told = queue or open_queue(BUDGET_BYTES, TIMEOUT_S), list[str]()
    for event, now in events:
        queue, grants = step(queue, event, now)
        told += [grant.sender for grant in grants]
    return queue, told


def test_what_fits_is_granted_at_once_and_the_rest_waits_its_turn() -> None:
    queue, told = play((offered("a"), 0), (offered("b"), 0), (offered("c"), 0), (offered("d"), 0))
    assert told == ["a", "b"]
    assert list(queue.waiting) == ["c", "d"]
    assert queue.in_flight_bytes == 80
    queue, told = play((Finished("b"), 1), (Finished("a"), 2), queue=queue)
    assert told == ["c", "d"]
    assert not queue.waiting


def test_a_grant_is_for_what_was_offered() -> None:
    _, grants = step(open_queue(BUDGET_BYTES, TIMEOUT_S), offered("a", 40, content=7), 0)
    assert grants == (Grant("a", an_object(40, 7)),)


def test_one_that_is_larger_than_the_budget_travels_alone() -> None:
    queue, told = play((offered("huge", 1000), 0), (offered("small", 1), 0))
    assert told == ["huge"]
    _, told = play((Finished("huge"), 1), queue=queue)
    assert told == ["small"]


def test_a_large_one_at_the_front_is_not_passed_by_small_ones() -> None:
    queue, told = play((offered("a", 60), 0), (offered("large", 90), 0), (offered("small", 10), 0))
    assert told == ["a"]
    _, told = play((Finished("a"), 1), queue=queue)
    assert told == ["large", "small"]


def test_a_repeated_offer_changes_nothing_and_is_granted_again_where_it_was() -> None:
    once, _ = play((offered("a", 60), 0), (offered("b", 60), 0))
    twice, told = play((offered("b", 60), 1), (offered("a", 60), 4.9), queue=once)
    assert (twice, told) == (once, [])
    twice, told = play((offered("b", 60), 5), (offered("a", 60), 5), queue=once)
    assert (twice, told) == (once, ["a"])


def test_holding_a_grant_takes_chunks_not_offers() -> None:
    start, _ = play((offered("a", 60), 0), (offered("b", 60), 0))
    queue, told = play((offered("a", 60), 9), (Tick(), 10), queue=start)
    assert told == ["a", "b"]
    assert list(queue.waiting) == ["a"]
    queue, told = play((Progressed("a"), 9), (Tick(), 10), queue=start)
    assert not told
    assert queue.granted["a"].since == 9


def test_a_chunk_that_came_before_anyone_looked_at_the_clock_still_counts() -> None:
    queue, told = play((offered("a", 60), 0), (offered("b", 60), 0), (Progressed("a"), 10.5))
    assert told == ["a"]
    assert list(queue.granted) == ["a"]


def test_a_grant_that_times_out_goes_to_the_next_and_its_sender_to_the_end() -> None:
    queue, told = play((offered("a", 60), 0), (offered("b", 60), 1), (offered("c", 60), 2), (Tick(), 9.9))
    assert told == ["a"]
    queue, told = play((Tick(), 10), queue=queue)
    assert told == ["b"]
    assert list(queue.waiting) == ["c", "a"]
    # It was only slow: what it sent is in, and it is expected no longer.
    queue, told = play((Finished("a"), 11), (Finished("b"), 12), (Finished("c"), 13), queue=queue)
    assert told == ["c"]
    assert queue == open_queue(BUDGET_BYTES, TIMEOUT_S)


def test_one_that_times_out_alone_is_asked_again_once() -> None:
    _, told = play((offered("a"), 0), (offered("a"), 10))
    assert told == ["a", "a"]


def test_another_object_takes_the_place_of_the_senders_old_one() -> None:
    start, _ = play((offered("a", 60), 0), (offered("b", 60), 0), (offered("c", 60), 0))
    waiting, told = play((offered("b", 30), 1), queue=start)
    assert told == ["b"]
    assert waiting.granted["b"].object == an_object(30)
    granted, told = play((offered("a", 61), 1), queue=start)
    assert told == ["b"]
    assert list(granted.waiting) == ["c", "a"]
    assert granted.waiting["a"] == an_object(61)


def test_of_more_senders_than_children_the_last_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_CHILDREN", 2)
    full, _ = play((offered("a", 60), 0), (offered("b", 60), 0))
    after, told = play((offered("c", 1), 0), queue=full)
    assert after == full
    assert not told
    _, told = play((Finished("a"), 1), (offered("c", 1), 2), queue=full)
    assert told == ["b", "c"]


@pytest.mark.parametrize("event", [Finished("z"), Progressed("z"), Tick()])
def test_a_word_about_a_stranger_changes_nothing(event: Event) -> None:
    queue, _ = play((offered("a", 60), 0), (offered("b", 60), 0))
    assert step(queue, event, 1.0) == (queue, ())


@pytest.mark.parametrize(
    ("budget_bytes", "timeout_s", "field"), [(0, 1.0, "budget_bytes"), (1, 0.0, "grant_timeout_s")]
)
def test_a_queue_that_could_not_move_is_not_opened(budget_bytes: int, timeout_s: float, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        open_queue(budget_bytes, timeout_s)


# ── property ────────────────────────────────────────────────────────────────────────────────────────────────────

SENDERS = "abcde"
events = st.one_of(
    st.builds(offered, st.sampled_from(SENDERS), st.sampled_from([1, 40, 60, 150]), st.integers(0, 1)),
    st.builds(Progressed, st.sampled_from(SENDERS)),
    st.builds(Finished, st.sampled_from(SENDERS)),
    st.just(Tick()),
)
histories = st.lists(st.tuples(events, st.floats(0.0, 6.0)), max_size=40)


def holds(before: Queue, event: Event, after: Queue, grants: tuple[Grant, ...], now: float) -> None:
    """What must be so after any step."""
    assert not after.waiting.keys() & after.granted.keys()
    assert after.in_flight_bytes <= BUDGET_BYTES or len(after.granted) == 1
    assert all(now < grant.since + TIMEOUT_S for grant in after.granted.values())
    assert all(after.granted[grant.sender].object == grant.object for grant in grants)
    assert len({grant.sender for grant in grants}) == len(grants)
    assert bool(after.granted) or not after.waiting, "someone waits for nobody"
    if after.waiting and len(after.granted) > 0:
        first = next(iter(after.waiting.values()))
        assert after.in_flight_bytes + first.size_bytes > BUDGET_BYTES, "there was room for the first"
    stayed = [name for name in after.waiting if name in before.waiting]
    assert stayed == [name for name in before.waiting if name in after.waiting], "the order changed"
    assert list(after.waiting)[: len(stayed)] == stayed, "a newcomer came before one who waited"
    if not isinstance(event, Offered):
        new = {grant.sender for grant in grants}
        late = {name for name, grant in before.granted.items() if now >= grant.since + TIMEOUT_S}
        assert new <= before.waiting.keys() | late


@given(histories)
def test_whatever_happens_the_budget_and_the_order_hold_and_everyone_gets_a_turn(
    history: list[tuple[Event, float]],
) -> None:
    queue, now = open_queue(BUDGET_BYTES, TIMEOUT_S), 0.0
    for event, passed in history:
        now += passed
        before = queue
        queue, grants = step(queue, event, now)
        assert (queue, grants) == step(before, event, now)
        holds(before, event, queue, grants, now)
    expected, had_a_turn = {*queue.waiting, *queue.granted}, set[str]()
    for _ in range(len(expected)):
        # Nobody ever answers, so each grant times out; one turn a sender is enough for all.
        had_a_turn |= queue.granted.keys()
        now += TIMEOUT_S
        queue, _ = step(queue, Tick(), now)
    assert had_a_turn == expected
    for sender in sorted(expected):
        queue, _ = step(queue, Finished(sender), now)
    assert queue == replace(queue, waiting={}, granted={})
