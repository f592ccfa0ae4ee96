"""What goes up outlives a reboot, and belongs to one parent: told in stories, and for any history of two parents."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.node.journal import JournalFull
from headwater.node.outbox import Outbox
from headwater.node.store import MAX_GIVEN, MAX_OUTGOING, NodeStore
from headwater.schemas.messages import RoundKey

ONE, TWO = "gw1", "gw2"


def key(round_: int, step: int = 0, attempt: int = 0) -> RoundKey:
    return RoundKey(run="r", round=round_, step=step, attempt=attempt)


async def opened(folder: Path, *, has_two_parents: bool = True) -> Outbox:
    """As a process that begins."""
    outbox = Outbox(NodeStore(folder / "node.db", 10**6), has_two_parents=has_two_parents)
    await outbox.restore()
    return outbox


async def finished(outbox: Outbox, of: RoundKey, *given_to: str) -> None:
    outbox.put(of, f"delta of {of}".encode())
    for parent in given_to:
        entry = outbox.next_for(parent)
        assert entry is not None
        await outbox.give(entry, parent)


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_delta_that_waits_is_taken_up_by_the_next_process_and_then_forgotten(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    await finished(outbox, key(1))
    await outbox.save_all()
    again = await opened(tmp_path)
    entry = again.next_for(ONE)
    assert entry is not None
    assert (entry.key, entry.payload, entry.saved) == (key(1), f"delta of {key(1)}".encode(), True)
    assert again.settle(key(1)) is entry
    await again.forget(entry)
    last = await opened(tmp_path)
    assert last.next_for(ONE) is None
    assert not last.needs_work(key(1), ONE)


async def test_a_quick_round_below_an_only_parent_writes_nothing(tmp_path: Path) -> None:
    outbox = await opened(tmp_path, has_two_parents=False)
    await finished(outbox, key(1), ONE)
    outbox.settle(key(1))
    await outbox.save_all()
    assert files(tmp_path) == []


async def test_only_so_many_wait_and_the_oldest_makes_room(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    for round_ in range(MAX_OUTGOING + 2):
        await finished(outbox, key(round_))
    entry = outbox.next_for(ONE)
    assert entry is not None
    assert entry.key == key(2)


async def test_what_nobody_was_sent_goes_to_whichever_parent_is_followed(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    await finished(outbox, key(1))
    assert outbox.next_for(TWO) is outbox.next_for(ONE) is not None


async def test_what_one_parent_may_have_waits_for_it_and_keeps_nothing_from_the_other(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    await finished(outbox, key(1), ONE)
    assert outbox.next_for(TWO) is None
    assert not outbox.needs_work(key(1), TWO)
    assert outbox.needs_work(key(2), TWO)
    await finished(outbox, key(2), TWO)
    back = outbox.next_for(ONE)
    assert back is not None
    assert back.key == key(1)


async def test_a_parent_that_a_part_was_only_offered_to_is_not_given_what_the_other_has(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    await finished(outbox, key(1))
    offered = outbox.next_for(ONE)
    assert offered is not None
    assert await outbox.give(offered, TWO)
    assert not await outbox.give(offered, ONE)
    assert await outbox.give(offered, TWO)


async def test_a_disk_that_fills_up_while_a_delta_is_answered_ends_no_node(tmp_path: Path) -> None:
    class Full(NodeStore):
        def settle(self, key: RoundKey) -> None:
            raise JournalFull("no space left on device")

        def keep_outgoing(self, key: RoundKey, payload: bytes) -> None:
            super().keep_outgoing(key, payload)
            outbox.settle(key)

    outbox = Outbox(Full(tmp_path / "node.db", 10**6))
    await finished(outbox, key(1))
    await outbox.save_all()
    assert outbox.has_answered(key(1))


async def test_an_answered_part_keeps_the_other_parent_from_any_edge_round_of_that_round(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    await finished(outbox, key(1, step=0), ONE)
    outbox.settle(key(1, step=0))
    assert outbox.needs_work(key(1, step=1), ONE)
    assert not outbox.needs_work(key(1, step=1), TWO)
    # A round that is tried again has forgotten what it had.
    assert outbox.needs_work(key(1, attempt=1), TWO)


async def test_a_process_that_is_killed_after_it_gave_still_knows_to_whom(tmp_path: Path) -> None:
    outbox = await opened(tmp_path)
    await finished(outbox, key(1), TWO)
    outbox.settle(key(1))
    again = await opened(tmp_path)
    assert not again.needs_work(key(1, step=1), ONE)
    assert again.needs_work(key(1), TWO)


async def test_whom_the_last_rounds_went_to_is_kept_for_a_bounded_number(tmp_path: Path) -> None:
    store = NodeStore(tmp_path / "node.db", 10**6)
    for round_ in range(MAX_GIVEN + 3):
        store.keep_given(key(round_), ONE)
    assert [kept.round for kept, _ in store.given()] == list(range(3, MAX_GIVEN + 3))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("work"), st.sampled_from([ONE, TWO]), st.integers(1, 3), st.integers(0, 2)),
        st.tuples(st.sampled_from(["send", "answer"]), st.sampled_from([ONE, TWO]), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["kill", "stop"]), st.just(ONE), st.just(0), st.just(0)),
    ),
    max_size=14,
)


@settings(max_examples=80)
@given(STEPS)
def test_no_two_parents_are_ever_sent_a_part_of_the_same_round(steps: list[tuple[str, str, int, int]]) -> None:
    async def play(folder: Path) -> None:
        outbox = await opened(folder)
        sent: dict[int, set[str]] = {}
        for what, parent, round_, step in steps:
            entry = outbox.next_for(parent)
            match what:
                case "work" if outbox.needs_work(key(round_, step), parent):
                    outbox.put(key(round_, step), b"delta")
                case "send" if entry is not None:
                    await outbox.give(entry, parent)
                    sent.setdefault(entry.key.round, set()).add(parent)
                case "answer" if entry is not None and outbox.settle(entry.key) is entry and entry.saved:
                    await outbox.forget(entry)
                case "stop" | "kill":
                    if what == "stop":
                        await outbox.save_all()
                    outbox = await opened(folder)
        assert all(len(parents) == 1 for parents in sent.values())

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))
