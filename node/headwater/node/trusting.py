"""Law: a node with trust settings takes no plan and no delta but from who signed it, for it, and no old word again.

What is taken is decided by values: the signed message, who should have said it, the newest word so far, the time. The
shell around holds what a node signs with, whom it has checked already, and how new each parent's last word was.

Only a node with trust settings loads this module, and cryptography with it.
"""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn, Protocol

from headwater.node.envelope import Unproven, now_utc
from headwater.node.journal import JournalFull
from headwater.schemas.errors import ConfigError
from headwater.schemas.limits import MAX_CHILDREN
from headwater.schemas.messages import Announcement, RoundKey, Signed
from headwater.schemas.settings import TrustSettings
from headwater.schemas.wire import WireError, decode, encode, is_signed
from headwater.trust.certificates import Holder
from headwater.trust.guard import Guard, open_guard
from headwater.trust.problems import Untrusted

log = logging.getLogger("headwater.node")

LOOK_EVERY_S: Final = 60.0
"""Between two looks at the files: so long may a certificate still be taken once its revocation was put here."""

WARN_EVERY_S: Final = 24 * 3600.0
KEEP_EVERY_S: Final = 10.0
"""How new a parent's last word was goes to disk that often at most; a word as old as that may be taken twice by a node
that was cut off in between."""


@dataclass(frozen=True, slots=True, order=True)
class Word:
    """How new a parent's word is: of two the later is the larger."""

    epoch: int
    number: int


class Words(Protocol):
    """What outlives a reboot. Methods block."""

    def heard(self) -> dict[str, tuple[int, int]]:
        """The epoch and number of the newest word of each parent."""
        ...

    def keep_heard(self, parent: str, epoch: int, number: int) -> None:
        """Raises JournalFull."""
        ...


# ── what is taken ───────────────────────────────────────────────────────────────────────────────────────────────


def signed_by(payload: bytes, what: str) -> Signed:
    """Raises WireError for what nobody signed: the sentence is for whoever sent it."""
    if not is_signed(payload):
        raise WireError(
            "unauthorised", f"{what}: is not signed, and its receiver takes none such; give the sender trust settings"
        )
    return decode(payload, Signed, max_size_bytes=len(payload))


def judge_announcement(signed: Signed, parent: str, newest: Word | None) -> Word:
    """How new a parent's word is, where it claims to be that, and none before the newest. The same one may come again.

    Raises:
        WireError: unauthorised, or stale.
    """
    if signed.domain != "announcement" or signed.sender != parent:
        raise WireError(
            "unauthorised", f"announcement: signed as the {signed.domain} of {signed.sender}, not {parent}'s"
        )
    word = Word(signed.epoch, signed.number)
    if newest is not None and word < newest:
        raise WireError(
            "stale",
            f"announcement: {parent} said this as {word.epoch}.{word.number}, before {newest.epoch}.{newest.number}; "
            "if it lost its state, set its clock",
        )
    return word


def judge_delta(signed: Signed, node: str, parent: str) -> None:
    """Raises Unproven unless it claims to be this node's delta for this parent."""
    if signed.domain != "delta" or signed.sender != node:
        raise Unproven(f"delta: signed as the {signed.domain} of {signed.sender}, on {node}'s topic")
    if signed.receiver != parent:
        raise Unproven(f"delta: signed for {signed.receiver or 'nobody'}, not for {parent}")
    if signed.key is None:
        raise Unproven("delta: signed for no round")


@dataclass(frozen=True, slots=True)
class Proof:
    """What a parent checks one child's deltas by: the holder of its certificate, or why it has none that counts."""

    guard: Guard
    node: str
    holder: Holder | Untrusted

    def opened(self, payload: bytes) -> bytes:
        """The delta in a signed message. May run in a thread.

        Raises:
            Unproven: it is not this child's, or for another.
            WireError: it is not signed, or the child's certificate does not count.
        """
        signed = signed_by(payload, f"delta of {self.node}")
        judge_delta(signed, self.node, self.guard.node)
        if isinstance(self.holder, Untrusted):
            raise WireError("unauthorised", str(self.holder))
        try:
            self.guard.check_signature(signed, self.holder)
        except Untrusted as error:
            raise Unproven(str(error)) from None
        return signed.payload


# ── the shell ───────────────────────────────────────────────────────────────────────────────────────────────────


class Trust:
    """What a node signs with, and whom it has checked.

    Args:
        open_: reads what it was given; again when `stamp` changes.
        stamp: tells one state of those files from another.
        words: None for who has no parent.
        clock: UTC time.
    """

    def __init__(
        self,
        open_: Callable[[], Guard],
        *,
        stamp: Callable[[], object] = lambda: None,
        words: Words | None = None,
        clock: Callable[[], datetime] = now_utc,
    ) -> None:
        self._open = open_
        self._stamp = stamp
        self._stamped = stamp()
        self._guard = open_()
        self._words = words
        self._clock = clock
        self._known: dict[tuple[str, str], Holder | Untrusted] = {}
        heard = words.heard() if words is not None else {}
        self._newest = {parent: Word(*word) for parent, word in heard.items()}
        self._kept = dict(self._newest)
        self._keep_at = 0.0

    @property
    def certificate(self) -> str:
        """This node's, as its status has it."""
        return base64.b64encode(self._guard.certificate).decode()

    # as a child

    def taken(self, payload: bytes, parent: str) -> Announcement:
        """The parent's word. Raises WireError where it is not that, or not to be taken."""
        signed = signed_by(payload, f"announcement of {parent}")
        word = judge_announcement(signed, parent, self._newest.get(parent))
        holder = self._holder(parent, base64.b64encode(signed.certificate).decode())
        if isinstance(holder, Untrusted):
            raise WireError("unauthorised", str(holder))
        try:
            self._guard.check_signature(signed, holder)
        except Untrusted as error:
            raise WireError("unauthorised", str(error)) from None
        announcement = decode(signed.payload, Announcement)
        self._newest[parent] = word
        return announcement

    def keeps(self, parent: str, now: float) -> bool:
        """Whether it is time to `keep` how new the parent's last word was. `now` is the loop's."""
        newest, kept = self._newest.get(parent), self._kept.get(parent)
        if newest is None or newest == kept or self._words is None:
            return False
        return kept is None or kept.epoch != newest.epoch or now >= self._keep_at

    async def keep_up(self, parent: str) -> NoReturn:
        """Have the last of several words outlive a reboot too, though none comes behind it."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            await self.keep(parent)

    async def keep(self, parent: str) -> None:
        """Have it outlive a reboot. A disk that is full has it in memory alone, and says so."""
        newest = self._newest.get(parent)
        if newest is None or self._words is None or self._kept.get(parent) == newest:
            return
        self._keep_at = asyncio.get_running_loop().time() + KEEP_EVERY_S
        self._kept[parent] = newest
        try:
            await asyncio.to_thread(self._words.keep_heard, parent, newest.epoch, newest.number)
        except JournalFull as error:
            log.warning("how new the last word of %s was is in memory alone: %s", parent, error)

    def sealed(self, key: RoundKey, payload: bytes, parent: str) -> bytes:
        """A delta as it goes to this parent. May run in a thread."""
        return encode(self._guard.sign_delta(key, parent, payload))

    # as a parent

    def said(self, announcement: Announcement, epoch: int, number: int) -> bytes:
        """An announcement as it goes to the children."""
        return encode(self._guard.sign_announcement(epoch, number, encode(announcement)))

    def proof(self, node: str, certificate: str) -> Proof:
        """What this child's deltas are checked by now; `certificate` is what its status has."""
        return Proof(self._guard, node, self._holder(node, certificate))

    def is_known(self, node: str, certificate: str) -> bool:
        """Whether a delta of this child could be taken now."""
        return isinstance(self._holder(node, certificate), Holder)

    def _holder(self, node: str, certificate: str) -> Holder | Untrusted:
        """Looked up once a certificate; whether it counts now each time."""
        known = self._known.get((node, certificate))
        if known is None:
            if len(self._known) >= MAX_CHILDREN:
                self._known.pop(next(iter(self._known)))
            known = self._known[node, certificate] = self._looked_up(node, certificate)
        if isinstance(known, Holder):
            try:
                self._guard.check(known, self._clock())
            except Untrusted as error:
                return error
        return known

    def _looked_up(self, node: str, certificate: str) -> Holder | Untrusted:
        if not certificate:
            return Untrusted("unsigned", f"{node} has no certificate; give it trust settings")
        try:
            der = base64.b64decode(certificate, validate=True)
        except ValueError:
            return Untrusted("malformed", f"certificate of {node}: is no base64")
        try:
            return self._guard.holder(der, node)
        except Untrusted as error:
            return error

    # what changes outside

    async def look_after(self, changed: Callable[[], Awaitable[None]]) -> NoReturn:
        """Take up what was put into the files anew, and say what ends soon. `changed` tells the others."""
        loop, warn_at = asyncio.get_running_loop(), 0.0
        while True:
            if loop.time() >= warn_at:
                for warning in self._guard.warnings(self._clock()):
                    log.warning("%s", warning)
                warn_at = loop.time() + WARN_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            if await asyncio.to_thread(self.look):
                await changed()

    def look(self) -> bool:
        """Whether the files hold something else by now that is in force. What is of no use changes nothing."""
        stamp = self._stamp()
        if stamp == self._stamped:
            return False
        self._stamped = stamp
        try:
            self._guard = self._open()
        except ConfigError as error:
            log.error("the new certificates are of no use, the old ones stay in force: %s", error)
            return False
        self._known.clear()
        log.info("certificates and lists were read anew")
        return True


def open_trust(
    settings: TrustSettings,
    fleet: str,
    node: str,
    words: Words | None = None,
    clock: Callable[[], datetime] = now_utc,
) -> Trust:
    """Raises ConfigError where the settings name no node that others could trust."""
    files = [file for file in (settings.ca, settings.certificate, settings.key, settings.revoked) if file is not None]
    return Trust(
        lambda: open_guard(settings, fleet, node),
        stamp=lambda: [_stamp(file) for file in files],
        words=words,
        clock=clock,
    )


def _stamp(file: Path) -> object:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino
