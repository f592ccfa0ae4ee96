"""A parent that begins anew, without any broker: what its journal has is in its round, whoever is there by now."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headwater.node.hosting import RoundResult
from headwater.node.identity import Identity
from headwater.node.journal import Entry
from headwater.node.parent import Audience, Parent, SiteLink
from headwater.node.store import NodeStore
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Session
from support.fleets import MANIFEST, Fleet, contributors, hosted, plan

KEY = RoundKey(run="r", round=1)


async def silent(*_: object) -> None:
    return None


def begun(store: NodeStore) -> Parent:
    """A parent that nobody hears."""
    connect, identity = partial(Session, BrokerSettings()), Identity("plant", "gw", "gateway", None)
    return Parent(SiteLink(connect, "gw"), identity, ObjectStore(1000), store, Audience(silent))


def entry(sender: str) -> Entry:
    weight = 2.0 ** int(sender[1:])
    tensors = encode_tensors([np.full(MANIFEST.parameters[0].shape, weight, np.float32)])
    delta = Delta(key=KEY, sender=sender, task="train", weight=weight, examples=1, devices=1, tensors=tensors)
    return Entry(sender, encode(delta))


async def resumed(folder: Path, *senders: str, **changes: object) -> RoundResult:
    store, objects = NodeStore(folder / "gw.db", 10**6), ObjectStore(10**6)
    store.keep(KEY, [entry(sender) for sender in senders])
    parent = begun(store)
    birth = Identity("plant", "d9", "device", "gw").status("online", Fleet.data)
    parent._on_message(birth.topic, birth.payload, True)
    return await hosted(parent, plan(1, objects, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"deadline_s": 0.2, "quorum": 0.5}, id="a round for all"),
        pytest.param({"cohort": 0.5, "over_selection": 0.3}, id="fewer are enough, for fewer are there"),
        pytest.param({"deadline_s": 1e-9, "quorum": 0.5}, id="the deadline is over"),
        pytest.param({"cohort": 0.5, "over_selection": 0.3, "deadline_s": 1e-9}, id="both"),
    ],
)
async def test_all_that_was_acknowledged_is_in_the_round_that_is_opened_anew(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    result = await resumed(tmp_path, "d0", "d1", "d2", **changes)
    assert result.closed
    assert contributors(result) == {"d0", "d1", "d2"}
    assert result.refusals == ()
