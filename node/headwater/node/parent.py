"""Law: a parent hosts one round at a time: it announces, serves, receives, and tells everyone how it ended.

Every decision is `core.round`'s; this shell decodes what arrives, folds what it is told to fold, and answers.
Nothing that a child sends can grow memory beyond stated bounds or reach the sum unchecked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from headwater.core import round as rounds
from headwater.core.select import uniform_cohort
from headwater.node.hosting import (
    Contribution,
    Hosted,
    Refused,
    RoundResult,
    checked_tensors,
    open_hosted,
    result_of,
    status_of,
)
from headwater.node.identity import Identity
from headwater.node.news import News
from headwater.node.sending import send_chunks
from headwater.schemas.limits import MAX_CHILDREN
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import (
    Announcement,
    Chunk,
    Delta,
    Plan,
    Reason,
    Receipt,
    Refusal,
    RoundKey,
    Want,
)
from headwater.schemas.statuses import NodeStatus, RoundStatus
from headwater.schemas.tensors import Array, TensorError
from headwater.schemas.topics import NodeTopic, Topics
from headwater.schemas.wire import WireError, decode, decode_object, decode_status, encode
from headwater.transport.objects import Assembly, ObjectStore, chunks
from headwater.transport.session import Caller, Connect, LinkDown, Publication

log = logging.getLogger("headwater.node")

RECEIPT_DELAY_S: Final = 0.1
"""A round that closes sooner tells everyone at once, and needs no receipts."""

PROGRESS_EVERY_S: Final = 0.25
ASK_AGAIN_AFTER_S: Final = 1.0
MAX_ASSEMBLING_BYTES: Final = 256 * 1024 * 1024
MAX_SERVED_AT_ONCE: Final = 4
MAX_WAITING_WANTS: Final = 1024


class Parent:
    """One node's side towards its children.

    Args:
        store: serves models and bundles; the caller puts them there before it hosts a round that names them.
        tell_people: publishes the round's status for people.
    """

    def __init__(
        self,
        connect: Connect,
        identity: Identity,
        store: ObjectStore,
        *,
        client: str,
        tell_people: Callable[[RoundStatus], Awaitable[None]],
        will: Publication | None = None,
        on_connect: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._identity = identity
        self._store = store
        self._tell_people = tell_people
        self._also_on_connect = on_connect
        self._topics = Topics(identity.fleet)
        self._news = News()
        self._hosted: Hosted | None = None
        self._announcement = Announcement(parent=identity.node)
        self._broadcast: set[bytes] = set()
        self._assemblies: dict[str, Assembly] = {}
        self._progress_at: dict[str, float] = {}
        self._owed: dict[str, RoundKey] = {}
        self._wants: dict[tuple[str, bytes], Want] = {}
        self._background: set[asyncio.Task[None]] = set()
        self.members: dict[str, NodeStatus] = {}
        self.session = connect(
            Caller(
                fleet=identity.fleet,
                node=identity.node,
                client=client,
                filters=(self._topics.status(), self._topics.all_up(identity.node)),
                on_message=self._on_message,
                on_connect=self._on_connect,
                will=will,
            )
        )

    @property
    def news(self) -> News:
        """Tells of every change in membership and in the round."""
        return self._news

    def eligible(self, data: str) -> frozenset[str]:
        """The children that are online and have something under this data key, or lead others who may."""
        return frozenset(
            name
            for name, status in self.members.items()
            if status.state == "online" and (status.role == "gateway" or data in status.data)
        )

    async def host(self, plan: Plan, manifest: Manifest) -> RoundResult:
        """Run one round to its end: everyone expected, or the deadline.

        The model and bundle that the plan names must be in the store.
        """
        loop = asyncio.get_running_loop()
        members = self.eligible(plan.data)
        cohort = uniform_cohort(members, plan.cohort, plan.seed, plan.key)
        hosted = open_hosted(plan, manifest, members, cohort, self.session.traffic, loop.time())
        self._hosted = hosted
        self._assemblies.clear()
        await self._announce(
            Announcement(
                parent=self._identity.node,
                plan=plan,
                cohort=None if cohort is None else tuple(sorted(cohort)),
                closed=self._announcement.closed,
            )
        )
        self._in_background(self._broadcast_objects(plan))
        self._in_background(self._tell_progress(hosted))
        while hosted.round.state == "open":
            await self._news.wait(min(hosted.round.deadline_at - loop.time(), ASK_AGAIN_AFTER_S))
            self._perform(hosted, rounds.Tick(), None)
            self._ask_for_missing(loop.time())
        return self._ended(hosted, loop.time())

    async def close(self) -> None:
        """Tell the children that no round is open: whoever still sends may rest."""
        self._hosted = None
        self._assemblies.clear()
        await self._announce(Announcement(parent=self._identity.node, closed=self._announcement.closed))

    # ── a round's beginning and end ─────────────────────────────────────────────────────────────────────────────

    def _ended(self, hosted: Hosted, now: float) -> RoundResult:
        self._announcement = self._announcement.model_copy(update={"closed": hosted.plan.key})
        self._in_background(self._say(self._status(hosted)))
        return result_of(hosted, self.session.traffic, now)

    async def _announce(self, announcement: Announcement) -> None:
        self._announcement = announcement
        # Whoever hears of the next round, or of none, needs no receipt for the last.
        self._owed.clear()
        await self._say_where_things_stand()

    async def _say_where_things_stand(self) -> None:
        topic = self._topics.down(self._identity.node, "announcement")
        try:
            await self.session.publish(topic, encode(self._announcement), retain=True)
        except LinkDown as error:
            log.info("the announcement waits for the link: %s", error)

    async def _broadcast_objects(self, plan: Plan) -> None:
        """Each object goes out once to the whole cohort; who misses some asks."""
        topic = self._topics.down(self._identity.node, "chunk")
        for ref in (plan.bundle, plan.model):
            payload = self._store.get(ref)
            if payload is None or ref.sha256 in self._broadcast:
                continue
            self._broadcast = {plan.bundle.sha256, plan.model.sha256} & (self._broadcast | {ref.sha256})
            try:
                await send_chunks(self.session, topic, chunks(payload))
            except LinkDown as error:
                log.info("a broadcast broke off, the children will ask: %s", error)

    async def _on_connect(self) -> None:
        if self._also_on_connect is not None:
            await self._also_on_connect()
        if self._announcement.plan is not None:
            await self._say_where_things_stand()

    # ── what the children say ───────────────────────────────────────────────────────────────────────────────────

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        parsed = self._topics.parse(topic)
        if parsed is None:
            return
        if parsed.branch == "status":
            self._on_status(parsed, payload)
        elif parsed.branch == "up" and parsed.parent == self._identity.node:
            self._on_up(parsed, payload)

    def _on_status(self, topic: NodeTopic, payload: bytes) -> None:
        try:
            status = decode_status(payload, NodeStatus)
        except WireError as error:
            log.warning("dropped the status of %s: %s", topic.node, error)
            return
        if status.node != topic.node or status.parent != self._identity.node:
            return
        if status.node not in self.members and len(self.members) >= MAX_CHILDREN:
            log.error("%s is not admitted: this parent has its %d children", status.node, MAX_CHILDREN)
            return
        before = self.members.get(status.node)
        if before and before.state == status.state == "online" and before.boot != status.boot:
            log.info("%s started anew", status.node)
        self.members[status.node] = status
        self._on_membership(status)

    def _on_membership(self, status: NodeStatus) -> None:
        hosted = self._hosted
        if hosted is not None:
            if status.node in self.eligible(hosted.plan.data):
                self._perform(hosted, rounds.Joined(status.node), None)
            elif status.state == "offline":
                self._perform(hosted, rounds.Left(status.node), None)
        self._news.tell()

    def _on_up(self, topic: NodeTopic, payload: bytes) -> None:
        if topic.node not in self.members:
            self._refuse(topic.node, None, "unauthorised", f"{topic.node} is no child of {self._identity.node}")
            return
        try:
            match topic.leaf:
                case "delta":
                    self._on_chunk(topic.node, decode(payload, Chunk))
                case "want":
                    self._on_want(topic.node, decode(payload, Want))
                case "refusal":
                    self._on_declined(topic.node, decode(payload, Refusal))
        except WireError as error:
            self._refuse(topic.node, None, "oversized" if error.reason == "oversized" else "malformed", str(error))

    def _on_chunk(self, node: str, chunk: Chunk) -> None:
        hosted = self._hosted
        if hosted is None:
            # No round was hosted since this node began or it was closed; the announcement says so to the sender.
            return
        if chunk.object.size_bytes > hosted.max_delta_bytes:
            detail = f"{chunk.object.size_bytes} bytes; at most {hosted.max_delta_bytes}"
            self._refuse(node, hosted.plan.key, "oversized", detail)
            return
        assembly = self._assemblies.get(node)
        if assembly is None or assembly.ref != chunk.object:
            self._assemblies.pop(node, None)
            assembling = sum(other.ref.size_bytes for other in self._assemblies.values())
            if assembling + chunk.object.size_bytes > MAX_ASSEMBLING_BYTES:
                return
            assembly = self._assemblies[node] = Assembly(chunk.object)
        self._progress_at[node] = asyncio.get_running_loop().time()
        payload = assembly.add(chunk)
        if payload is not None:
            del self._assemblies[node]
            self._on_delta(hosted, node, payload)

    def _on_delta(self, hosted: Hosted, node: str, payload: bytes) -> None:
        try:
            delta = decode_object(payload, Delta)
            # The engine refuses a delta of another round by its key; only this round's can be checked further.
            tensors = checked_tensors(delta, node, hosted) if delta.key == hosted.plan.key else ()
        except (WireError, TensorError) as error:
            self._refuse(node, hosted.plan.key, error.reason, str(error))
            return
        folded = self._perform(hosted, rounds.Arrived.of(delta), (delta, tensors))
        if folded:
            after_s = asyncio.get_running_loop().time() - hosted.round.opened_at
            hosted.contributions.append(
                Contribution(node, delta.weight, delta.examples, delta.devices, len(payload), after_s)
            )
        self._news.tell()

    def _on_declined(self, node: str, refusal: Refusal) -> None:
        hosted = self._hosted
        if hosted is None or refusal.key != hosted.plan.key or refusal.sender != node:
            return
        log.warning("%s cannot follow round %d: %s (%s)", node, refusal.key.round, refusal.reason, refusal.detail)
        hosted.refuse(Refused(node, refusal.reason, refusal.detail))
        self._perform(hosted, rounds.Declined(refusal.key, node), None)
        self._news.tell()

    # ── what the engine decides ─────────────────────────────────────────────────────────────────────────────────

    def _perform(self, hosted: Hosted, event: rounds.Event, arrived: tuple[Delta, tuple[Array, ...]] | None) -> bool:
        """One event through the engine, and its effects. True when a delta was folded."""
        hosted.round, effects = rounds.step(hosted.round, event, asyncio.get_running_loop().time())
        folded = False
        for effect in effects:
            match effect:
                case rounds.Fold() if arrived is not None:
                    delta, tensors = arrived
                    hosted.sum.add(tensors, delta.weight, delta.metrics, delta.tallies)
                    folded = True
                case rounds.Acknowledge(sender):
                    self._owe(sender, hosted.plan.key)
                case rounds.Refuse(sender, reason, detail):
                    self._refuse(sender, event.key if isinstance(event, rounds.Arrived) else None, reason, detail)
                case rounds.Close():
                    self._news.tell()
        return folded

    def _owe(self, node: str, key: RoundKey) -> None:
        if not self._owed:
            self._in_background(self._send_receipts())
        self._owed[node] = key

    async def _send_receipts(self) -> None:
        await asyncio.sleep(RECEIPT_DELAY_S)
        owed, self._owed = self._owed, {}
        for node, key in owed.items():
            await self._post(self._topics.inbox(node, "receipt"), encode(Receipt(key=key, sender=self._identity.node)))

    def _refuse(self, node: str, key: RoundKey | None, reason: Reason, detail: str) -> None:
        log.warning("refused %s: %s (%s)", node, reason, detail)
        if self._hosted is not None:
            self._hosted.refuse(Refused(node, reason, detail))
        refusal = Refusal(key=key, sender=self._identity.node, reason=reason, detail=detail[:1024])
        if len(self._background) < MAX_WAITING_WANTS:
            self._in_background(self._post(self._topics.inbox(node, "refusal"), encode(refusal)))

    # ── chunks on request ───────────────────────────────────────────────────────────────────────────────────────

    def _on_want(self, node: str, want: Want) -> None:
        """One want a child and object waits at most; a later one replaces it."""
        if (node, want.object.sha256) not in self._wants and len(self._wants) >= MAX_WAITING_WANTS:
            return
        self._wants[node, want.object.sha256] = want
        if len(self._wants) <= MAX_SERVED_AT_ONCE:
            self._in_background(self._serve())

    async def _serve(self) -> None:
        while self._wants:
            (node, sha256), want = next(iter(self._wants.items()))
            del self._wants[node, sha256]
            payload = self._store.get(want.object)
            if payload is None:
                continue
            try:
                await send_chunks(self.session, self._topics.inbox(node, "chunk"), chunks(payload, want.missing))
            except LinkDown as error:
                log.info("chunks for %s broke off, it will ask again: %s", node, error)

    def _ask_for_missing(self, now: float) -> None:
        """A delta that stopped half-way is asked for, once in `ASK_AGAIN_AFTER_S`."""
        for node, assembly in self._assemblies.items():
            if now - self._progress_at[node] >= ASK_AGAIN_AFTER_S:
                self._progress_at[node] = now
                want = Want(object=assembly.ref, missing=assembly.missing)
                self._in_background(self._post(self._topics.inbox(node, "want"), encode(want)))

    async def _post(self, topic: str, payload: bytes) -> None:
        try:
            await self.session.publish(topic, payload)
        except LinkDown as error:
            log.info("an answer was lost with the link, the child will ask: %s", error)

    # ── for people ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _tell_progress(self, hosted: Hosted) -> None:
        told: RoundStatus | None = None
        while hosted.round.state == "open":
            status = self._status(hosted)
            if told is None or (status.received, status.refused, status.cohort) != (
                told.received,
                told.refused,
                told.cohort,
            ):
                await self._say(status)
                told = status
            await asyncio.sleep(PROGRESS_EVERY_S)

    async def _say(self, status: RoundStatus) -> None:
        try:
            await self._tell_people(status)
        except LinkDown as error:
            log.debug("a status for people was lost with the link: %s", error)

    def _status(self, hosted: Hosted) -> RoundStatus:
        now = asyncio.get_running_loop().time()
        return status_of(hosted, self._identity.node, self.members, self.session.traffic, now)

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
