"""Law: a child follows its parent's newest word, fetches what it lacks, and sends its delta until the parent answers.

The broker's acknowledgement settles nothing: a delta is done when the parent says received, refused or closed, and
a model is there when its hash is. Work and delivery go on side by side; what is superseded is dropped, never sent.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from headwater.core.compress.prune import Mask, read_masks
from headwater.core.round import worth_taking
from headwater.node.envelope import believed
from headwater.node.identity import Identity
from headwater.node.logs import about
from headwater.node.news import News
from headwater.node.outbox import Outbox, Outgoing
from headwater.node.patching import patched
from headwater.node.releases import Software
from headwater.node.sending import send_chunks
from headwater.node.service import together
from headwater.node.tasks import Background
from headwater.schemas.learning import CODECS
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import (
    Announcement,
    Bundle,
    Chunk,
    Delta,
    Model,
    ObjectRef,
    Offer,
    Patch,
    Plan,
    Reason,
    Receipt,
    Refusal,
    Rollout,
    RoundKey,
    Want,
)
from headwater.schemas.statuses import DataStatus
from headwater.schemas.tensors import TensorError, parameter_specs
from headwater.schemas.topics import NodeTopic, Topics
from headwater.schemas.wire import WireError, decode, decode_object, encode, encode_object, reference
from headwater.transport.objects import Assembly, ObjectStore, chunks
from headwater.transport.session import Caller, Connect, LinkDown

if TYPE_CHECKING:
    from headwater.node.trusting import Trust

M = TypeVar("M", Model, Bundle, Patch)

log = logging.getLogger("headwater.node")

WANT_AFTER_S: Final = 0.5
"""Silence after which missing chunks are asked for; a late joiner asks at once."""

WANT_AFTER_MAX_S: Final = 10.0
SAVE_AFTER_S: Final = 0.25
"""Without an answer for so long a delta goes to disk; a quick round writes nothing."""

COMPLAIN_EVERY_S: Final = 30.0
"""Between two times that a parent hears that its word is not taken."""

SEAL_ASIDE_BYTES: Final = 4 * 1024 * 1024
"""Of a larger delta the signature is made in a thread, for its hash takes longer than signs of life should wait."""

RESEND_AFTER_S: Final = 2.0
RESEND_AFTER_MAX_S: Final = 30.0
MAX_BACKGROUND: Final = 16
"""Answers under way at once; a parent that misses one asks again."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A plan with everything that it needs. `arrived_at` is the loop's time, for durations count from arrival. `masks`
    are what is left of each shared parameter of a pruned model."""

    plan: Plan
    model: Model
    bundle: Bundle
    arrived_at: float
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True, slots=True)
class Decline:
    """This plan cannot be followed here."""

    reason: Reason
    detail: str


Work = Callable[[Assignment], Awaitable[Delta | Decline]]
Rest = Callable[[], Awaitable[None]]
Refused = Callable[[RoundKey], None]
"""Hears of a delta that was not taken. Of one that was it hears nothing: a quick round closes without a receipt."""


def _nobody_asks(_: RoundKey) -> None:
    """What this node sends leaves nothing behind."""


class Child:
    """One node's side towards its parent.

    Args:
        objects: models and bundles, by hash.
        outbox: its finished deltas, shared with its sides towards other parents.
        data: what this node says of its data now.
        refused: told of each plan whose delta was not taken, never sent, or given up before it was finished.
        battery: the level of its battery, in percent; None without one.
        trust: what it signs with, and whom it believes; None where it believes what its broker brings.
        software: what it hears of its software, and says of that.
    """

    def __init__(
        self,
        connect: Connect,
        identity: Identity,
        objects: ObjectStore,
        outbox: Outbox,
        *,
        data: Callable[[], Mapping[str, DataStatus]],
        refused: Refused = _nobody_asks,
        battery: Callable[[], float | None] = lambda: None,
        trust: "Trust | None" = None,
        software: Software | None = None,
    ) -> None:
        if identity.parent is None:
            raise ValueError("parent: a child has one")
        self._identity = identity
        self._parent = identity.parent
        self._objects = objects
        self._outbox = outbox
        self._data = data
        self._refused = refused
        self._battery = battery
        self._trust = trust
        self._complain_at = 0.0
        self._software = software or Software()
        self._topics = Topics(identity.fleet)
        self._news = News()
        self._announcement: Announcement | None = None
        self._arrived_at = 0.0
        self._late = False
        self._assemblies: dict[bytes, Assembly] = {}
        self._send_now = False
        self.heard_at: float | None = None
        """The loop's time of the parent's last word."""
        self._tasks = Background(MAX_BACKGROUND)
        self.session = connect(
            Caller(
                fleet=identity.fleet,
                node=identity.node,
                client=identity.node,
                filters=(self._topics.all_down(self._parent), self._topics.all_inbox(identity.node)),
                on_message=self._on_message,
                on_connect=self._on_connect,
                will=identity.status("offline", data(), certificate=self._certificate),
            )
        )

    async def follow(self, work: Work, rest: Rest | None = None) -> None:
        """Do `work` for every plan, newest first, and deliver what comes of it. Runs until cancelled.

        Work that is superseded is cancelled; a finished delta that waits when this is cancelled goes to disk. `rest` is
        done when the parent's word is that there is no plan for this node.
        """
        await self._outbox.restore()
        # The parent's word may have come before the disk's.
        self._drop_superseded()
        try:
            remembering = [] if self._trust is None else [self._trust.keep_up(self._parent)]
            working = self._work_on_plans(work, rest), self._deliver_all(), self._software.ask(self._want)
            await together(*working, *remembering)
        finally:
            await self._outbox.save_all()
            if self._trust is not None:
                await self._trust.keep(self._parent)

    async def _work_on_plans(self, work: Work, rest: Rest | None) -> None:
        async for assignment in self._assignments(rest):
            with about(assignment.plan.key):
                await self._work_on(assignment, work)

    async def _work_on(self, assignment: Assignment, work: Work) -> None:
        key = assignment.plan.key
        # The next plan's first word below a gateway tells its cluster that the last round is over.
        await self._outbox.save_all()
        match await self._unless_superseded(key, work(assignment)):
            case Delta() as delta if self._is_worth(key):
                for gone in self._outbox.put(key, encode_object(delta)):
                    self._refused(gone)
                self._news.tell()
            case Delta() | None:
                # What was superseded may have been kept as sent already.
                self._refused(key)
            case Decline(reason, detail):
                await self._decline(key, reason, detail)

    async def tell_status(self) -> None:
        """Say who this node is and what data it has. Raises LinkDown where nobody hears it."""
        software, about = self._software, (self._data(), self._battery(), self._certificate)
        status = self._identity.status("online", *about, update=software.update, rollout=software.below)
        await self.session.publish(status.topic, status.payload, retain=True)

    @property
    def _certificate(self) -> str:
        return "" if self._trust is None else self._trust.certificate

    async def _on_connect(self) -> None:
        await self.tell_status()
        self._send_now = True
        self._news.tell()

    # ── what the parent says ────────────────────────────────────────────────────────────────────────────────────

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        parsed = self._topics.parse(topic)
        if parsed is None:
            return
        if not retained:
            self.heard_at = asyncio.get_running_loop().time()
        open_ = self._announcement.plan if self._announcement is not None else None
        with about(open_.key if open_ is not None else None):
            self._hear(parsed, topic, payload, retained)

    def _hear(self, parsed: NodeTopic, topic: str, payload: bytes, retained: bool) -> None:
        try:
            match parsed.branch, parsed.leaf:
                case "down", "announcement":
                    self._on_announcement(self._announced(payload), retained)
                case "down", "release":
                    self._software.hear(decode(payload, Rollout))
                case ("down", "chunk") | ("inbox", "chunk"):
                    self._on_chunk(decode(payload, Chunk))
                case "inbox", "receipt":
                    self._on_receipt(decode(payload, Receipt))
                case "inbox", "refusal":
                    self._on_refusal(decode(payload, Refusal))
                case "inbox", "want":
                    self._on_want(decode(payload, Want))
        except WireError as error:
            log.warning("dropped a message on %s: %s", topic, error)

    def _announced(self, payload: bytes) -> Announcement:
        """The parent's word. Raises WireError where it is not to be taken, of which the parent hears."""
        if self._trust is None:
            return believed(payload)
        try:
            announcement = self._trust.taken(payload, self._parent)
        except WireError as error:
            self._complain(error)
            raise
        if self._trust.keeps(self._parent, asyncio.get_running_loop().time()):
            self._tasks.start(self._trust.keep(self._parent))
        return announcement

    def _complain(self, error: WireError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_EVERY_S
            refusal = Refusal(key=None, sender=self._identity.node, reason=error.reason, detail=str(error)[:1024])
            self._tasks.start(self._refuse_once_linked(refusal))

    async def _refuse_once_linked(self, refusal: Refusal) -> None:
        """What a broker kept comes before the link is told to be up, and comes once."""
        await self.session.wait_connected()
        await self._refuse(refusal)

    def _on_announcement(self, announcement: Announcement, retained: bool) -> None:
        if announcement.parent != self._parent:
            return
        self._announcement = announcement
        self._arrived_at = asyncio.get_running_loop().time()
        self._late = retained
        self._assemble(self._plan())
        self._drop_superseded()
        # A parent that began anew, or lost its link, announces its round again, and may have lost what was under way.
        self._send_now = True
        self._news.tell()

    def _assemble(self, plan: Plan | None, *, by_patch: bool = True) -> None:
        """Expect what a plan needs and this node lacks; the patch alone where it has the model that it belongs on."""
        wanted: tuple[ObjectRef, ...] = ()
        if plan is not None and by_patch and plan.model not in self._objects and self._can_patch(plan):
            assert plan.patch is not None
            wanted = (plan.bundle, plan.patch.patch)
        elif plan is not None:
            wanted = (plan.bundle, plan.model)
        if plan is not None and plan.mask is not None:
            wanted = (*wanted, plan.mask)
        self._assemblies = {
            ref.sha256: self._assemblies.get(ref.sha256) or Assembly(ref) for ref in wanted if ref not in self._objects
        }

    def _can_patch(self, plan: Plan) -> bool:
        return plan.patch is not None and plan.patch.base in self._objects and plan.patch.codec in CODECS

    def _on_chunk(self, chunk: Chunk) -> None:
        assembly = self._assemblies.get(chunk.object.sha256)
        if assembly is None:
            self._software.take(chunk)
            return
        payload = assembly.add(chunk)
        if payload is not None:
            self._objects.put(payload)
            del self._assemblies[chunk.object.sha256]
        self._news.tell()

    def _settle(self, key: RoundKey) -> None:
        """The parent has answered this delta, whatever it said."""
        entry = self._outbox.settle(key)
        if entry is not None:
            if entry.saved:
                self._tasks.start(self._outbox.forget(entry))
            self._news.tell()

    def _drop_superseded(self) -> None:
        for entry in self._outbox.superseded(self._is_worth):
            self._settle(entry.key)
            if not entry.sent:
                self._refused(entry.key)

    def _on_receipt(self, receipt: Receipt) -> None:
        if receipt.sender == self._parent:
            self._settle(receipt.key)

    def _on_refusal(self, refusal: Refusal) -> None:
        if refusal.sender != self._parent:
            # A parent that this node left, which knows nothing of what another has.
            return
        log.warning("the parent refuses: %s (%s)", refusal.reason, refusal.detail)
        if refusal.key is not None:
            self._settle(refusal.key)
            self._refused(refusal.key)
        elif refusal.reason == "unauthorised":
            # The parent has not heard of this node: its broker may have forgotten the birth.
            self._tasks.start(self._introduce())

    async def _introduce(self) -> None:
        try:
            await self.tell_status()
        except LinkDown as error:
            log.info("the birth was lost with the link, the next connection tells it: %s", error)

    def _on_want(self, want: Want) -> None:
        entry = self._outbox.of(want.object)
        if entry is not None:
            self._tasks.start(self._send(entry, want.missing))

    # ── from a plan to an assignment ────────────────────────────────────────────────────────────────────────────

    def _plan(self) -> Plan | None:
        """The open plan, where this node is in its cohort."""
        announcement = self._announcement
        if announcement is None or announcement.plan is None:
            return None
        if announcement.cohort is not None and self._identity.node not in announcement.cohort:
            return None
        return announcement.plan

    def _is_worth(self, key: RoundKey) -> bool:
        """Whether the parent would still take a delta of this plan."""
        announced = self._announcement
        if announced is None:
            return True
        return announced.plan is not None and worth_taking(key, announced.plan.key, announced.plan.max_staleness)

    def _is_open(self, key: RoundKey) -> bool:
        plan = self._plan()
        return plan is not None and plan.key == key

    async def _assignments(self, rest: Rest | None) -> AsyncIterator[Assignment]:
        done: RoundKey | None = None
        resting = False
        while True:
            plan = self._plan()
            if plan is None and self._announcement is not None and rest is not None and not resting:
                resting = True
                await self._outbox.save_all()
                await rest()
                continue
            resting = resting and plan is None
            if plan is None or plan.key == done or not self._outbox.needs_work(plan.key, self._parent):
                await self._news.wait()
                continue
            arrived_at = self._arrived_at
            with about(plan.key):
                is_there = await self._gather(plan)
            if not is_there:
                continue
            done = plan.key
            try:
                bundle = self._open(plan.bundle, Bundle)
                yield Assignment(
                    plan, self._open(plan.model, Model), bundle, arrived_at, self._masks(plan, bundle.manifest)
                )
            except (WireError, TensorError) as error:
                await self._decline(plan.key, "malformed", str(error))

    def _open(self, ref: ObjectRef, kind: type[M]) -> M:
        return decode_object(self._payload(ref, kind.kind), kind)

    def _payload(self, ref: ObjectRef, what: str) -> bytes:
        payload = self._objects.get(ref)
        if payload is None:
            raise WireError("malformed", f"{what}: does not fit into this node's object store")
        return payload

    def _masks(self, plan: Plan, manifest: Manifest) -> tuple[Mask, ...]:
        if plan.mask is None:
            return ()
        return read_masks(self._payload(plan.mask, "mask"), parameter_specs(manifest.shared))

    async def _gather(self, plan: Plan) -> bool:
        """Wait for the plan's objects, asking for what does not come. False when the plan is superseded first."""
        wait_s = 0.0 if self._late else WANT_AFTER_S
        while self._is_open(plan.key):
            if not self._assemblies:
                if await self._has_model(plan):
                    return True
                wait_s = 0.0
                continue
            if await self._news.wait(wait_s):
                continue
            await self._ask_for_missing()
            wait_s = min(max(wait_s, WANT_AFTER_S / 2) * 2, WANT_AFTER_MAX_S)
        return False

    async def _has_model(self, plan: Plan) -> bool:
        """Whether the model is there, where a patch leads to it by that; else it is expected whole."""
        if plan.model in self._objects or plan.patch is None:
            # One that does not fit into the store is not asked for again and again.
            return True
        try:
            bundle, base = self._open(plan.bundle, Bundle), self._open(plan.patch.base, Model)
            masks = self._masks(plan, bundle.manifest)
            patch = self._open(plan.patch.patch, Patch)
            payload = await asyncio.to_thread(patched, bundle.manifest, base, patch, masks)
            if reference(payload) == plan.model:
                self._objects.put(payload)
                return True
            problem = "it leads to another model"
        except (WireError, TensorError) as error:
            problem = str(error)
        log.warning("the patch of round %d is of no use, the model is fetched whole: %s", plan.key.round, problem)
        # The parent's word may be another by now, and then what that one needs is on its way.
        if self._is_open(plan.key):
            self._assemble(plan, by_patch=False)
        return False

    async def _want(self, want: Want) -> None:
        await self.session.publish(self._topics.up(self._identity.node, self._parent, "want"), encode(want))

    async def _ask_for_missing(self) -> None:
        try:
            for assembly in tuple(self._assemblies.values()):
                if not assembly.missing:
                    # It came while another was being asked for.
                    continue
                await self._want(Want(object=assembly.ref, missing=assembly.missing))
        except LinkDown:
            await self.session.wait_connected()

    async def _unless_superseded(self, key: RoundKey, work: Awaitable[Delta | Decline]) -> Delta | Decline | None:
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                news = self._news.changed()
                await asyncio.wait((task, news), return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if not task.done() and not self._is_worth(key):
                    log.info("round %d.%d was superseded before this node was done", key.round, key.step)
                    return None
            return task.result()
        finally:
            task.cancel()

    # ── up ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _deliver_all(self) -> None:
        """One delta after the other, the oldest first, each until it is answered."""
        while True:
            entry = self._outbox.next_for(self._parent)
            # Before the parent's first word it is not known whether it takes this delta, or would be offered it first.
            if entry is None or self._announcement is None:
                await self._news.wait()
                continue
            if self._outbox.saves_first:
                await self._outbox.save(entry)
            with about(entry.key):
                await self._deliver(entry)

    async def _deliver(self, entry: Outgoing) -> None:
        """Send until the parent answers. The waits double up to `RESEND_AFTER_MAX_S`; a repeat offers one chunk."""
        loop = asyncio.get_running_loop()
        wait_s = RESEND_AFTER_S
        self._send_now = False
        await self._seal(entry)
        await self._present(entry)
        save_at, resend_at = loop.time() + SAVE_AFTER_S, loop.time() + wait_s
        while self._outbox.holds(entry.key):
            due_at = resend_at if entry.saved else min(save_at, resend_at)
            await self._news.wait(max(0.0, due_at - loop.time()))
            if not entry.saved and loop.time() >= save_at:
                await self._outbox.save(entry)
                save_at = loop.time() + RESEND_AFTER_MAX_S
            if self._send_now or loop.time() >= resend_at:
                self._send_now = False
                wait_s = min(wait_s * 2, RESEND_AFTER_MAX_S)
                await self._remind(entry)
                resend_at = loop.time() + wait_s

    async def _seal(self, entry: Outgoing) -> None:
        """Sign a delta for this parent: another could not take it, and not before it is known whose it is."""
        if self._trust is None:
            return
        parts = entry.key, entry.payload, self._parent
        if len(entry.payload) > SEAL_ASIDE_BYTES:
            entry.seal(await asyncio.to_thread(self._trust.sealed, *parts))
        else:
            entry.seal(self._trust.sealed(*parts))

    async def _present(self, entry: Outgoing, indices: tuple[int, ...] | None = None) -> None:
        """Send the delta, or these chunks of it; or offer it, where the parent gives turns."""
        if self._announcement is not None and self._announcement.offers:
            await self._offer(entry)
        else:
            await self._send(entry, indices)

    async def _remind(self, entry: Outgoing) -> None:
        if self._outbox.holds(entry.key):
            await self._present(entry, (0,))

    async def _offer(self, entry: Outgoing) -> None:
        """Say that a delta is ready; the parent asks for its chunks in its turn."""
        topic = self._topics.up(self._identity.node, self._parent, "offer")
        offer = Offer(key=entry.key, sender=self._identity.node, object=entry.ref)
        try:
            await self.session.publish(topic, encode(offer))
        except LinkDown as error:
            log.info("a delta waits for the link: %s", error)

    async def _send(self, entry: Outgoing, indices: tuple[int, ...] | None = None) -> None:
        """Where the outbox gives it to this parent: one that it was only offered to may still want it."""
        topic = self._topics.up(self._identity.node, self._parent, "delta")
        if not self.session.connected:
            log.info("a delta waits for the link")
            return
        if not await self._outbox.give(entry, self._parent):
            return
        try:
            # Before it is: the parent's next word may be here sooner than the broker's that it has the last chunk.
            entry.sent = True
            await send_chunks(self.session, topic, chunks(entry.travels, indices))
        except LinkDown as error:
            log.info("a delta waits for the link: %s", error)

    async def _decline(self, key: RoundKey, reason: Reason, detail: str) -> None:
        log.warning("cannot follow round %d: %s (%s)", key.round, reason, detail)
        await self._refuse(Refusal(key=key, sender=self._identity.node, reason=reason, detail=detail[:1024]))

    async def _refuse(self, refusal: Refusal) -> None:
        try:
            await self.session.publish(self._topics.up(self._identity.node, self._parent, "refusal"), encode(refusal))
        except LinkDown as error:
            log.info("a refusal was lost with the link; the round's deadline covers it: %s", error)
