"""A gateway's sums in few bytes: what the parent takes in the end is what the cluster gave, whatever happens between.

A stranger to how residuals are kept: it adds up what goes in, what was taken, and what a last round of everything says.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.core.compress import decode
from headwater.gateway.uplink import Uplink
from headwater.node.child import Assignment
from headwater.node.store import NodeStore
from headwater.schemas.learning import Clusters, Compression, Learning
from headwater.schemas.messages import Bundle, Delta, Model, Plan, RoundKey
from headwater.schemas.tensors import delta_specs
from headwater.schemas.wire import reference
from support.deltas import manifest

SIZE = 6
BUNDLE = Bundle(manifest=manifest(SIZE), graphs={"train": b"none"})
FEW = Compression(codec="topk", fraction=0.3, values="fp32")
ALL = Compression(codec="topk", fraction=1.0, values="fp32")
REF = reference(b"of no interest here")

Fate = Literal["taken", "refused", "not heard"]


@dataclass(frozen=True)
class Round:
    """One sum: which of two models it is about, what becomes of it, and whether the gateway is rebooted before it hears
    of that."""

    models: tuple[int, ...]
    fate: Fate = "taken"
    reboots: bool = False


class Gateway:
    """One, over its lives. `given` and `taken` are sums over rounds, `[2, SIZE]`, a row for each model."""

    def __init__(self, folder: Path, models: int) -> None:
        self._folder = folder
        self._models = models
        self._learning = Learning(clusters=Clusters(by="likeness") if models > 1 else Clusters())
        self._rng = np.random.default_rng(0)
        self.given, self.taken = np.zeros((2, SIZE)), np.zeros((2, SIZE))
        self.number = 0
        self.reboot()

    def reboot(self) -> None:
        self._uplink = Uplink(NodeStore(self._folder / "gw.db", 10**6), lambda: np.random.default_rng(1))

    async def sends(self, round_: Round, compression: Compression = FEW, value: float | None = None) -> None:
        self.number += 1
        shares = tuple(float(model in round_.models) for model in range(self._models))
        terms = [np.full(SIZE, value) if value is not None else self._rng.normal(size=SIZE) for _ in round_.models]
        terms = [np.asarray(term, np.float32) for term in terms]
        learning = self._learning.model_copy(update={"uplink": compression})
        key = RoundKey(run="r", round=self.number)
        plan = Plan(key=key, task="train", data="d", model=REF, bundle=REF, learning=learning)
        bare = Delta.model_construct(
            key=key,
            sender="gw",
            task="train",
            weight=sum(shares),
            examples=1,
            devices=1,
            metrics=(),
            tallies=(),
            applied=(),
            shares=shares if self._models > 1 else (),
        )
        assignment = Assignment(plan, Model(run="r", version=0, tensors=()), BUNDLE, 0.0)
        delta = await self._uplink.encoded(bare, terms, assignment)
        self.given[list(round_.models)] += terms
        if round_.fate != "refused":
            specs = delta_specs("train", BUNDLE.manifest, learning, len(round_.models))
            self.taken[list(round_.models)] += decode(delta.coded, specs)
        if round_.reboots:
            self.reboot()
        if round_.fate == "refused":
            await self._uplink.refused(key)

    async def comes_clean(self) -> None:
        """A last sum of nothing, of which all is sent."""
        await self.sends(Round(tuple(range(self._models))), ALL, 0.0)


def after(models: int, *rounds: Round) -> Gateway:
    async def lives(folder: Path) -> Gateway:
        gateway = Gateway(folder, models)
        for round_ in rounds:
            await gateway.sends(round_)
        await gateway.comes_clean()
        return gateway

    with TemporaryDirectory() as folder:
        return asyncio.run(lives(Path(folder)))


fates = st.sampled_from(["taken", "refused", "not heard"])
of_one = st.builds(Round, st.just((0,)), fates, st.booleans())
of_two = st.builds(Round, st.sampled_from([(0,), (1,), (0, 1)]), fates, st.booleans())


@settings(max_examples=15, deadline=None)
@given(
    st.one_of(st.tuples(st.just(1), st.lists(of_one, max_size=6)), st.tuples(st.just(2), st.lists(of_two, max_size=6)))
)
def test_nothing_of_a_sum_is_lost_and_nothing_goes_up_twice(drawn: tuple[int, list[Round]]) -> None:
    models, rounds = drawn
    gateway = after(models, *rounds)
    np.testing.assert_allclose(gateway.taken, gateway.given, atol=1e-4)


@pytest.mark.parametrize(
    "rounds",
    [
        (Round((0,), "refused"),),
        (Round((0,), "refused", reboots=True),),
        (Round((0,)), Round((1,)), Round((0,), "refused", reboots=True), Round((0, 1))),
    ],
    ids=["refused", "refused behind a reboot", "about other models each time"],
)
def test_what_was_not_taken_goes_up_with_the_next_sum(rounds: tuple[Round, ...]) -> None:
    gateway = after(2, *rounds)
    np.testing.assert_allclose(gateway.taken, gateway.given, atol=1e-5)
    assert np.abs(gateway.given).max() > 0.1


async def test_a_residual_that_is_damaged_is_lost_alone(tmp_path: Path) -> None:
    """The gateway goes on with nothing left over, and says so."""
    gateway = Gateway(tmp_path, 1)
    await gateway.sends(Round((0,)))
    NodeStore(tmp_path / "gw.db", 10**6).keep_left("r", b"torn")
    gateway.reboot()
    lost = gateway.given - gateway.taken
    await gateway.sends(Round((0,)))
    await gateway.comes_clean()
    np.testing.assert_allclose(gateway.given - gateway.taken, lost, atol=1e-5)
    assert np.abs(lost).max() > 0


async def test_another_runs_residual_does_not_go_into_this_one(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, 1)
    NodeStore(tmp_path / "gw.db", 10**6).keep_left("another", b"of its own")
    await gateway.sends(Round((0,)))
    await gateway._uplink.refused(RoundKey(run="another", round=1))
    await gateway.comes_clean()
    np.testing.assert_allclose(gateway.taken, gateway.given, atol=1e-5)
