"""Law: a parent hosts one round at a time: it announces, serves, receives, and tells everyone how it ended.

Every decision is made in `core`: of the round, of who is a member, of whose turn it is to send. This shell decodes what
arrives, folds what it is told to fold, and answers. What it acknowledges is in its journal.
Nothing that a child sends can grow memory beyond stated bounds or reach the sum unchecked.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from headwater.core import admission
from headwater.core import members as membership
from headwater.core import round as rounds
from headwater.core.compress.prune import Mask
from headwater.node.announcing import UNSIGNED, Announcer, Voice
from headwater.node.choosing import Choosing
from headwater.node.envelope import Opener, Unproven, opened, unsigned
from headwater.node.heartbeat import beat_down
from headwater.node.hosting import (
    Arrival,
    Hosted,
    Opening,
    Refused,
    RoundResult,
    checked_tensors,
    fold,
    open_hosted,
    result_of,
    status_of,
)
from headwater.node.identity import Identity
from headwater.node.journal import Entry, Journal
from headwater.node.logs import about
from headwater.node.news import News
from headwater.node.observing import Came, Ended, NotTaken, Observer, Opened, Taken, Went, nobody
from headwater.node.observing import Declined as PlanDeclined
from headwater.node.pacing import Pacing
from headwater.node.providing import Provider
from headwater.node.receipts import Receipts
from headwater.node.service import together
from headwater.node.tasks import Background
from headwater.schemas.limits import MAX_COUNT
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import (
    Alive,
    Announcement,
    Chunk,
    Delta,
    ObjectRef,
    Offer,
    Plan,
    Reason,
    Receipt,
    Refusal,
    Rollout,
    RoundKey,
    Want,
)
from headwater.schemas.statuses import DataStatus, NodeStatus, RoundStatus
from headwater.schemas.tensors import TensorError
from headwater.schemas.topics import NodeTopic, Topics
from headwater.schemas.wire import WireError, decode, decode_object, decode_status, encode, reference
from headwater.transport.objects import Assembly, ObjectStore, chunk_count
from headwater.transport.session import Caller, Connect, LinkDown, Publication

log = logging.getLogger("headwater.node")

PROGRESS_EVERY_S: Final = 0.25
ASK_AGAIN_AFTER_S: Final = 1.0
INVITE_EVERY_S: Final = 0.25
MAX_ASSEMBLING_BYTES: Final = 256 * 1024 * 1024
MAX_BACKGROUND: Final = 1024
"""Answers under way at once; a child that misses one asks again."""

OFFERS_BEYOND_BYTES: Final = 64 * 1024 * 1024
"""When a cohort's deltas may be larger together, each waits for its turn to be sent."""

IN_FLIGHT_BYTES: Final = 16 * 1024 * 1024
GRANT_TIMEOUT_S: Final = 10.0
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Late deltas that came between two rounds; further ones come again."""

READ_ASIDE_BYTES: Final = 4 * 1024 * 1024
"""Where a delta may be larger reading one takes so long that it is done in a thread: .2 s of a million values."""

HEARTBEAT_S: Final = 30.0
MAX_DATA_KEYS: Final = 64
"""As many as a node's status has room for."""


def data_of(statuses: Iterable[NodeStatus]) -> dict[str, DataStatus]:
    """What some children say they have together, by data key; the first `MAX_DATA_KEYS` keys."""
    held: dict[str, list[DataStatus]] = {}
    for status in statuses:
        for key, of_key in status.data.items():
            held.setdefault(key, []).append(of_key)
    return {
        key: DataStatus(
            train_examples=min(MAX_COUNT, sum(one.train_examples for one in held[key])),
            test_examples=min(MAX_COUNT, sum(one.test_examples for one in held[key])),
        )
        for key in sorted(held)[:MAX_DATA_KEYS]
    }


@dataclass(frozen=True, slots=True)
class SiteLink:
    """A parent's link to its children's broker: the way to it, the name of its client there, and its last will.

    `on_connect` is what else it does first at each connection.
    """

    connect: Connect
    client: str
    will: Publication | None = None
    on_connect: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class Audience:
    """Who hears of a parent's rounds: `tell_people` publishes a round's status, `observe` is told what it sees."""

    tell_people: Callable[[RoundStatus], Awaitable[None]]
    observe: Observer = nobody


class Parent:
    """One node's side towards its children.

    Args:
        store: serves models and bundles; the caller puts them there before it hosts a round that names them.
        journal: holds what this parent acknowledged.
        heartbeat_s: how often it gives a sign of life, and looks whether its children do.
    """

    def __init__(
        self,
        link: SiteLink,
        identity: Identity,
        store: ObjectStore,
        journal: Journal,
        audience: Audience,
        *,
        voice: Voice = UNSIGNED,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._identity = identity
        self._link = link
        self._audience = audience
        self._observe = audience.observe
        self._trust = voice.trust
        self._heartbeat_s = heartbeat_s
        self._topics = Topics(identity.fleet)
        self._news = News()
        self._tasks = Background(MAX_BACKGROUND)
        self._members = membership.Members(identity.node)
        self._pacing = Pacing()
        self._choosing = Choosing(self._pacing)
        self._hosted: Hosted | None = None
        self._assemblies: dict[str, Assembly] = {}
        self._progress_at: dict[str, float] = {}
        self._queue = admission.open_queue(IN_FLIGHT_BYTES, GRANT_TIMEOUT_S)
        self._held: dict[tuple[str, bytes], bytes] = {}
        self._reading: dict[tuple[str, bytes], int] = {}
        self._one_at_a_time = asyncio.Lock()
        self._receipts = Receipts(journal, self._send_receipt)
        self.session = link.connect(self._caller())
        self._provider = Provider(self.session, self._topics, identity.node, store, self._tasks)
        self._announcer = Announcer(self.session, self._topics, identity.node, voice)

    def _caller(self) -> Caller:
        node = self._identity.node
        return Caller(
            fleet=self._identity.fleet,
            node=node,
            client=self._link.client,
            filters=(self._topics.status(), self._topics.all_up(node)),
            on_message=self._on_message,
            on_connect=self._on_connect,
            will=self._link.will,
        )

    @property
    def news(self) -> News:
        """Tells of every change in membership and in the round."""
        return self._news

    @property
    def members(self) -> dict[str, NodeStatus]:
        """All children that are known, as they last said of themselves; who is silent or moved away is offline."""
        return {
            node: member.status if member.absence is None else member.status.model_copy(update={"state": "offline"})
            for node, member in self._members.children.items()
        }

    def eligible(self, data: str) -> frozenset[str]:
        """The children that are online and have something under this data key, or lead others who may."""
        return frozenset(self._eligible(data))

    def _eligible(self, data: str) -> dict[str, NodeStatus]:
        return {name: status for name, status in self._members.present.items() if self._is_eligible(status, data)}

    def examples(self, data: str) -> dict[str, int]:
        """How many training examples each child that is online says it has under this data key."""
        there = self._members.present.items()
        return {node: status.data[data].train_examples for node, status in there if data in status.data}

    def data(self) -> dict[str, DataStatus]:
        """What the children that are online say they have together."""
        return data_of(self._members.present.values())

    def _is_eligible(self, status: NodeStatus, data: str) -> bool:
        """Whether it is worth asking: not who has nothing to give, or nothing that could be taken."""
        if self._trust is not None and not self._trust.is_known(status.node, status.certificate):
            return False
        return status.role == "gateway" or data in status.data

    async def run(self) -> None:
        """Stay connected, give signs of life, and notice who gives none. Raises what the session raises."""
        beating = beat_down(self.session, self._identity, self._heartbeat_s)
        await together(self.session.run(), beating, self._look_after())

    async def host(
        self,
        plan: Plan,
        manifest: Manifest,
        *,
        counted: frozenset[rounds.Contributor] = frozenset(),
        keep_payloads: bool = False,
        models: int = 1,
        places: tuple[str, ...] = (),
        masks: tuple[Mask, ...] = (),
    ) -> RoundResult:
        """Run one round to its end: everyone expected, enough of them, or the deadline.

        A round that this node, or an earlier process of it, began already goes on with what the journal has. The model
        and bundle that the plan names must be in the store.

        Args:
            counted: the updates that earlier rounds of the run hold, as far back as the plan takes them.
            keep_payloads: whether the result's contributions carry the encoded deltas.
            models: how many global models coexist.
            places: the children that have a model each, in the models' order, where the run has one for each.
            masks: what is left of each shared parameter of a pruned model.
        """
        loop = asyncio.get_running_loop()
        await self._tell_those_in_the_last()
        entries = await self._receipts.open(plan.key)
        plan = self._negotiated(plan)
        hosted = self._open(
            plan, manifest, entries, Opening(counted=counted, models=models, places=places, masks=masks)
        )
        hosted.keep_payloads = keep_payloads
        self._observe(Opened(plan.key, plan.task, len(hosted.round.cohort)))
        self._take_up(hosted, entries)
        await self._announcer.announce(self._announcement_of(hosted))
        model = plan.patch.patch if plan.patch is not None else plan.model
        beside = (plan.mask,) if plan.mask is not None else ()
        self._tasks.start(self._provider.broadcast((plan.bundle, *beside, model)))
        self._tasks.start(self._tell_progress(hosted))
        while hosted.round.state == "open":
            await self._news.wait(min(hosted.round.deadline_at - loop.time(), ASK_AGAIN_AFTER_S))
            self._perform(hosted, rounds.Tick(), None)
            self._ask_for_missing(loop.time())
            self._admit(admission.Tick())
            await self._invite(hosted, loop.time())
        return await self._ended(hosted, loop.time())

    def tell(self, status: RoundStatus) -> None:
        """Tell people more of a round that has ended."""
        self._tasks.start(self._say(status))

    async def close(self) -> None:
        """Tell the children that no round is open: whoever still sends may rest."""
        await self._tell_those_in_the_last()
        self._hosted = None
        self._assemblies.clear()
        self._held.clear()
        closed = self._announcer.current.closed
        await self._announcer.announce(Announcement(parent=self._identity.node, closed=closed))

    async def tell_release(self, rollout: Rollout, wheel: bytes | None) -> None:
        """Say what software the devices below should run, now and at each connection. The wheel may be left out where
        nobody is asked."""
        if wheel is not None:
            self._provider.keep(wheel)
        await self._announcer.tell_release(rollout)

    async def drain(self) -> None:
        """Before this node ends: what it has received goes into the journal, so that its round can go on from there."""
        await self._receipts.keep_all()

    # ── a round's beginning and end ─────────────────────────────────────────────────────────────────────────────

    def _open(self, plan: Plan, manifest: Manifest, entries: tuple[Entry, ...], opening: Opening) -> Hosted:
        now, eligible = asyncio.get_running_loop().time(), self._eligible(plan.data)
        opening = replace(
            opening,
            members=frozenset(eligible),
            chosen=self._choosing.chosen(plan, eligible),
            contributors=frozenset(entry.sender for entry in entries),
        )
        cohort = opening.members if opening.chosen.cohort is None else opening.chosen.cohort
        hosted = open_hosted(plan, manifest, opening, self.session.traffic, now, self._pacing.deadline_s(plan, cohort))
        self._hosted = hosted
        if not hosted.is_tolerant:
            # What is under way for an earlier round is late; nobody takes it.
            self._assemblies.clear()
            self._queue = admission.open_queue(IN_FLIGHT_BYTES, GRANT_TIMEOUT_S)
        return hosted

    def _negotiated(self, plan: Plan) -> Plan:
        """The plan without a patch that not everyone could read, or that this node has not: then the model goes out
        whole. A gateway that was rebooted fetched the model, and no patch."""
        if plan.patch is None:
            return plan
        if self._provider.has(plan.patch.patch) and all(
            plan.patch.codec in status.codecs for status in self._eligible(plan.data).values()
        ):
            return plan
        return plan.model_copy(update={"patch": None})

    def _take_up(self, hosted: Hosted, entries: tuple[Entry, ...]) -> None:
        """Fold what the journal has of this round, and what came for it before it began."""
        for entry in entries:
            self._on_delta(hosted, entry.sender, entry.payload, is_kept=True)
        if entries:
            log.info("round %d goes on with %d updates that were acknowledged", hosted.plan.key.round, len(entries))
        held, self._held = self._held, {}
        # They may be all that the round needs.
        self._perform(hosted, rounds.Tick(), None)
        for (sender, _), payload in held.items():
            self._on_delta(hosted, sender, payload)

    def _announcement_of(self, hosted: Hosted) -> Announcement:
        cohort = None if hosted.round.open_to_all else tuple(sorted(hosted.round.cohort))
        return Announcement(
            parent=self._identity.node,
            plan=hosted.plan,
            cohort=cohort,
            closed=self._announcer.current.closed,
            offers=len(hosted.round.cohort) * hosted.max_delta_bytes > OFFERS_BEYOND_BYTES,
        )

    async def _invite(self, hosted: Hosted, now: float) -> None:
        """Announce the round again where others take the places of those who declined, once in `INVITE_EVERY_S`."""
        told = self._announcer.current.cohort
        if told is None or len(told) == len(hosted.round.cohort) or now < hosted.invited_at + INVITE_EVERY_S:
            return
        hosted.invited_at = now
        await self._announcer.announce(self._announcement_of(hosted))

    async def _ended(self, hosted: Hosted, now: float) -> RoundResult:
        await self._receipts.end()
        self._announcer.note_closed(hosted.plan.key)
        told = self._status(hosted, now)
        self.tell(told)
        result = result_of(hosted, told, self.session.traffic)
        self._pacing.learn(hosted.plan, hosted.round, result.contributions, now)
        self._pacing.forget_others_than(self._members.children)
        self._choosing.learn(hosted.plan, hosted.round, result.contributions)
        self._choosing.forget_others_than(self._members.children)
        self._observe(Ended(result))
        return result

    async def _tell_those_in_the_last(self) -> None:
        """The last round's result is durable by now, and a sender that may be late is not told by the next round."""
        last = self._hosted
        if last is not None and last.is_tolerant and last.round.state == "closed":
            await self._receipts.send_all()

    async def say_again(self) -> None:
        """What is the case, with the certificate that this node has by now. Nothing where that is not known yet."""
        await self._announcer.say_again()

    async def _on_connect(self) -> None:
        if self._link.on_connect is not None:
            await self._link.on_connect()
        self._change_members(membership.Relinked())
        await self._announcer.on_connect()

    # ── who is there ────────────────────────────────────────────────────────────────────────────────────────────

    async def _look_after(self) -> None:
        """Notice who gives no sign of life, every `heartbeat_s` while the link is up."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            if self.session.connected:
                with about(self._hosted.plan.key if self._hosted is not None else None):
                    self._change_members(membership.Tick())

    def _on_status(self, topic: NodeTopic, payload: bytes) -> None:
        try:
            status = decode_status(payload, NodeStatus)
        except WireError as error:
            log.warning("dropped the status of %s: %s", topic.node, error)
            return
        if status.node == topic.node:
            self._change_members(membership.Said(status))

    def _change_members(self, event: membership.Event) -> None:
        self._members, effects = membership.step(self._members, event, asyncio.get_running_loop().time())
        for effect in effects:
            self._on_membership(effect)
        if effects:
            self._news.tell()

    def _on_membership(self, effect: membership.Effect) -> None:
        match effect:
            case membership.Restarted(node):
                log.info("%s started anew", node)
                self._joined(node)
            case membership.Appeared(node):
                self._observe(Came(node))
                self._joined(node)
            case membership.Changed(node) if self._hosted is None or node not in self._hosted.round.cohort:
                # One that is asked already, and declined, does not begin again for having more data.
                self._joined(node)
            case membership.Gone(node, why):
                log.info("%s is gone: %s", node, why)
                self._observe(Went(node, why))
                self._admit(admission.Finished(node))
                if self._hosted is not None:
                    self._perform(self._hosted, rounds.Left(node), None)
            case membership.TwoIdentities(node, boots):
                self._refuse(node, None, "two_identities", f"{node} runs twice, as {boots[0]} and as {boots[1]}")
            case membership.Full(node):
                self._refuse(
                    node, None, "unauthorised", f"this parent has as many children as it can; {node} is one more"
                )

    def _joined(self, node: str) -> None:
        hosted, status = self._hosted, self._members.children[node].status
        if hosted is not None and self._is_eligible(status, hosted.plan.data):
            self._perform(hosted, rounds.Joined(node), None)

    # ── what the children say ───────────────────────────────────────────────────────────────────────────────────

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        parsed = self._topics.parse(topic)
        if parsed is None:
            return
        with about(self._hosted.plan.key if self._hosted is not None else None):
            if parsed.branch == "status":
                self._on_status(parsed, payload)
            elif parsed.branch == "up" and parsed.parent == self._identity.node:
                self._on_up(parsed, payload)

    def _on_up(self, topic: NodeTopic, payload: bytes) -> None:
        node = topic.node
        member = self._members.children.get(node)
        if member is None or member.absence == "moved":
            self._refuse(node, None, "unauthorised", f"{node} is no child of {self._identity.node}")
            return
        try:
            if topic.leaf == "alive":
                alive = decode(payload, Alive)
                self._change_members(membership.Heard(node, alive.boot, alive.every_s))
                return
            self._change_members(membership.Heard(node))
            match topic.leaf:
                case "delta":
                    self._on_chunk(node, decode(payload, Chunk))
                case "offer":
                    self._on_offer(node, decode(payload, Offer))
                case "want":
                    self._provider.wanted(node, decode(payload, Want))
                case "refusal":
                    self._on_declined(node, decode(payload, Refusal))
        except WireError as error:
            self._refuse(node, None, "oversized" if error.reason == "oversized" else "malformed", str(error))

    def _on_chunk(self, node: str, chunk: Chunk) -> None:
        hosted = self._hosted
        if hosted is None:
            # No round was hosted since this node began or it was closed; the announcement says so to the sender, where
            # nobody has put an old one in its place.
            self._remind()
            return
        if chunk.object.size_bytes > hosted.max_delta_bytes:
            detail = f"{chunk.object.size_bytes} bytes; at most {hosted.max_delta_bytes}"
            self._refuse(node, hosted.plan.key, "oversized", detail)
            return
        if self._is_in(hosted, node, chunk.object) or (node, chunk.object.sha256) in self._reading:
            return
        assembly = self._assemblies.get(node)
        if assembly is None or assembly.ref != chunk.object:
            self._assemblies.pop(node, None)
            if not self._has_room_for(chunk.object):
                return
            assembly = self._assemblies[node] = Assembly(chunk.object)
        self._progress_at[node] = asyncio.get_running_loop().time()
        payload = assembly.add(chunk)
        self._admit(admission.Finished(node) if payload is not None else admission.Progressed(node))
        if payload is not None:
            del self._assemblies[node], self._progress_at[node]
            if hosted.max_delta_bytes > READ_ASIDE_BYTES:
                if self._tasks.start(self._read_aside(node, chunk.object, payload)):
                    self._reading[node, chunk.object.sha256] = chunk.object.size_bytes
            else:
                self._on_delta(hosted, node, payload)

    def _opener(self, node: str, *, is_kept: bool) -> Opener:
        """What takes a child's delta out of what arrived. What the journal has was checked before it went there, and
        its sender's certificate may have ended since."""
        if is_kept:
            return opened
        if self._trust is None:
            return unsigned
        member = self._members.children.get(node)
        return self._trust.proof(node, member.status.certificate if member is not None else "").opened

    async def _read_aside(self, node: str, ref: ObjectRef, payload: bytes) -> None:
        """As `_on_delta`, in a thread: one after the other, as they came, while signs of life go on."""
        try:
            async with self._one_at_a_time:
                hosted = None
                while hosted is not self._hosted:
                    # Another round may open in the meantime, and judges for itself.
                    hosted = self._hosted
                    if hosted is not None:
                        opener = self._opener(node, is_kept=False)
                        read = await asyncio.to_thread(_read, hosted, node, payload, opener, is_kept=False)
                if hosted is not None:
                    self._on_read(hosted, node, read)
        finally:
            self._reading.pop((node, ref.sha256), None)

    def _has_room_for(self, ref: ObjectRef) -> bool:
        """Whether one more may be put together, beside those being read; what those who have gone left half-way makes
        room."""
        assembling_bytes = ref.size_bytes + sum(self._reading.values())
        assembling_bytes += sum(other.ref.size_bytes for other in self._assemblies.values())
        if assembling_bytes > MAX_ASSEMBLING_BYTES:
            for node in self._assemblies.keys() - self._members.present.keys():
                assembling_bytes -= self._assemblies.pop(node).ref.size_bytes
        return assembling_bytes <= MAX_ASSEMBLING_BYTES

    def _on_delta(self, hosted: Hosted, node: str, payload: bytes, *, is_kept: bool = False) -> None:
        """`is_kept`: it comes from the journal."""
        opener = self._opener(node, is_kept=is_kept)
        self._on_read(hosted, node, _read(hosted, node, payload, opener, is_kept=is_kept))

    def _on_read(self, hosted: Hosted, node: str, read: "Arrival | _Unreadable") -> None:
        match read:
            case _Unreadable(key, reason, detail):
                self._refuse(node, key, reason, detail)
            case Arrival(delta):
                if read.is_kept:
                    self._receipts.has_kept(node, delta.key)
                self._perform(hosted, rounds.Arrived.of(delta), read)
                self._news.tell()

    def _on_offer(self, node: str, offer: Offer) -> None:
        hosted = self._hosted
        if hosted is None or not hosted.would_take(offer.key) or offer.object.size_bytes > hosted.max_delta_bytes:
            return
        if not self._is_in(hosted, node, offer.object):
            self._admit(admission.Offered(node, offer.object))

    def _is_in(self, hosted: Hosted, node: str, ref: ObjectRef) -> bool:
        """Whether a child reminds of what is in already, for which it is owed a receipt, and nothing else."""
        key = hosted.folded.get((node, ref.sha256))
        if key is None:
            return False
        if self._receipts.is_kept(node, key):
            self._receipts.owe_kept(node, key)
            return True
        return self._receipts.is_owed(node, key)

    def _on_declined(self, node: str, refusal: Refusal) -> None:
        hosted = self._hosted
        if refusal.key is None and refusal.sender == node:
            self._on_disbelieved(node, refusal)
            return
        if hosted is None or refusal.key != hosted.plan.key or refusal.sender != node:
            return
        log.warning("%s cannot follow round %d: %s (%s)", node, refusal.key.round, refusal.reason, refusal.detail)
        self._observe(PlanDeclined(node, refusal.key, refusal.reason, refusal.detail))
        hosted.refuse(Refused(node, refusal.reason, refusal.detail))
        if node in hosted.round.waiting:
            now = asyncio.get_running_loop().time()
            another = self._choosing.in_place_of(hosted, self._eligible(hosted.plan.data), now)
            # Asked first, for when nobody is left to wait for the round is over.
            if another is not None:
                self._perform(hosted, rounds.Invited(another), None)
        self._perform(hosted, rounds.Declined(refusal.key, node), None)
        self._news.tell()

    def _on_disbelieved(self, node: str, refusal: Refusal) -> None:
        """A child takes this parent's word for another's, or for an old one: somebody may have put one in its place."""
        log.warning("%s does not take this parent's word: %s (%s)", node, refusal.reason, refusal.detail)
        if self._hosted is not None:
            self._hosted.refuse(Refused(node, refusal.reason, refusal.detail))
        self._remind()

    def _remind(self) -> None:
        if self._announcer.may_remind(asyncio.get_running_loop().time()):
            self._tasks.start(self._announcer.say_again())

    # ── what is decided ─────────────────────────────────────────────────────────────────────────────────────────

    def _perform(self, hosted: Hosted, event: rounds.Event, arrival: Arrival | None) -> None:
        """One event through the engine, and its effects."""
        now = asyncio.get_running_loop().time()
        if isinstance(event, rounds.Arrived) and arrival is not None and arrival.is_kept:
            hosted.round, effects = rounds.taken_up(hosted.round, event)
        else:
            hosted.round, effects = rounds.step(hosted.round, event, now)
        for effect in effects:
            match effect:
                case rounds.Fold(_, factor) if arrival is not None:
                    fold(hosted, arrival, factor, now)
                    self._observe(Taken(arrival.delta.sender, len(arrival.payload)))
                case rounds.Hold(sender) if arrival is not None:
                    self._hold(sender, arrival.payload)
                case rounds.Acknowledge() if arrival is not None and not arrival.is_kept:
                    self._acknowledge(hosted, arrival)
                case rounds.Refuse(sender, reason, detail):
                    self._refuse(sender, event.key if isinstance(event, rounds.Arrived) else None, reason, detail)
                case rounds.Close():
                    self._news.tell()

    def _acknowledge(self, hosted: Hosted, arrival: Arrival) -> None:
        sender, key = arrival.delta.sender, arrival.delta.key
        if (sender, key) in hosted.round.tolerance.counted:
            # An earlier round's result holds it, which is durable.
            self._receipts.owe_kept(sender, key)
        else:
            self._receipts.owe(sender, key, arrival.payload)

    def _hold(self, sender: str, payload: bytes) -> None:
        if sum(map(len, self._held.values())) + len(payload) <= MAX_HELD_BYTES:
            self._held[sender, reference(payload).sha256] = payload

    def _admit(self, event: admission.Event) -> None:
        """Whoever's turn it is is asked for all of its delta."""
        self._queue, grants = admission.step(self._queue, event, asyncio.get_running_loop().time())
        for grant in grants:
            self._want(grant.sender, grant.object, tuple(range(chunk_count(grant.object))))

    def _ask_for_missing(self, now: float) -> None:
        """A delta that stopped half-way is asked for, once in `ASK_AGAIN_AFTER_S`."""
        for node, assembly in self._assemblies.items():
            if now - self._progress_at[node] >= ASK_AGAIN_AFTER_S:
                self._progress_at[node] = now
                self._want(node, assembly.ref, assembly.missing)

    def _want(self, node: str, ref: ObjectRef, missing: tuple[int, ...]) -> None:
        want = Want(object=ref, missing=missing)
        self._tasks.start(self._post(self._topics.inbox(node, "want"), encode(want)))

    async def _send_receipt(self, node: str, key: RoundKey) -> None:
        await self._post(self._topics.inbox(node, "receipt"), encode(Receipt(key=key, sender=self._identity.node)))

    def _refuse(self, node: str, key: RoundKey | None, reason: Reason, detail: str) -> None:
        log.warning("refused %s: %s (%s)", node, reason, detail)
        self._observe(NotTaken(node, key, reason, detail))
        if self._hosted is not None:
            self._hosted.refuse(Refused(node, reason, detail))
        refusal = Refusal(key=key, sender=self._identity.node, reason=reason, detail=detail[:1024])
        self._tasks.start(self._post(self._topics.inbox(node, "refusal"), encode(refusal)))

    async def _post(self, topic: str, payload: bytes) -> None:
        try:
            await self.session.publish(topic, payload)
        except LinkDown as error:
            log.info("an answer was lost with the link, the child will ask: %s", error)

    # ── for people ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _tell_progress(self, hosted: Hosted) -> None:
        told: RoundStatus | None = None
        while hosted.round.state == "open":
            status = self._status(hosted, asyncio.get_running_loop().time())
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
            await self._audience.tell_people(status)
        except LinkDown as error:
            log.debug("a status for people was lost with the link: %s", error)

    def _status(self, hosted: Hosted, now: float) -> RoundStatus:
        return status_of(hosted, self._identity.node, self.members, self.session.traffic, now)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Why bytes are no delta of this round. `key` is its own as far as that could be read, else the round's; None where
    nothing shows that the child sent them."""

    key: RoundKey | None
    reason: Reason
    detail: str


def _read(hosted: Hosted, node: str, payload: bytes, opener: Opener, *, is_kept: bool) -> Arrival | _Unreadable:
    key = hosted.plan.key
    try:
        delta = decode_object(opener(payload), Delta, max_size_bytes=hosted.max_delta_bytes)
        key = delta.key
        return Arrival(delta, checked_tensors(delta, node, hosted), payload, is_kept)
    except Unproven as error:
        return _Unreadable(None, error.reason, str(error))
    except (WireError, TensorError) as error:
        return _Unreadable(key, error.reason, str(error))
