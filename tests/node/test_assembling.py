"""What a parent puts together at once is bounded, and nobody who has gone holds the room of those who are there."""

import asyncio
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headwater.core.select import Chosen
from headwater.node import parent as parent_module
from headwater.node.hosting import Opening, open_hosted
from headwater.node.identity import Identity
from headwater.node.parent import Audience, Parent, SiteLink
from headwater.node.store import NodeStore
from headwater.schemas.manifest import Parameter
from headwater.schemas.messages import Delta
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore, chunks
from headwater.transport.session import Session, Traffic
from support.fleets import MANIFEST, Fleet, plan

TOPICS = Topics("plant")
WIDE = MANIFEST.model_copy(update={"parameters": (Parameter(name="w", shape=(100_000,)),)})


async def silent(*_: object) -> None:
    return None


@pytest.mark.parametrize("has_gone", [True, False])
async def test_what_a_child_that_has_gone_left_half_way_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gone: bool
) -> None:
    monkeypatch.setattr(parent_module, "MAX_ASSEMBLING_BYTES", 500_000)
    connect, journal = partial(Session, BrokerSettings()), NodeStore(tmp_path / "gw.db", 10**7)
    identity = Identity("plant", "gw", "gateway", None)
    parent = Parent(SiteLink(connect, "gw"), identity, ObjectStore(1000), journal, Audience(silent))
    children = {node: Identity("plant", node, "device", "gw") for node in ("d0", "d1")}
    about = plan(1, ObjectStore(10**6))

    def says(node: str, state: str) -> None:
        status = children[node].status(state, Fleet.data)  # type: ignore[arg-type]
        parent._on_message(status.topic, status.payload, False)

    def sends(node: str, *indices: int) -> None:
        tensors = encode_tensors([np.ones(100_000, np.float32)])
        delta = Delta(key=about.key, sender=node, task="train", weight=1.0, examples=1, devices=1, tensors=tensors)
        for chunk in chunks(encode(delta), indices):
            parent._on_message(TOPICS.up(node, "gw", "delta"), encode(chunk), False)

    for node in children:
        says(node, "online")
    now = asyncio.get_running_loop().time()
    parent._hosted = open_hosted(about, WIDE, Opening(frozenset(children), Chosen(None, 2)), Traffic(), now)
    sends("d0", 0)
    if has_gone:
        says("d0", "offline")
    sends("d1", 0, 1)
    assert sorted(parent._hosted.round.received) == (["d1"] if has_gone else [])
