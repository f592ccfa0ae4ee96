"""What a device's coded update left out follows what became of it, over reboots; a memory that is damaged begins anew."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from headwater.core.compress import decode
from headwater.core.graph import compile_bundle
from headwater.core.models import mlp
from headwater.device.runtime.client import Bounds, Worker
from headwater.node.tasks import Background
from headwater.schemas.learning import Compression, Learning
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.tensors import delta_specs
from support.working import agent, assignment, classes

MADE = compile_bundle(mlp(4, (5,), 3, rng=np.random.default_rng(0)), objective="cross_entropy", name="m")
FEW = Compression(codec="topk", fraction=0.2, values="fp32")
ALL = Compression(codec="topk", fraction=1.0, values="fp32")
DATA = classes(20)
NEXT_TO_NOTHING = 1e-30

Update = tuple[np.ndarray, ...]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker(Bounds(niceness=0))
    yield started
    started.close()


async def update(worker: Worker, folder: Path, round_: int, link: Compression, refused: bool = False) -> Update:
    """What a device of that disk sends in a round: the first teaches something, in the others only what was left is
    sent. `refused`: it hears that this was not taken."""
    learning = Learning(uplink=link)
    plan = {"key": RoundKey(run="r", round=round_), "learning": learning, "batch_size": 8}
    if round_ > 1:
        plan["learning_rate"] = NEXT_TO_NOTHING
    device = agent(worker, folder, DATA)
    delta = await device.work(assignment(MADE.bundle, MADE.initial, **plan))
    assert isinstance(delta, Delta), delta
    if refused:
        device.refused(RoundKey(run="r", round=round_))
        await drained(device._noting)
    return decode(delta.coded, delta_specs("train", MADE.bundle.manifest, learning))


async def drained(background: Background) -> None:
    for task in tuple(background._tasks):
        await task


async def test_what_a_refused_update_had_goes_into_the_next_and_of_a_taken_one_what_was_left(
    worker: Worker, tmp_path: Path
) -> None:
    whole = await update(worker, tmp_path / "whole", 1, ALL)
    sent = await update(worker, tmp_path / "taken", 1, FEW)
    left = await update(worker, tmp_path / "taken", 2, ALL)
    again = await update(worker, tmp_path / "refused", 1, FEW, refused=True)
    everything = await update(worker, tmp_path / "refused", 2, ALL)
    for one, a, b, c, d in zip(whole, sent, left, again, everything, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_allclose(a + b, one, atol=1e-6)
        np.testing.assert_allclose(d, one, atol=1e-6)
    assert any(np.abs(b).max() > 0 for b in left)


@pytest.mark.parametrize("damage", [b"", b"torn"], ids=["empty", "torn"])
async def test_a_residual_that_is_damaged_is_lost_alone(worker: Worker, tmp_path: Path, damage: bytes) -> None:
    await update(worker, tmp_path, 1, FEW)
    (tmp_path / "memory" / "r").write_bytes(damage)
    left = await update(worker, tmp_path, 2, ALL)
    assert all(np.abs(value).max() < 1e-20 for value in left)
