"""Law: a receipt follows its delta's entry in the journal; a round that closes at once writes none, and needs none.

Who heard of the next round, or of none, knows that the last is over. Only where late updates are taken does a sender
need to be told all the same, and it is told behind the round's result, which is durable then.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from headwater.core.round import Contributor
from headwater.node.journal import Entry, Journal, JournalFull
from headwater.node.sending import in_windows
from headwater.schemas.messages import RoundKey

log = logging.getLogger("headwater.node")

RECEIPT_DELAY_S: Final = 0.1
"""A round that closes sooner tells everyone at once, and needs no receipts. Also how much is written together."""

SENT_AT_ONCE: Final = 32

MAX_OWED_BYTES: Final = 256 * 1024 * 1024
"""Deltas waiting to be written; further ones are not acknowledged, and come again."""


class Receipts:
    """What one parent owes to its children for the round that it hosts.

    Args:
        send: tells a child that this delta of its is in.
    """

    def __init__(self, journal: Journal, send: Callable[[str, RoundKey], Coroutine[Any, Any, None]]) -> None:
        self._journal = journal
        self._send = send
        self._round: RoundKey | None = None
        self._owed: dict[Contributor, bytes | None] = {}
        self._in_hand: dict[Contributor, bytes | None] = {}
        self._kept: set[Contributor] = set()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def owed_bytes(self) -> int:
        """Of what waits to be written, or is being written."""
        return sum(len(payload) for owed in (self._owed, self._in_hand) for payload in owed.values() if payload)

    async def open(self, key: RoundKey) -> tuple[Entry, ...]:
        """Begin with a round: what the journal has of it. What was owed for the last one is not owed any more."""
        await self.end()
        entries = await asyncio.to_thread(self._journal.load, key)
        # Who was reminded of the last round meanwhile is not written down for this one.
        self._owed.clear()
        self._kept.clear()
        self._round = key
        return entries

    def is_owed(self, sender: str, key: RoundKey) -> bool:
        """Whether a receipt is on its way, or will be."""
        return (sender, key) in self._owed or (sender, key) in self._in_hand

    def is_kept(self, sender: str, key: RoundKey) -> bool:
        return (sender, key) in self._kept

    def has_kept(self, sender: str, key: RoundKey) -> None:
        """The journal has this one."""
        self._kept.add((sender, key))

    def owe(self, sender: str, key: RoundKey, payload: bytes) -> None:
        """This delta is in; its sender hears of it once it is durable."""
        self._owe(sender, key, None if self.is_kept(sender, key) else payload)

    def owe_kept(self, sender: str, key: RoundKey) -> None:
        """As `owe`, of a delta that is durable."""
        self._owe(sender, key, None)

    def _owe(self, sender: str, key: RoundKey, payload: bytes | None) -> None:
        if payload is not None and self.owed_bytes + len(payload) > MAX_OWED_BYTES:
            return
        self._owed[sender, key] = payload
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._settle_up())

    async def end(self) -> None:
        """The round is over. Returns when nothing is being written for it any more."""
        self._round = None
        async with self._writing:
            pass

    async def send_all(self) -> None:
        """The round's result is durable, and with it everything that is owed."""
        owed, self._owed = self._owed, {}
        await self._send_to(owed)

    async def keep_all(self) -> None:
        """Write what is owed, before this node ends: it is there when the round goes on."""
        async with self._writing:
            if self._round is not None:
                await self._keep(self._round, self._owed)

    async def _settle_up(self) -> None:
        await asyncio.sleep(RECEIPT_DELAY_S)
        while self._owed and self._round is not None:
            async with self._writing:
                if self._round is None:
                    return
                self._in_hand, self._owed = self._owed, {}
                try:
                    kept = await self._keep(self._round, self._in_hand)
                finally:
                    self._in_hand = {}
            await self._send_to(kept)
            if self._owed:
                await asyncio.sleep(RECEIPT_DELAY_S)

    async def _send_to(self, contributors: Iterable[Contributor]) -> None:
        """Several at once: behind deltas that come in, each takes its time."""
        await in_windows((self._send(sender, key) for sender, key in contributors), SENT_AT_ONCE)

    async def _keep(self, round_: RoundKey, owed: dict[Contributor, bytes | None]) -> tuple[Contributor, ...]:
        """Those of them that are durable then."""
        entries = [Entry(sender, payload) for (sender, _), payload in owed.items() if payload is not None]
        if entries:
            try:
                await asyncio.to_thread(self._journal.keep, round_, entries)
            except JournalFull as error:
                log.warning("%d updates are not acknowledged, and will come again: %s", len(entries), error)
                return tuple(contributor for contributor, payload in owed.items() if payload is None)
        self._kept.update(owed)
        return tuple(owed)
