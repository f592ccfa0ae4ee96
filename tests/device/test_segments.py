"""A plan that is cut into segments ends as if it had not been; what differs between devices and steps does differ."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from graphs import dense, dense_weights, forward, node
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.batches import minibatches, shuffling
from headwater.core.graph import compile_bundle
from headwater.core.models import mlp
from headwater.device.runtime import trainer as trainer_module
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.runtime.failures import GraphRefused
from headwater.device.runtime.steps import Course, Pace, Steps
from headwater.device.runtime.trainer import Carry, Extras, Trainer
from headwater.device.sources.dataset import Dataset
from headwater.schemas.messages import RoundKey
from headwater.schemas.run import LocalTraining

KEY = RoundKey(run="r", round=3)


def course(epochs: int = 3, batch_size: int = 7, node: str = "d", seed: int = 5) -> Course:
    return Course(batch_size, epochs, 0.05, seed=seed, key=KEY, node=node)


def some(n: int = 50) -> Dataset:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    y = rng.integers(0, 3, n)
    return Dataset(x, y, x, y)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker(Bounds(niceness=0))
    yield started
    started.close()


def compiled(variant: str = "plain", **local: object):  # type: ignore[no-untyped-def]
    return compile_bundle(
        mlp(6, (5,), 3, rng=np.random.default_rng(0)),
        objective="cross_entropy",
        name="m",
        variant=variant,  # type: ignore[arg-type]
        local=LocalTraining.model_validate(local),
    )


def in_segments_of(trainer: Trainer, start: tuple, data: Dataset, most: int, extras: Extras | None = None) -> Carry:  # type: ignore[type-arg]
    training = trainer.training(trainer.begin(start), start, extras)
    steps = Steps(course(), len(data.train_x))
    while segment := steps.take(most):
        training.advance(segment, data, 0.05, limit_s=10)
    return training.carry


@pytest.mark.parametrize("most", [1, 3, 8, 10])
@pytest.mark.parametrize(
    ("variant", "local"),
    [
        ("plain", {}),
        ("plain", {"optimiser": "adam"}),
        ("plain", {"optimiser": "nesterov", "clip_norm": 0.5, "weight_decay": 0.01}),
        ("proximal", {}),
        ("corrected", {"optimiser": "momentum"}),
    ],
)
def test_segments_leave_no_trace(most: int, variant: str, local: dict[str, object], worker: Worker) -> None:
    made, data = compiled(variant, **local), some()
    trainer = Trainer(made.bundle, worker)
    whole = in_segments_of(trainer, made.initial, data, 10_000)
    cut = in_segments_of(trainer, made.initial, data, most)
    for one, other in zip((*whole.parameters, *whole.slots), (*cut.parameters, *cut.slots), strict=True):
        np.testing.assert_array_equal(one, other)
    assert cut.weight == whole.weight == 150.0
    assert cut.epochs == whole.epochs == 3
    for name, total in whole.sums.items():
        np.testing.assert_allclose(cut.sums[name], total, rtol=1e-5)


def test_rows_that_are_picked_for_a_segment_are_the_rows_of_the_whole(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, data = compiled(), some()
    trainer = Trainer(made.bundle, worker)
    whole = in_segments_of(trainer, made.initial, data, 3)
    monkeypatch.setattr(trainer_module, "WHOLE_SIZE_BYTES", 0)
    picked = in_segments_of(trainer, made.initial, data, 3)
    for one, other in zip(whole.parameters, picked.parameters, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_correction_moves_every_step_and_noise_comes_from_the_device(worker: Worker) -> None:
    data = some()
    made = compiled("corrected")
    trainer = Trainer(made.bundle, worker)
    plain = in_segments_of(trainer, made.initial, data, 100)
    ones = [np.ones(p.shape, np.float32) for p in made.manifest.trainable]
    pushed = in_segments_of(trainer, made.initial, data, 100, Extras(corrections=ones))
    assert all((one != other).any() for one, other in zip(plain.parameters, pushed.parameters, strict=True))
    noisy = compiled("clipped")
    trainer = Trainer(noisy.bundle, worker)
    with pytest.raises(GraphRefused, match="give it entropy"):
        in_segments_of(trainer, noisy.initial, data, 100)
    results = [
        in_segments_of(
            trainer,
            noisy.initial,
            data,
            100,
            Extras(noise=np.random.default_rng(seed), hyperparameters={"noise_multiplier": 1.0}),
        )
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(results[0].parameters[0], results[1].parameters[0])
    assert (results[0].parameters[0] != results[2].parameters[0]).any()


def test_a_model_that_draws_gets_seeds_and_stays_the_same_when_cut(worker: Worker) -> None:
    nodes = [dense("x", "h"), node("Dropout", "h", "ratio", "training", out="y")]
    weights = {**dense_weights(6, 3), "ratio": np.array(0.5, np.float32), "training": np.array(True)}
    made = compile_bundle(forward(nodes, weights), objective="cross_entropy", name="m", classes=3)
    assert made.manifest.random
    trainer, data = Trainer(made.bundle, worker), some()
    whole, cut = (in_segments_of(trainer, made.initial, data, most) for most in (1000, 2))
    for one, other in zip(whole.parameters, cut.parameters, strict=True):
        np.testing.assert_array_equal(one, other)


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_steps_are_those_of_the_plan_wherever_they_are_cut(n: int, batch: int, epochs: int, cuts: list[int]) -> None:
    given_ = Course(batch, epochs, 0.1, seed=9, key=KEY, node="d")
    steps, parts = Steps(given_, n), []
    while segment := steps.take(cuts[len(parts) % len(cuts)]):
        parts.append(segment)
    order, mask = minibatches(n, batch, epochs, shuffling(9, KEY, "d"))
    np.testing.assert_array_equal(np.concatenate([part.order for part in parts]), order)
    np.testing.assert_array_equal(np.concatenate([part.mask for part in parts]), mask)
    once = Steps(given_, n).take(10_000)
    assert once is not None
    np.testing.assert_array_equal(np.concatenate([part.seeds for part in parts]), once.seeds)
    each = len(order) // epochs
    done = 0
    for part in parts:
        done += part.steps
        assert part.epochs == done // each


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 4))
def test_steps_begin_at_any_epoch_as_if_they_had_come_to_it(n: int, epochs: int, begin: int) -> None:
    whole = Steps(Course(4, epochs, 0.1, seed=9, key=KEY, node="d"), n).take(10_000)
    rest = Steps(Course(4, epochs, 0.1, seed=9, key=KEY, node="d"), n, begin=begin).take(10_000)
    assert whole is not None
    each = whole.steps // epochs
    if begin >= epochs:
        assert rest is None
        return
    assert rest is not None
    np.testing.assert_array_equal(rest.order, whole.order[each * begin :])
    np.testing.assert_array_equal(rest.seeds, whole.seeds[each * begin :])


def test_seeds_differ_by_step_device_and_plan() -> None:
    seeds = [
        Steps(course(node=name, seed=seed), 50).take(10_000).seeds  # type: ignore[union-attr]
        for name, seed in (("d", 5), ("e", 5), ("d", 6))
    ]
    every = np.concatenate(seeds)
    assert len(set(every.tolist())) == len(every)
    assert every.min() >= 0


def test_a_plan_of_many_epochs_takes_no_more_memory_than_a_segment() -> None:
    steps = Steps(course(epochs=10_000, batch_size=100), 100_000)
    segment = steps.take(10**9)
    assert segment is not None
    assert segment.order.nbytes + segment.mask.nbytes < 4 * 2**20


def test_the_pace_begins_with_one_step_and_follows_the_clock() -> None:
    pace = Pace(target_s=0.3)
    assert pace.steps == 1
    for expected in (8, 64, 300, 300):
        pace.measured(pace.steps, pace.steps * 0.001)
        assert pace.steps == expected
    pace.measured(300, 30.0)
    assert pace.steps == 3
    pace.measured(1, 5.0)
    assert pace.steps == 1


# ── inference ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_inference_keeps_its_parameters_in_the_worker(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    made, data = compiled(), some()
    trainer = Trainer(made.bundle, worker)
    asked: list[str] = []
    ask = Worker.ask

    def counted(self: Worker, request, **how):  # type: ignore[no-untyped-def]
        asked.append(request.header["do"])
        return ask(self, request, **how)

    monkeypatch.setattr(Worker, "ask", counted)
    first = [trainer.infer(made.initial, data.test_x[:1], slot="serve", time_limit_s=5) for _ in range(3)]
    assert asked == ["run", "hold", "run", "run", "run"]
    assert first[0].shape == (1, 3)
    np.testing.assert_array_equal(first[0], first[2])
    doubled = tuple(2 * value for value in made.initial)
    assert (trainer.infer(doubled, data.test_x[:1], slot="serve", time_limit_s=5) != first[0]).any()
    worker.close()
    np.testing.assert_array_equal(trainer.infer(made.initial, data.test_x[:1], slot="serve", time_limit_s=5), first[0])
