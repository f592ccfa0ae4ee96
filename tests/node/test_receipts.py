"""What stands in a round's journal is that round's alone, however the awaits of two rounds lie to each other."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from headwater.node import receipts as receipts_module
from headwater.node.journal import Entry
from headwater.node.receipts import Receipts
from headwater.schemas.messages import RoundKey
from support.fleets import until

LAST, NEXT = RoundKey(run="r", round=1), RoundKey(run="r", round=2)


class SlowJournal:
    """Loads a round, and writes, when it is told to."""

    def __init__(self) -> None:
        self.may_load, self.may_write = threading.Event(), threading.Event()
        self.kept: list[tuple[RoundKey, str]] = []

    def load(self, key: RoundKey) -> tuple[Entry, ...]:
        assert self.may_load.wait(10)
        return ()

    def keep(self, key: RoundKey, entries: Sequence[Entry]) -> None:
        assert self.may_write.wait(10)
        self.kept += [(key, entry.sender) for entry in entries]


async def test_who_reminds_of_the_last_round_while_the_next_opens_is_not_written_down_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receipts_module, "RECEIPT_DELAY_S", 0.0)
    journal, sent = SlowJournal(), list[tuple[str, RoundKey]]()

    async def send(node: str, key: RoundKey) -> None:
        sent.append((node, key))

    receipts = Receipts(journal, send)
    journal.may_write.set()
    opening = asyncio.create_task(receipts.open(NEXT))
    await asyncio.sleep(0)
    receipts.owe("d1", LAST, b"of the last round")
    await asyncio.sleep(0.1)
    journal.may_load.set()
    await opening
    receipts.owe("d2", NEXT, b"of the next")
    await until(lambda: bool(sent))
    assert (journal.kept, sent) == ([(NEXT, "d2")], [("d2", NEXT)])


async def test_what_is_being_written_is_owed_and_counts_against_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that reminds of it meanwhile is not asked for all of it again."""
    monkeypatch.setattr(receipts_module, "RECEIPT_DELAY_S", 0.0)
    journal, sent = SlowJournal(), list[str]()

    async def send(node: str, key: RoundKey) -> None:
        sent.append(node)

    journal.may_load.set()
    receipts = Receipts(journal, send)
    await receipts.open(NEXT)
    receipts.owe("d1", NEXT, b"delta")
    await until(lambda: not receipts._owed)
    assert receipts.is_owed("d1", NEXT)
    assert receipts.owed_bytes == len(b"delta")
    journal.may_write.set()
    await until(lambda: sent == ["d1"])
    assert (receipts.is_owed("d1", NEXT), receipts.is_kept("d1", NEXT), receipts.owed_bytes) == (False, True, 0)
