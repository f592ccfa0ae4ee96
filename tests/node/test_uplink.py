"""What an update leaves out is sent once, whatever becomes of its plan: at a device's link as at a gateway's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from headwater.core.compress import decode
from headwater.core.local import Memory
from headwater.gateway.uplink import Uplink
from headwater.node.child import Assignment
from headwater.node.store import NodeStore
from headwater.node.uplink import Link, going
from headwater.schemas.learning import Compression, Learning
from headwater.schemas.messages import Bundle, Delta, Model, Plan, RoundKey
from headwater.schemas.tensors import delta_specs
from headwater.schemas.wire import reference
from support.deltas import manifest

MANIFEST = manifest(4)
SPECS = delta_specs("train", MANIFEST)
QUARTER = Learning(uplink=Compression(codec="topk", fraction=0.25, values="fp32"))
RNG = np.random.default_rng(0)
FIRST = (8.0, 4.0, 2.0, 1.0)
NOTHING = (0.0, 0.0, 0.0, 0.0)


def plan(round_: int, attempt: int = 0, learning: Learning = QUARTER) -> Plan:
    key = RoundKey(run="r", round=round_, attempt=attempt)
    return Plan(key=key, task="train", data="d", model=reference(b"m"), bundle=reference(b"b"), learning=learning)


def delta(about: Plan, shares: Sequence[float] = ()) -> Delta:
    return Delta.model_construct(
        key=about.key, sender="gw", task="train", weight=1.0, examples=1, devices=1, shares=tuple(shares)
    )


def assignment(about: Plan) -> Assignment:
    return Assignment(about, Model.model_construct(), Bundle.model_construct(manifest=MANIFEST), 0.0)


class Gateway:
    """One that restarts before each of its words, with nothing but its disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _uplink(self) -> Uplink:
        return Uplink(NodeStore(self._folder / "gw.db", 2**20))

    async def sends(self, about: Plan, update: Sequence[float], shares: Sequence[float] = ()) -> list[list[float]]:
        """What its parent makes of a sum: of each model with a share."""
        terms = tuple(np.array(values, np.float32) for values in np.reshape(update, (-1, 4)))
        gone = await self._uplink().encoded(delta(about, shares), terms, assignment(about))
        return [tensor.tolist() for tensor in decode(gone.coded, len(terms) * SPECS)]

    async def hears_refused(self, key: RoundKey) -> None:
        await self._uplink().refused(key)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


async def test_what_is_left_out_goes_with_the_next_sum(gateway: Gateway) -> None:
    assert await gateway.sends(plan(1), FIRST) == [[8, 0, 0, 0]]
    assert await gateway.sends(plan(2), NOTHING) == [[0, 4, 0, 0]]


async def test_a_sum_that_was_refused_goes_with_the_next_one(gateway: Gateway) -> None:
    await gateway.sends(plan(1), FIRST)
    await gateway.hears_refused(plan(1).key)
    assert await gateway.sends(plan(2), NOTHING) == [[8, 0, 0, 0]]


@pytest.mark.parametrize("attempt", [0, 1], ids=["after a restart", "another attempt"])
async def test_a_round_that_begins_again_counts_its_update_once(gateway: Gateway, attempt: int) -> None:
    await gateway.sends(plan(1), FIRST)
    assert await gateway.sends(plan(1, attempt), FIRST) == [[8, 0, 0, 0]]
    assert await gateway.sends(plan(2), NOTHING) == [[0, 4, 0, 0]]


async def test_an_attempt_that_was_refused_and_is_tried_again_counts_once(gateway: Gateway) -> None:
    await gateway.sends(plan(1), FIRST)
    await gateway.hears_refused(plan(1).key)
    assert await gateway.sends(plan(1, attempt=1), FIRST) == [[8, 0, 0, 0]]


async def test_of_models_that_coexist_each_has_its_own_rest(gateway: Gateway) -> None:
    """The first round is about both models, the second about the other one alone, the third about both again."""
    assert await gateway.sends(plan(1), (8, 4, 2, 1, 0, 0, 0, 3), shares=(1, 1)) == [[8, 4, 0, 0], [0, 0, 0, 0]]
    assert await gateway.sends(plan(2), NOTHING, shares=(0, 1)) == [[0, 0, 0, 3]]
    assert await gateway.sends(plan(3), 2 * NOTHING, shares=(1, 1)) == [[0, 0, 2, 1], [0, 0, 0, 0]]


def test_a_device_that_is_asked_again_counts_its_update_once() -> None:
    about, again = plan(1), plan(1, attempt=1)
    terms = (np.array(FIRST, np.float32),)
    first = going(delta(about), terms, Link(about, MANIFEST, QUARTER.uplink), {}, RNG)
    memory = Memory().after(about.key, {}, first.if_taken, first.if_refused)
    second = going(delta(again), terms, Link(again, MANIFEST, QUARTER.uplink), memory.at(again.key), RNG)
    assert second.delta.coded == first.delta.coded


# ── what devices did is not done again ──────────────────────────────────────────────────────────────────────────


async def test_a_gateway_adds_no_momentum_to_its_devices(gateway: Gateway) -> None:
    learning = Learning(uplink=QUARTER.uplink.model_copy(update={"momentum": 0.5}))
    assert await gateway.sends(plan(1, learning=learning), (0, 0, 0, 1)) == [[0, 0, 0, 1]]
    assert await gateway.sends(plan(2, learning=learning), FIRST) == [[8, 0, 0, 0]]
    assert await gateway.sends(plan(3, learning=learning), NOTHING) == [[0, 4, 0, 0]]


async def test_what_was_drawn_below_is_made_no_larger(gateway: Gateway) -> None:
    drawn = Compression(codec="randk", fraction=0.5, values="fp32", feedback=False)
    about = plan(1, learning=Learning(uplink=drawn))
    below = going(delta(about), (np.array(FIRST, np.float32),), Link(about, MANIFEST, drawn), {}, RNG)
    sent = decode(below.delta.coded, SPECS)[0].tolist()
    assert sorted(value for value in sent if value) == sorted(2 * v for s, v in zip(sent, FIRST, strict=True) if s)
    assert await gateway.sends(about, sent) == [sent]


def test_a_sketch_has_no_momentum_but_the_clouds() -> None:
    learning = Learning(uplink=Compression(codec="sketch", rows=1, columns=64, momentum=0.9, values="fp32"))
    memory, sent = Memory(), []
    for round_ in (1, 2):
        about = plan(round_, learning=learning)
        link = Link(about, MANIFEST, learning.uplink)
        gone = going(delta(about), (np.array(FIRST, np.float32),), link, memory.at(about.key), RNG)
        memory = memory.after(about.key, {}, gone.if_taken, gone.if_refused)
        sent.append(gone.delta.coded)
    assert sent[0] == sent[1]
