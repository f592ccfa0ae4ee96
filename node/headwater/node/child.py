"""Law: a child follows its parent's newest word, fetches what it lacks, and sends its delta until the parent answers.

The broker's acknowledgement settles nothing: a delta is done when the parent says received, refused or closed, and
a model is there when its hash is. Whatever is superseded is dropped, never sent.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from headwater.node.identity import Identity
from headwater.node.news import News
from headwater.node.sending import send_chunks
from headwater.schemas.messages import (
    Announcement,
    Bundle,
    Chunk,
    Delta,
    Model,
    ObjectRef,
    Plan,
    Reason,
    Receipt,
    Refusal,
    RoundKey,
    Want,
)
from headwater.schemas.statuses import DataStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode, decode_object, encode
from headwater.transport.objects import Assembly, ObjectStore, chunks
from headwater.transport.session import Caller, Connect, LinkDown

M = TypeVar("M", Model, Bundle)

log = logging.getLogger("headwater.node")

WANT_AFTER_S: Final = 0.5
"""Silence after which missing chunks are asked for; a late joiner asks at once."""

WANT_AFTER_MAX_S: Final = 10.0
RESEND_AFTER_S: Final = 2.0
RESEND_AFTER_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """A plan with everything that it needs. `arrived_at` is the loop's time, for durations count from arrival."""

    plan: Plan
    model: Model
    bundle: Bundle
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Decline:
    """This plan cannot be followed here."""

    reason: Reason
    detail: str


Work = Callable[[Assignment], Awaitable[Delta | Decline]]
Verdict = Literal["received", "closed", "refused"]


class Child:
    """One node's side towards its parent."""

    def __init__(
        self,
        connect: Connect,
        identity: Identity,
        store: ObjectStore,
        *,
        data: Callable[[], Mapping[str, DataStatus]],
    ) -> None:
        if identity.parent is None:
            raise ValueError("parent: a child has one")
        self._identity = identity
        self._parent = identity.parent
        self._store = store
        self._data = data
        self._topics = Topics(identity.fleet)
        self._news = News()
        self._announcement: Announcement | None = None
        self._arrived_at = 0.0
        self._late = False
        self._assemblies: dict[bytes, Assembly] = {}
        self._outgoing: tuple[RoundKey, bytes] | None = None
        self._delivered: tuple[RoundKey, bytes] | None = None
        self._asked_again = False
        self._verdict: Verdict | None = None
        self._background: set[asyncio.Task[None]] = set()
        self.session = connect(
            Caller(
                fleet=identity.fleet,
                node=identity.node,
                client=identity.node,
                filters=(self._topics.all_down(self._parent), self._topics.all_inbox(identity.node)),
                on_message=self._on_message,
                on_connect=self.tell_status,
                will=identity.status("offline", data()),
            )
        )

    async def follow(self, work: Work) -> None:
        """Do `work` for every plan, newest first; what is superseded meanwhile is cancelled. Runs until cancelled."""
        async for assignment in self._assignments():
            result = await self._unless_superseded(assignment.plan.key, work(assignment))
            match result:
                case Delta():
                    await self._submit(result)
                case Decline(reason, detail):
                    await self._decline(assignment.plan.key, reason, detail)

    async def tell_status(self) -> None:
        """Say who this node is and what data it has. Raises LinkDown where nobody hears it."""
        status = self._identity.status("online", self._data())
        await self.session.publish(status.topic, status.payload, retain=True)

    # ── what the parent says ────────────────────────────────────────────────────────────────────────────────────

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        parsed = self._topics.parse(topic)
        if parsed is None:
            return
        try:
            match parsed.branch, parsed.leaf:
                case "down", "announcement":
                    self._on_announcement(decode(payload, Announcement), retained)
                case ("down", "chunk") | ("inbox", "chunk"):
                    self._on_chunk(decode(payload, Chunk))
                case "inbox", "receipt":
                    self._on_verdict(decode(payload, Receipt).key, "received")
                case "inbox", "refusal":
                    self._on_refusal(decode(payload, Refusal))
                case "inbox", "want":
                    self._on_want(decode(payload, Want))
        except WireError as error:
            log.warning("dropped a message on %s: %s", topic, error)

    def _on_announcement(self, announcement: Announcement, retained: bool) -> None:
        if announcement.parent != self._parent:
            return
        self._announcement = announcement
        self._arrived_at = asyncio.get_running_loop().time()
        self._late = retained
        plan = self._plan()
        wanted = (plan.bundle, plan.model) if plan else ()
        self._assemblies = {
            ref.sha256: self._assemblies.get(ref.sha256) or Assembly(ref) for ref in wanted if ref not in self._store
        }
        if self._outgoing and (announcement.plan is None or announcement.plan.key != self._outgoing[0]):
            self._verdict = self._verdict or "closed"
        if plan is not None and self._outgoing is None and self._delivered and plan.key == self._delivered[0]:
            # A parent that began anew announces its round again, and may have lost what it had received.
            self._asked_again = True
        self._news.tell()

    def _on_chunk(self, chunk: Chunk) -> None:
        assembly = self._assemblies.get(chunk.object.sha256)
        if assembly is None:
            return
        payload = assembly.add(chunk)
        if payload is not None:
            self._store.put(payload)
            del self._assemblies[chunk.object.sha256]
        self._news.tell()

    def _on_verdict(self, key: RoundKey, verdict: Verdict) -> None:
        if self._outgoing and self._outgoing[0] == key:
            self._verdict = verdict
            self._news.tell()

    def _on_refusal(self, refusal: Refusal) -> None:
        log.warning("the parent refused this node's delta: %s (%s)", refusal.reason, refusal.detail)
        if refusal.key is not None:
            self._on_verdict(refusal.key, "refused")

    def _on_want(self, want: Want) -> None:
        if self._outgoing and not self._background:
            _, payload = self._outgoing
            self._in_background(self._send(payload, want.missing))

    # ── from a plan to an assignment ────────────────────────────────────────────────────────────────────────────

    def _plan(self) -> Plan | None:
        """The open plan, where this node is in its cohort."""
        announcement = self._announcement
        if announcement is None or announcement.plan is None:
            return None
        if announcement.cohort is not None and self._identity.node not in announcement.cohort:
            return None
        return announcement.plan

    def _is_open(self, key: RoundKey) -> bool:
        plan = self._plan()
        return plan is not None and plan.key == key

    async def _assignments(self) -> AsyncIterator[Assignment]:
        done: RoundKey | None = None
        while True:
            plan = self._plan()
            if self._asked_again and self._delivered:
                self._asked_again = False
                await self._deliver(*self._delivered)
                continue
            if plan is None or plan.key == done:
                await self._news.wait()
                continue
            arrived_at = self._arrived_at
            if not await self._gather(plan):
                continue
            done = plan.key
            try:
                yield Assignment(plan, self._open(plan.model, Model), self._open(plan.bundle, Bundle), arrived_at)
            except WireError as error:
                await self._decline(plan.key, "malformed", str(error))

    def _open(self, ref: ObjectRef, kind: type[M]) -> M:
        payload = self._store.get(ref)
        if payload is None:
            raise WireError("malformed", f"{kind.kind}: does not fit into this node's object store")
        return decode_object(payload, kind)

    async def _gather(self, plan: Plan) -> bool:
        """Wait for the plan's objects, asking for what does not come. False when the plan is superseded first."""
        wait_s = 0.0 if self._late else WANT_AFTER_S
        while self._is_open(plan.key):
            if not self._assemblies:
                return True
            if await self._news.wait(wait_s):
                continue
            await self._ask_for_missing()
            wait_s = min(max(wait_s, WANT_AFTER_S / 2) * 2, WANT_AFTER_MAX_S)
        return False

    async def _ask_for_missing(self) -> None:
        topic = self._topics.up(self._identity.node, self._parent, "want")
        try:
            for assembly in tuple(self._assemblies.values()):
                await self.session.publish(topic, encode(Want(object=assembly.ref, missing=assembly.missing)))
        except LinkDown:
            await self.session.wait_connected()

    async def _unless_superseded(self, key: RoundKey, work: Awaitable[Delta | Decline]) -> Delta | Decline | None:
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                news = self._news.changed()
                await asyncio.wait((task, news), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if not task.done() and not self._is_open(key):
                    log.info("round %d.%d was superseded before this node was done", key.round, key.step)
                    return None
            return task.result()
        finally:
            task.cancel()

    # ── up ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _submit(self, delta: Delta) -> None:
        if self._is_open(delta.key):
            await self._deliver(delta.key, encode(delta))

    async def _deliver(self, key: RoundKey, payload: bytes) -> None:
        """Send until the parent answers. The waits double up to `RESEND_AFTER_MAX_S`; a repeat offers one chunk."""
        self._outgoing, self._verdict = (key, payload), None
        wait_s = RESEND_AFTER_S
        await self._send(payload)
        while self._verdict is None:
            if not await self._news.wait(wait_s):
                wait_s = min(wait_s * 2, RESEND_AFTER_MAX_S)
                await self._send(payload, (0,))
        self._delivered, self._outgoing = self._outgoing, None

    async def _send(self, payload: bytes, indices: tuple[int, ...] | None = None) -> None:
        topic = self._topics.up(self._identity.node, self._parent, "delta")
        try:
            await send_chunks(self.session, topic, chunks(payload, indices))
        except LinkDown as error:
            log.info("a delta waits for the link: %s", error)
            await self.session.wait_connected()

    async def _decline(self, key: RoundKey, reason: Reason, detail: str) -> None:
        log.warning("cannot follow round %d: %s (%s)", key.round, reason, detail)
        refusal = Refusal(key=key, sender=self._identity.node, reason=reason, detail=detail[:1024])
        try:
            await self.session.publish(self._topics.up(self._identity.node, self._parent, "refusal"), encode(refusal))
        except LinkDown as error:
            log.info("a refusal was lost with the link; the round's deadline covers it: %s", error)

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
