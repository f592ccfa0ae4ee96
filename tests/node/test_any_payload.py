"""Whatever bytes come on whatever topic, a parent and a child live on, and nothing reaches a round."""

import asyncio
import contextlib
from functools import partial
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.select import Chosen
from headwater.node.child import Child
from headwater.node.hosting import Opening, open_hosted
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.parent import Audience, Parent, SiteLink
from headwater.node.store import NodeStore
from headwater.schemas.messages import Announcement, Chunk, Delta, Plan, Receipt, Refusal, RoundKey, Want
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.statuses import NodeStatus
from headwater.schemas.topics import DOWN, INBOX, UP, Topics
from headwater.schemas.wire import encode, encode_status, reference
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Session, Traffic
from support.deltas import manifest

TOPICS = Topics("plant")
REF = reference(b"x")
PLAN = Plan(key=RoundKey(run="r", round=1), task="train", data="d", model=REF, bundle=REF)
MANIFEST = manifest(1)
HONEST = [
    encode(message)
    for message in (
        Announcement(parent="gw", plan=PLAN),
        Chunk(object=REF, offset=0, data=b"x"),
        Want(object=REF, missing=(0,)),
        Receipt(key=PLAN.key, sender="gw"),
        Refusal(key=None, sender="gw", reason="stale"),
        Delta(key=PLAN.key, sender="d1", task="evaluate", weight=1.0, examples=1, devices=1),
    )
]
TOPIC_LIST = [
    TOPICS.status("d1"),
    TOPICS.echo("gw"),
    *(TOPICS.up("d1", "gw", leaf) for leaf in UP),
    *(TOPICS.inbox("d1", leaf) for leaf in INBOX),
    *(TOPICS.down("gw", leaf) for leaf in DOWN),
    TOPICS.round,
    "hw/1/plant/node/d1/up/gw/bomb",
    "anything",
]


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Random, or an honest message that was truncated, damaged, or is on the wrong topic."""
    honest = draw(st.sampled_from(HONEST))
    match draw(st.sampled_from(["random", "truncated", "damaged", "unversioned", "honest"])):
        case "random":
            return draw(st.binary(max_size=80))
        case "truncated":
            return honest[: draw(st.integers(0, len(honest) - 1))]
        case "damaged":
            position = draw(st.integers(0, len(honest) - 1))
            return honest[:position] + bytes([draw(st.integers(0, 255))]) + honest[position + 1 :]
        case "unversioned":
            return honest.replace(b"\xa1v\x01", b"\xa1w\x01")
    return honest


async def silent(*_: object) -> None:
    return None


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(TOPIC_LIST), payloads(), st.booleans()), max_size=12))
def test_no_payload_on_any_topic_breaks_a_node_or_reaches_a_round(messages: list[tuple[str, bytes, bool]]) -> None:
    async def feed() -> None:
        identity = Identity("plant", "gw", "gateway", "cloud")
        connect, nothing = partial(Session, BrokerSettings()), NodeStore(Path("never-written.db"), 1000)
        parent = Parent(SiteLink(connect, "gw"), identity, ObjectStore(1000), nothing, Audience(silent))
        child = Child(connect, Identity("plant", "d1", "device", "gw"), ObjectStore(1000), Outbox(nothing), data=dict)
        birth = NodeStatus(node="d1", role="device", parent="gw", state="online")
        parent._on_message(TOPICS.status("d1"), encode_status(birth), True)
        now = asyncio.get_running_loop().time()
        parent._hosted = open_hosted(PLAN, MANIFEST, Opening(frozenset({"d1"}), Chosen(None, 1)), Traffic(), now)
        for topic, payload, retained in messages:
            for node in (parent, child):
                node._on_message(topic, payload, retained)
        assert parent._hosted.round.received == {}
        assert parent._hosted.sum.totals == ()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(feed())
