"""The journal of the open round: what it gives back, when it is empty again, and that it has a bound."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.cloud.history import History, journal, open_history
from headwater.node.journal import Entry, JournalFull
from headwater.schemas.messages import RoundKey
from support.histories import KEY, NOW, ROUND, entry, started
from support.pki import Pki


def test_what_was_kept_comes_back_in_order(history: History) -> None:
    started(history)
    history.journal.keep(KEY, [entry("gw2"), entry("gw1")])
    history.journal.keep(KEY, [entry("gw3")])
    assert history.journal.load(KEY) == (entry("gw2"), entry("gw1"), entry("gw3"))
    assert history.journal.load(KEY.model_copy(update={"attempt": 1})) == ()


def test_what_came_signed_is_kept_as_it_came(history: History) -> None:
    """With the signature: what was acknowledged can be shown to be its sender's."""
    started(history)
    plain = entry("gw1")
    signed = Entry("gw1", Pki().trust("gw1").sealed(KEY, plain.payload, "cloud"))
    history.journal.keep(KEY, [plain])
    history.journal.keep(KEY, [signed])
    assert history.journal.load(KEY) == (signed,)


def test_a_later_entry_of_the_same_delta_replaces_the_earlier_and_one_of_another_plan_stands_beside(
    history: History,
) -> None:
    started(history)
    stale = entry("gw1", answers=RoundKey(run="r1", round=0))
    history.journal.keep(KEY, [entry("gw1", 1.0), stale])
    history.journal.keep(KEY, [entry("gw1", 2.0)])
    assert history.journal.load(KEY) == (stale, entry("gw1", 2.0))


def test_the_senders_of_the_open_round_are_known_until_it_ends(history: History) -> None:
    started(history)
    assert history.senders("r1") == frozenset()
    history.journal.keep(KEY, [entry("gw2"), entry("gw1"), entry("gw1", answers=RoundKey(run="r1", round=0))])
    assert history.senders("r1") == {"gw1", "gw2"}
    history.record_round(ROUND, NOW)
    assert history.senders("r1") == frozenset()


def test_a_round_that_is_recorded_leaves_no_journal_neither_of_it_nor_of_an_attempt_before(history: History) -> None:
    started(history)
    history.journal.keep(KEY, [entry("gw1")])
    history.journal.keep(KEY.model_copy(update={"attempt": 1}), [entry("gw1")])
    history.record_round(ROUND, NOW)
    assert history.journal.load(KEY) == history.journal.load(KEY.model_copy(update={"attempt": 1})) == ()


def test_beyond_its_bound_nothing_of_a_batch_is_kept(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    started(history)
    history.journal.keep(KEY, [entry("gw1")])
    size = len(entry("gw1").payload)
    monkeypatch.setattr(journal, "MAX_PENDING_SIZE_BYTES", 2 * size)
    with pytest.raises(JournalFull, match=f"at most {2 * size}"):
        history.journal.keep(KEY, [entry("gw2"), entry("gw3")])
    assert history.journal.load(KEY) == (entry("gw1"),)
    history.journal.keep(KEY, [entry("gw2")])


def test_a_full_disk_is_a_full_journal(tmp_path: object) -> None:
    history = open_history(f"sqlite:///{tmp_path}/history.db")
    started(history)
    with history._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        # The pool hands the same connection out again, with its limit.
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(JournalFull, match="full"):
        history.journal.keep(KEY, [entry("gw1"), entry("gw2", size=1_000_000)])
    assert history.journal.load(KEY) == ()
    with history._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    history.journal.keep(KEY, [entry("gw1")])
    assert history.journal.load(KEY) == (entry("gw1"),)
    history.close()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(1, 9)), max_size=12))
def test_the_journal_is_a_table_of_the_latest(kept: list[tuple[str, int, int]]) -> None:
    history = open_history("sqlite://")
    started(history)
    latest: dict[tuple[str, int], Entry] = {}
    for node, round_, value in kept:
        one = entry(node, float(value), answers=RoundKey(run="r1", round=round_))
        history.journal.keep(KEY, [one])
        latest.pop((node, round_), None)
        latest[node, round_] = one
    assert history.journal.load(KEY) == tuple(latest.values())
    history.close()
