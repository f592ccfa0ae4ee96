"""The one file of a node: what was promised is there after a kill, and what does not fit is not promised."""

import multiprocessing
import os
from pathlib import Path

import pytest

from headwater.node.journal import Entry, JournalFull
from headwater.node.store import MAX_OUTGOING, NodeStore
from headwater.schemas.messages import RoundKey


def key(round_: int, step: int = 0, run: str = "r", attempt: int = 0) -> RoundKey:
    return RoundKey(run=run, round=round_, step=step, attempt=attempt)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "gw1.db"


def reopened(file: Path, size_bytes: int = 10_000) -> NodeStore:
    return NodeStore(file, size_bytes)


def test_a_node_that_kept_nothing_has_no_file(file: Path) -> None:
    store = reopened(file)
    assert store.outgoing() == ()
    assert store.load(key(1)) == ()
    assert store.course(key(1)) is None
    assert store.settled() is None
    store.settle(key(1))
    assert not file.parent.exists()


def test_what_was_kept_is_there_again(file: Path) -> None:
    store = reopened(file)
    store.keep_outgoing(key(1), b"delta")
    store.keep(key(2, 1), [Entry("d1", b"one"), Entry("d2", b"two")])
    store.keep(key(2, 1), [Entry("d3", b"three"), Entry("d1", b"one again")])
    store.keep_course(key(2), b"course")
    # Not closed: a kill closes nothing.
    again = reopened(file)
    assert again.outgoing() == ((key(1), b"delta"),)
    assert sorted((e.sender, e.payload) for e in again.load(key(2, 1))) == [
        ("d1", b"one again"),
        ("d2", b"two"),
        ("d3", b"three"),
    ]
    assert again.load(key(2)) == ()
    assert again.course(key(2)) == b"course"
    assert again.course(key(3)) is None


def test_what_is_settled_is_forgotten_with_everything_that_led_to_it(file: Path) -> None:
    store = reopened(file)
    store.keep(key(1, 0), [Entry("d1", b"x")])
    store.keep(key(2, 0), [Entry("d1", b"next")])
    store.keep_outgoing(key(1), b"delta")
    store.keep_course(key(2), b"under way")
    store.settle(key(1))
    again = reopened(file)
    assert again.course(key(2)) == b"under way"
    assert again.outgoing() == ()
    assert again.settled() == key(1)
    assert again.load(key(1, 0)) == ()
    assert again.load(key(2, 0)) == (Entry("d1", b"next"),)


@pytest.mark.parametrize(
    ("settled", "kept"),
    [
        pytest.param(key(2), key(2, attempt=1), id="a later attempt"),
        pytest.param(key(2, 3), key(2, attempt=1), id="a later attempt that begins with the first step"),
        pytest.param(key(2), key(2, 1), id="a later step"),
        pytest.param(key(2), key(1, run="s"), id="another run"),
    ],
)
def test_what_is_under_way_keeps_its_journal_when_the_plan_before_it_is_settled(
    file: Path, settled: RoundKey, kept: RoundKey
) -> None:
    """A parent announces the next before the last is crossed off here."""
    store = reopened(file)
    store.keep(kept, [Entry("d1", b"acknowledged")])
    store.keep_course(kept, b"under way")
    for old in (key(1), key(1, 2, attempt=1), settled):
        store.keep(old, [Entry("d1", b"over")])
    store.settle(settled)
    again = reopened(file)
    assert (again.load(kept), again.course(kept)) == ((Entry("d1", b"acknowledged"),), b"under way")
    assert again.load(key(1)) == again.load(key(1, 2, attempt=1)) == again.load(settled) == ()


def test_finished_deltas_come_back_in_order_and_the_oldest_makes_room(file: Path) -> None:
    store = reopened(file)
    for round_ in range(1, MAX_OUTGOING + 3):
        store.keep_outgoing(key(round_), bytes([round_]))
    assert [found.round for found, _ in reopened(file).outgoing()] == list(range(3, MAX_OUTGOING + 3))


def test_superseded_rounds_make_room_the_oldest_first_and_the_bound_holds(file: Path) -> None:
    store = reopened(file, size_bytes=100)
    store.keep(key(1), [Entry("d1", b"x" * 40)])
    store.keep_outgoing(key(1), b"y" * 40)
    store.keep(key(2), [Entry("d1", b"x" * 50)])
    assert store.load(key(1)) == ()
    assert store.outgoing() == ((key(1), b"y" * 40),)
    store.keep(key(2), [Entry("d2", b"x" * 50)])
    assert store.outgoing() == ()
    with pytest.raises(JournalFull, match="100 allowed"):
        store.keep(key(2), [Entry("d3", b"x")])
    assert [entry.sender for entry in reopened(file).load(key(2))] == ["d1", "d2"]


def test_of_a_batch_that_does_not_fit_nothing_is_kept(file: Path) -> None:
    store = reopened(file, size_bytes=100)
    with pytest.raises(JournalFull):
        store.keep(key(1), [Entry("d1", b"x" * 60), Entry("d2", b"x" * 60)])
    assert store.load(key(1)) == ()
    store.keep(key(1), [Entry("d1", b"x" * 60)])
    assert [entry.sender for entry in store.load(key(1))] == ["d1"]


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_file_is_set_aside_and_the_node_goes_on(file: Path, damage: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(damage)
    store = reopened(file)
    assert store.outgoing() == ()
    store.keep_outgoing(key(1), b"delta")
    assert reopened(file).outgoing() == ((key(1), b"delta"),)
    assert file.with_suffix(".damaged").read_bytes() == damage


def test_a_file_that_cannot_be_set_aside_ends_no_node(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.mkdir()
    file.write_bytes(b"no database at all" * 100)

    def refuse(*_: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    assert reopened(file).outgoing() == ()


def test_a_folder_that_cannot_be_written_promises_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    store = NodeStore(tmp_path / "state" / "gw1.db", 1000)
    with pytest.raises(JournalFull):
        store.keep(key(1), [Entry("d1", b"x")])
    assert store.load(key(1)) == ()


def keeps_and_dies(file: Path) -> None:
    store = NodeStore(file, 10_000)
    store.keep(key(1), [Entry("d1", b"promised")])
    with store._write() as connection:
        connection.execute("DELETE FROM journal")
        os._exit(9)


def test_a_process_killed_in_a_transaction_leaves_what_was_before_it(file: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=keeps_and_dies, args=(file,))
    process.start()
    process.join(30)
    assert process.exitcode == 9
    assert reopened(file).load(key(1)) == (Entry("d1", b"promised"),)
