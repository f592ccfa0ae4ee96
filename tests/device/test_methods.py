"""An agent follows its run's method on real graphs: batch by batch, over several trainings, and over a reboot."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.core.figures import by_device
from headwater.core.graph import Compiled, compile_bundle
from headwater.core.local import Measured, Measuring, Memory, Trained
from headwater.core.local import Training as Asked
from headwater.core.local.method import Method, Outcome, measure, train
from headwater.core.models import mlp
from headwater.device import coach as coach_module
from headwater.device.coach import Beside, Coach, Lesson
from headwater.device.memory import STEPS_PER_S, fitting, in_use
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.runtime.steps import Course, Pace
from headwater.device.runtime.trainer import Trainer, Training
from headwater.device.state import LocalState
from headwater.node.child import Assignment
from headwater.node.hosting import Opening, checked_tensors, open_hosted
from headwater.schemas.learning import Learning
from headwater.schemas.manifest import LOCAL_STEPS, Variant
from headwater.schemas.messages import Delta, Model, RoundKey
from headwater.schemas.tensors import decode_tensor, encode_tensors
from headwater.transport.session import Traffic
from support.deltas import untimed
from support.working import agent, assignment, classes

DATA = classes()


def made(variant: Variant = "plain", **compiling: Any) -> Compiled:
    network = mlp(4, (8,), 3, rng=np.random.default_rng(0))
    return compile_bundle(network, objective="cross_entropy", name="m", variant=variant, **compiling)


PLAIN, PROXIMAL = made(), made("proximal")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker(Bounds(niceness=0))
    yield started
    started.close()


def asked(of: Compiled = PLAIN, **changes: Any) -> Assignment:
    """A plan about the model; `learning` as a run's file has it."""
    learning = Learning.model_validate(changes.pop("learning", {}))
    return assignment(of.bundle, of.initial, learning=learning, batch_size=8, **changes)


def coach(worker: Worker, folder: Path, of: Compiled = PLAIN, **changes: Any) -> Coach:
    plan = asked(of, **changes).plan
    course = Course(plan.batch_size, plan.local_epochs, plan.learning_rate, plan.seed, plan.key, "d")
    until = asyncio.get_running_loop().time() + 30
    return Coach(Trainer(of.bundle, worker), Lesson(plan, course, DATA), LocalState(folder), Beside(), until)


async def delta_of(worker: Worker, folder: Path, what: Assignment) -> Delta:
    result = await agent(worker, folder, DATA).work(what)
    assert isinstance(result, Delta), result
    return result


# ── batch by batch ──────────────────────────────────────────────────────────────────────────────────────────────


def one_by_one(batches: int) -> Method:
    trained = None
    for batch in range(batches):
        trained = yield from train(Asked(trained.parameters if trained else PLAIN.initial, 1, 0.01, batch=batch))
    assert trained is not None
    return Outcome(trained, ())


def at_once(epochs: int) -> Method:
    trained = yield from train(Asked(PLAIN.initial, epochs, 0.01))
    return Outcome(trained, ())


async def test_all_batches_one_by_one_are_the_passes(worker: Worker, tmp_path: Path) -> None:
    each = -(-len(DATA.train_x) // 8)
    batches = await coach(worker, tmp_path, local_epochs=2).follow(one_by_one(2 * each))
    whole = await coach(worker, tmp_path, local_epochs=2).follow(at_once(2))
    assert whole.trained.steps == 2 * each
    for one, other in zip(batches.trained.parameters, whole.trained.parameters, strict=True):
        np.testing.assert_array_equal(one, other)


async def test_a_batch_is_taken_as_often_as_it_is_asked_for(worker: Worker, tmp_path: Path) -> None:
    def thrice() -> Method:
        many = yield from train(Asked(PLAIN.initial, 3, 0.01, batch=0))
        same: Trained | None = None
        for _ in range(3):
            same = yield from train(Asked(same.parameters if same else PLAIN.initial, 1, 0.01, batch=0))
        assert same is not None
        for one, other in zip(many.parameters, same.parameters, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (many.steps, many.weight) == (3, 24.0)
        return Outcome(many, ())

    await coach(worker, tmp_path).follow(thrice())


@pytest.mark.parametrize("numbers", [(1, 0), (8,)], ids=["gone by", "behind the last"])
async def test_batches_come_in_their_order(numbers: tuple[int, ...], worker: Worker, tmp_path: Path) -> None:
    def method() -> Method:
        for number in numbers:
            trained = yield from train(Asked(PLAIN.initial, 1, 0.01, batch=number))
        return Outcome(trained, ())

    with pytest.raises(ValueError, match="in their order"):
        await coach(worker, tmp_path).follow(method())


# ── what is measured and told ───────────────────────────────────────────────────────────────────────────────────


async def test_the_training_part_is_measured_and_not_told(worker: Worker, tmp_path: Path) -> None:
    def method() -> Method:
        found = yield from measure(PLAIN.initial, "train")
        assert found.means["loss"] > 0
        assert (yield Measuring(PLAIN.initial, ("test",))) == Measured()
        return (yield from at_once(1))

    following = coach(worker, tmp_path)
    await following.follow(method())
    assert following.told.metrics == ()


async def test_every_split_has_its_metrics_and_the_devices_place(worker: Worker, tmp_path: Path) -> None:
    learning = {"personal": {"method": "ditto", "baseline": True}}
    delta = await delta_of(worker, tmp_path, asked(PROXIMAL, learning=learning, evaluate=True))
    for split in ("test", "personal", "local"):
        means = {m.name: m.total / m.weight for m in delta.metrics if m.split == split}
        tallies = {t.name: decode_tensor(t.values) for t in delta.tallies if t.split == split}
        place = by_device(tallies)
        assert place is not None
        assert place.devices == 1
        assert place.mean == pytest.approx(means["correct"], abs=0.006)
    # Nothing is trained yet: all three are the received model.
    assert len({m.total for m in delta.metrics if m.name == "loss" and m.split != "train"}) == 1
    unmeasured = await delta_of(worker, tmp_path, asked(PROXIMAL, learning=learning, evaluate=False))
    assert {m.split for m in unmeasured.metrics} == {"train"}
    assert unmeasured.tallies == ()


async def test_fednova_tells_its_steps(worker: Worker, tmp_path: Path) -> None:
    delta = await delta_of(worker, tmp_path, asked(learning={"strategy": {"name": "fednova"}}, local_epochs=2))
    (steps,) = [m for m in delta.metrics if m.name == LOCAL_STEPS]
    assert (steps.total, steps.weight) == (60.0 * 16, 60.0)
    plain = await delta_of(worker, tmp_path, asked(local_epochs=2))
    for one, other in zip(delta.tensors, plain.tensors, strict=True):
        np.testing.assert_allclose(16 * decode_tensor(one), decode_tensor(other), rtol=1e-5, atol=1e-5)


async def test_of_several_models_a_delta_is_about_one(worker: Worker, tmp_path: Path) -> None:
    """The second is trained; so it fits, and its parent takes the delta for what it is."""
    trained = Trainer(PLAIN.bundle, worker).train(
        PLAIN.initial,
        DATA,
        course=Course(8, 5, 0.1, 0, RoundKey(run="r", round=1), "d"),
        time_limit_s=10,
    )
    what = asked(learning={"clusters": {"by": "likeness", "count": 2}}, evaluate=True)
    models = encode_tensors((*PLAIN.initial, *trained.parameters))
    what = replace(what, model=Model(run="r", version=0, tensors=models, clusters=("0", "1")))
    delta = await delta_of(worker, tmp_path, what)
    assert delta.shares == (0.0, 60.0)
    hosted = open_hosted(what.plan, PLAIN.manifest, Opening(members=frozenset("d"), models=2), Traffic(), 0.0)
    assert len(checked_tensors(delta, "d", hosted)) == len(PLAIN.manifest.shared)
    used = in_use(PLAIN.manifest, (PLAIN.initial, trained.parameters), LocalState(tmp_path).kept("r"))
    assert all(one is other for one, other in zip(used, trained.parameters, strict=True))


# ── over a reboot ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_reboot_in_the_second_training_does_not_cost_the_first(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coach_module, "CHECKPOINT_AFTER_S", 0.0)
    monkeypatch.setattr(Pace, "measured", lambda *_: None)
    done: list[int] = []
    advance, stop_at = Training.advance, 8 * 3 + 10

    def counting(self: Training, segment: Any, *rest: Any, **more: Any) -> None:
        if len(done) == stop_at:
            raise KeyboardInterrupt
        advance(self, segment, *rest, **more)
        done.append(segment.steps)

    monkeypatch.setattr(Training, "advance", counting)
    what = asked(PROXIMAL, learning={"personal": {"method": "ditto", "epochs": 3}}, local_epochs=3)
    with pytest.raises(KeyboardInterrupt):
        await agent(worker, tmp_path / "a", DATA).work(what)
    assert len(done) == stop_at
    stop_at = -1
    resumed = await delta_of(worker, tmp_path / "a", what)
    # The global training is not made again, nor the first epoch of the personal one.
    assert len(done) == 8 * 3 + 10 + 2 * 8
    whole = await delta_of(worker, tmp_path / "b", what)
    # They differ in how long it took alone.
    assert untimed(resumed) == untimed(whole)
    one, other = (LocalState(tmp_path / name).kept("r") for name in "ab")
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


async def test_epochs_follow_the_devices_own_pace(worker: Worker, tmp_path: Path) -> None:
    """One while it is not known; then as many as fit, to a most, also behind a reboot."""
    learning = {"pace": {"target_s": 1000.0, "max_epochs": 4}}
    weights = []
    for number in (1, 2):
        what = asked(learning=learning, key=RoundKey(run="r", round=number))
        delta = await delta_of(worker, tmp_path, what)
        weights.append(next(m.weight for m in delta.metrics if m.name == "loss"))
    assert weights == [60.0, 240.0]
    assert LocalState(tmp_path).kept("r")[STEPS_PER_S] > 0


def test_what_does_not_fit_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    first = PLAIN.manifest.parameters[0]
    sound = {f"personal {first.name}": np.zeros(first.shape, np.float32), "mixing": np.array(0.5)}
    wrong = {
        f"alone {first.name}": np.zeros((99,), np.float32),
        f"control {first.name}": np.full(first.shape, np.nan, np.float32),
        f"local {first.name}": np.zeros(first.shape),
        STEPS_PER_S: np.array(np.inf),
    }
    assert fitting(PLAIN.manifest, {**sound, **wrong}).keys() == sound.keys()
    assert caplog.text.count("begins anew") == 4


def test_the_personal_model_is_the_one_in_use() -> None:
    first = PLAIN.manifest.parameters[0]
    kept = Memory({f"personal {first.name}": np.ones(first.shape, np.float32)}).kept
    used = in_use(PLAIN.manifest, (PLAIN.initial,), kept)
    np.testing.assert_array_equal(used[0], 1.0)
    assert used[1] is PLAIN.initial[1]
