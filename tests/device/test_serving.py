"""Serving: which model answers, how it is read, how often it may speak, and what is on the disk after a crash."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.graph import compile_bundle, export_inference
from headwater.core.graph.execution import Runnable
from headwater.core.models import autoencoder
from headwater.core.sketch import GAMMA, sketch, told_errors
from headwater.device.runtime.client import Worker
from headwater.device.runtime.trainer import Evaluation, Trainer
from headwater.device.serving import server as server_module
from headwater.device.serving.decision import Score, Standing, decide
from headwater.device.serving.foretold import MAX_WAITING as MAX_FORETOLD
from headwater.device.serving.foretold import Waiting, came, foretold
from headwater.device.serving.limiter import full, take
from headwater.device.serving.reading import Meaning, level_of, threshold_of
from headwater.device.serving.server import Server
from headwater.device.serving.shelf import Kept, Shelf
from headwater.device.sources import Dataset
from headwater.device.sources.live.feed import Feed, Following, LiveWindow
from headwater.node.child import Assignment
from headwater.schemas.manifest import Example, Manifest, Parameter
from headwater.schemas.messages import Bundle, Counts, Errors, Metric, Model, ObjectRef, Plan, RoundKey
from headwater.schemas.settings import ServingSettings
from headwater.schemas.sources import Channel, Forecast, SensorSource
from headwater.schemas.statuses import Prediction
from headwater.schemas.tensors import encode_tensor, encode_tensors
from headwater.schemas.wire import decode_status, encode, reference
from headwater.transport.link import LinkDown

# ── which model ─────────────────────────────────────────────────────────────────────────────────────────────────────


def standing(round_: int, name: str = "accuracy", value: float | None = None) -> Standing:
    return Standing("r", round_, f"{round_:064x}", None if value is None else Score(name, value))


@pytest.mark.parametrize(
    ("good", "served", "candidate", "action", "says"),
    [
        pytest.param(None, None, standing(1), "swap", "round 1 of r is the first here", id="the first"),
        pytest.param(None, None, standing(1, value=0.1), "swap", "first here", id="the first, however bad"),
        pytest.param(standing(1, value=0.9), standing(1), standing(2, value=0.95), "swap", "0.95", id="better"),
        pytest.param(standing(1, value=0.9), standing(1), standing(2, value=0.86), "swap", "0.86", id="within the bound"),
        pytest.param(standing(1, value=0.9), standing(1), standing(2, value=0.84), "keep", "round 1 of r, which stays", id="beyond"),
        pytest.param(standing(1), standing(1), standing(2), "swap", "nothing to measure it on", id="on trust"),
        pytest.param(standing(1, value=0.9), standing(2), standing(2), "keep", "served already", id="on trust, again"),
        pytest.param(standing(1, value=0.9), standing(2), standing(2, value=0.5), "roll back", "round 1 of r, which is served again", id="trust misplaced"),
        pytest.param(standing(1, value=0.9), standing(2), standing(3, value=0.5), "roll back", "round 1", id="and the next no better"),
        pytest.param(standing(1, value=0.9), standing(2), standing(2, value=0.9), "keep", "accuracy 0.9", id="trust deserved"),
        pytest.param(standing(1, "loss", 2.0), standing(1), standing(2, "loss", 2.09), "swap", "loss 2.09", id="a loss may rise a little"),
        pytest.param(standing(1, "loss", 2.0), standing(1), standing(2, "loss", 2.11), "keep", "too far", id="and no more"),
        pytest.param(standing(1, "loss", 2.0), standing(1), standing(2, value=0.1), "swap", "another score", id="another objective"),
    ],
)  # fmt: skip
def test_what_a_candidate_changes(
    good: Standing | None, served: Standing | None, candidate: Standing, action: str, says: str
) -> None:
    decision = decide(good, served, candidate, 0.05)
    assert decision.action == action
    assert says in decision.reason


# ── how often ───────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.sampled_from([1.0, 2.0, 7.0, 60.0, 600.0]),
    st.lists(st.floats(0, 20), min_size=1, max_size=300),
)
def test_no_minute_sees_more_than_it_may(per_minute: float, waits: list[float]) -> None:
    bucket, now, went = full(per_minute, 0.0), 0.0, []
    for wait in waits:
        now += wait
        bucket, may = take(bucket, per_minute, now)
        went += [now] if may else []
    for begin in went:
        # A hair less than a minute: sums of floats are not exact.
        assert sum(begin <= at < begin + 60 - 1e-6 for at in went) <= per_minute


def test_a_steady_stream_within_the_limit_is_never_held_back() -> None:
    bucket = full(60.0, 0.0)
    for second in range(0, 600, 2):
        bucket, may = take(bucket, 60.0, float(second))
        assert may
    bucket, may = take(bucket, 60.0, -1e9)
    assert may


# ── what it says ────────────────────────────────────────────────────────────────────────────────────────────────────


def said(meaning: Meaning, output: Sequence[float], x: Sequence[float] = (0.0,)) -> Prediction:
    values = np.array(output, np.float32), np.array(x, np.float32)
    return meaning.prediction(*values, node="d1", data="d", at_s=5.0, standing=standing(3))


@pytest.mark.parametrize(
    ("meaning", "output", "label", "probabilities", "alert"),
    [
        (Meaning("cross_entropy", True, ("ok", "worn")), [0.25, 0.75], "worn", (0.25, 0.75), False),
        (Meaning("cross_entropy", False), [0.0, np.log(3.0)], "1", (0.25, 0.75), False),
        (
            Meaning("cross_entropy", True, ("ok", "worn"), alert_labels=("worn",)),
            [0.25, 0.75],
            "worn",
            (0.25, 0.75),
            True,
        ),
        (Meaning("binary_cross_entropy", True, ("ok", "worn")), [0.25], "ok", (0.75, 0.25), False),
        (Meaning("binary_cross_entropy", False), [np.log(3.0)], "1", (0.25, 0.75), False),
        (Meaning("binary_cross_entropy", True), [0.25, 0.5], None, (0.25, 0.5), False),
    ],
)
def test_a_classifier_gives_a_label_and_its_probabilities(
    meaning: Meaning, output: list[float], label: str | None, probabilities: tuple[float, ...], alert: bool
) -> None:
    prediction = said(meaning, output)
    assert (prediction.label, prediction.alert) == (label, alert)
    assert prediction.probabilities == pytest.approx(probabilities, abs=1e-6)
    assert (prediction.time, prediction.model.round, prediction.node) == (5.0, 3, "d1")


def test_a_regression_gives_values_and_a_reconstruction_its_error() -> None:
    forecast = said(Meaning("mse", False, threshold=0.3), [1.5, -2.0])
    assert (forecast.value, forecast.threshold, forecast.alert) == ((1.5, -2.0), 0.3, False)
    usual = said(Meaning("reconstruction", False, threshold=1.0), [1.0, 1.0], [1.0, 2.0])
    assert (usual.error, usual.threshold, usual.alert) == (0.5, 1.0, False)
    assert said(Meaning("reconstruction", False, threshold=0.4), [1.0, 1.0], [1.0, 2.0]).alert
    assert not said(Meaning("reconstruction", False), [9.0], [1.0]).alert


def test_what_is_not_finite_is_not_said() -> None:
    with pytest.raises(ValueError, match="round 3 of r gives NaN"):
        said(Meaning("mse", False), [np.nan])


def test_a_level_is_of_the_kind_of_model_that_the_device_uses() -> None:
    fleet, personal = told_errors({"test": sketch([1.0]), "personal": sketch([9.0])})
    assert level_of((fleet, personal), {}) == fleet
    assert level_of((fleet, personal), {"own head": np.zeros(1)}) == fleet
    assert level_of((fleet, personal), {"personal w": np.zeros(1)}) == personal
    assert level_of((fleet,), {"personal w": np.zeros(1)}) is None
    assert level_of((), {}) is None


# ── what was foretold, and what came ────────────────────────────────────────────────────────────────────────────────


def forecast(at_s: float, value: float, threshold: float | None = 1.0) -> tuple[Prediction, np.ndarray]:
    meaning = Meaning("mse", False, threshold=threshold)
    return said(meaning, [value]).model_copy(update={"time": at_s}), np.array([[value]], np.float32)


def test_a_forecast_is_judged_when_what_it_foretold_has_come() -> None:
    waiting = foretold(foretold((), *forecast(1.0, 5.0)), *forecast(2.0, 5.0))
    waiting, usual = came(waiting, Following(np.array([4.5], np.float32), 1.0))
    assert usual is not None
    assert (usual.time, usual.value, usual.error, usual.threshold, usual.alert) == (1.0, (5.0,), 0.25, 1.0, False)
    waiting, odd = came(waiting, Following(np.array([2.0], np.float32), 2.0))
    assert odd is not None
    assert (odd.error, odd.alert) == (9.0, True)
    assert waiting == ()


def test_behind_a_gap_what_was_foretold_before_it_is_let_go() -> None:
    waiting = foretold((), *forecast(1.0, 5.0))
    waiting, none = came(foretold(waiting, *forecast(9.0, 5.0)), Following(np.array([5.0], np.float32), 8.0))
    assert (none, [one.prediction.time for one in waiting]) == (None, [9.0])
    assert came(waiting, Following(np.array([5.0], np.float32), 9.0))[1] is not None


def test_no_more_forecasts_wait_than_may() -> None:
    waiting: Waiting = ()
    for at_s in range(MAX_FORETOLD + 5):
        waiting = foretold(waiting, *forecast(float(at_s), 1.0))
    assert [one.prediction.time for one in (waiting[0], waiting[-1])] == [5.0, MAX_FORETOLD + 4.0]
    assert len(waiting) == MAX_FORETOLD


def test_without_a_threshold_there_is_an_error_and_no_alarm() -> None:
    _, judged = came(foretold((), *forecast(1.0, 5.0, None)), Following(np.array([0.0], np.float32), 1.0))
    assert judged is not None
    assert (judged.error, judged.alert) == (25.0, False)


def test_other_values_than_foretold_are_no_error_of_zero() -> None:
    with pytest.raises(ValueError, match="1 values foretold, 2 came"):
        came(foretold((), *forecast(1.0, 5.0)), Following(np.zeros(2, np.float32), 1.0))


def test_the_threshold_is_the_quantile_of_the_devices_own_errors() -> None:
    errors = np.linspace(0.1, 10.0, 1000)
    tally = Counts(split="test", name="error_sketch", values=encode_tensor(sketch(errors)))
    found = threshold_of([tally], 0.9)
    assert found is not None
    assert 9.1 / GAMMA <= found <= 9.1 * GAMMA
    assert threshold_of([], 0.9) is None


# ── what is on the disk ─────────────────────────────────────────────────────────────────────────────────────────────

MANIFEST = Manifest(
    model="m",
    objective="cross_entropy",
    parameters=(Parameter(name="w", shape=(1,)), Parameter(name="head", shape=(1,), personal=True)),
    x=Example(shape=(1,), dtype="float32"),
    y=Example(shape=(), dtype="int64", classes=2),
    metrics=("loss", "correct"),
)
BUNDLE = Bundle(manifest=MANIFEST, graphs={"infer": b"", "evaluate": b""})


def model(round_: int, accuracy: float) -> Model:
    tensors = encode_tensors([np.array([accuracy], np.float32), np.array([0.0], np.float32)])
    return Model(run="r", version=round_, tensors=tensors)


def test_a_model_comes_back_from_the_disk_as_it_was(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "serving" / "0-d")
    assert shelf.get() is None
    for round_ in (1, 2):
        (level,) = told_errors({"test": sketch([1.0, 4.0])}) if round_ == 2 else (None,)
        kept = Kept(standing(round_, value=0.5), BUNDLE, model(round_, 0.5), threshold=0.25, level=level)
        shelf.put(kept)
        assert shelf.get() == kept
    assert (tmp_path / "serving" / "0-d").stat().st_mode & 0o077 == 0
    assert [path.name for path in (tmp_path / "serving").iterdir()] == ["0-d"]


def test_a_file_from_before_fleets_told_their_errors_is_read(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "0-d")
    kept = Kept(standing(1), BUNDLE, model(1, 0.5), threshold=0.25)
    shelf.put(kept)
    (tmp_path / "0-d").write_bytes((tmp_path / "0-d").read_bytes().replace(b', "level": null', b""))
    assert shelf.get() == kept


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -1])
def test_a_torn_file_is_passed_over(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "0-d"
    Shelf(path).put(Kept(standing(1), BUNDLE, model(1, 0.5)))
    path.write_bytes(path.read_bytes()[:cut])
    assert Shelf(path).get() is None


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "0-d"
    Shelf(path).put(Kept(standing(1), BUNDLE, model(1, 0.5)))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert Shelf(path).get() is None


# ── the shell ───────────────────────────────────────────────────────────────────────────────────────────────────────

SENSOR = SensorSource(kind="mqtt", channels=(Channel(name="a", topic="a"),))


@dataclass
class Windows:
    """A live source of the test's own: its test part and its feed."""

    spec: SensorSource = SENSOR
    test_examples: int = 4
    x: np.ndarray = field(default_factory=lambda: np.zeros((4, 1), np.float32))
    feeds: list[Feed] = field(default_factory=list)

    def snapshot(self) -> Dataset:
        x, y = self.x, np.zeros(len(self.x), np.int64)
        return Dataset(x, y, x[: self.test_examples], y[: self.test_examples])

    def feed(self) -> Feed:
        self.feeds.append(Feed(16))
        return self.feeds[-1]


class Pretender:
    """A runtime whose models are as accurate as their first parameter says, and say it of every window."""

    opened = 0

    def __init__(self, bundle: Bundle) -> None:
        Pretender.opened += 1

    def evaluate(self, parameters: Sequence[np.ndarray], x: Any, y: Any, *, time_limit_s: float) -> Evaluation:
        right = float(parameters[0][0]) * len(x)
        return Evaluation((Metric(split="test", name="correct", total=right, weight=float(len(x))),), ())

    def infer(self, parameters: Sequence[np.ndarray], x: np.ndarray, *, slot: str, time_limit_s: float) -> np.ndarray:
        if x.max() > 100:
            raise ValueError("too hot")
        return np.array([[1 - parameters[0][0], parameters[0][0] + parameters[1][0]]], np.float32)


@dataclass
class Bench:
    """A server with its source, and what it published."""

    folder: Path
    settings: ServingSettings = field(default_factory=lambda: ServingSettings(enabled=True))
    source: Windows = field(default_factory=Windows)
    published: list[Prediction] = field(default_factory=list)
    linked: bool = True
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    open_bundle: Callable[[Bundle], Any] = lambda bundle: Pretender(bundle)
    bundle: Bundle = BUNDLE

    def __post_init__(self) -> None:
        self.server = Server(
            "d1",
            self.settings,
            {"d": self.source},  # type: ignore[dict-item]
            folder=self.folder,
            open_bundle=self.open_bundle,
            kept=lambda run: self.kept,
            publish=self.publish,
        )

    async def publish(self, payload: bytes) -> None:
        if not self.linked:
            raise LinkDown("away")
        self.published.append(decode_status(payload, Prediction))

    async def __aenter__(self) -> "Bench":
        self.task = asyncio.create_task(self.server.run())
        await self.until(lambda: bool(self.source.feeds))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, there: Callable[[], bool], limit_s: float = 5.0) -> None:
        async with asyncio.timeout(limit_s):
            while not there():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def round(self, round_: int, accuracy: float, task: str = "train", errors: tuple[Errors, ...] = ()) -> None:
        """Offer a round's model, and wait for what becomes of it."""
        before = sum(self.server.counts[action] for action in ("keep", "swap", "roll back"))
        sent = model(round_, accuracy)
        ref = reference(encode(sent))
        key, bundle = RoundKey(run="r", round=round_ + 1), reference(encode(self.bundle))
        plan = Plan(key=key, task=task, data="d", model=ref, bundle=bundle, errors=errors)  # type: ignore[arg-type]
        self.server.offer(Assignment(plan, sent, self.bundle, 0.0))
        if task == "train":
            await self.until(
                lambda: sum(self.server.counts[action] for action in ("keep", "swap", "roll back")) > before
            )

    async def window(self, value: float = 0.0, at_s: float = 1.0) -> None:
        before = self.server.counts.total()
        self.source.feeds[-1].offer(LiveWindow(np.array([value], np.float32), at_s))
        await self.until(lambda: self.server.counts.total() > before)
        await asyncio.sleep(0.01)

    async def followed(self, value: float, at_s: float) -> None:
        """What came behind the window of that time."""
        self.source.feeds[-1].offer(Following(np.array([value], np.float32), at_s))
        await asyncio.sleep(0.02)

    @property
    def round_served(self) -> int | None:
        served = self.server.served("d")
        return served.round if served else None


async def test_a_better_model_takes_over_and_a_bad_one_never_answers(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.window()
        assert bench.published == []
        await bench.round(1, 0.75)
        await bench.window(at_s=7.0)
        await bench.round(2, 0.9)
        await bench.window()
        await bench.round(3, 0.2)
        await bench.window()
        assert [prediction.model.round for prediction in bench.published] == [1, 2, 2]
        assert (bench.published[0].time, bench.published[0].label) == (7.0, "1")
        assert bench.server.counts["keep"] == 1


async def test_a_model_taken_on_trust_is_rolled_back_when_it_is_measured(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.round(1, 0.9)
        bench.source.test_examples = 0
        await bench.round(2, 0.2)
        assert bench.round_served == 2
        bench.source.test_examples = 4
        await bench.round(2, 0.2)
        assert bench.round_served == 1
        assert bench.server.counts["roll back"] == 1


async def test_after_a_reboot_the_last_good_model_answers_before_any_round(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.round(1, 0.75)
        await bench.round(2, 0.9)
        await bench.round(3, 0.1)
    async with Bench(tmp_path) as bench:
        assert bench.round_served == 2
        await bench.window()
        assert [prediction.model.round for prediction in bench.published] == [2]
        await bench.round(3, 0.1)
        assert bench.round_served == 2


@pytest.mark.parametrize(
    "kept",
    [{"own head": 0.05}, {"personal w": 0.9, "personal head": 0.05}, {"own head": 0.9, "personal head": 0.05}],
    ids=["personal parameters", "a personal model", "both"],
)
async def test_a_devices_own_model_is_served(kept: dict[str, float], tmp_path: Path) -> None:
    arrays = {name: np.array([value], np.float32) for name, value in kept.items()}
    async with Bench(tmp_path, kept=arrays) as bench:
        await bench.round(1, 0.9)
        await bench.window()
        assert bench.published[0].probabilities is not None
        assert bench.published[0].probabilities[1] > bench.published[0].probabilities[0]
    shelved = Shelf(tmp_path / "0-d").get()
    assert shelved is not None
    assert np.frombuffer(shelved.model.tensors[1].data, "<f4")[0] == np.float32(0.05)


# ── alarms ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Oddity(Pretender):
    """Its output is its first parameter, whatever it sees; on this device's test part its error is always 100."""

    def evaluate(self, parameters: Sequence[np.ndarray], x: Any, y: Any, *, time_limit_s: float) -> Evaluation:
        told = Counts(split="test", name="error_sketch", values=encode_tensor(len(x) * sketch([100.0])))
        return Evaluation((Metric(split="test", name="loss", total=100.0 * len(x), weight=float(len(x))),), (told,))

    def infer(self, parameters: Sequence[np.ndarray], x: np.ndarray, *, slot: str, time_limit_s: float) -> np.ndarray:
        return np.array([[parameters[0][0]]], np.float32)


RECONSTRUCTION = Bundle(
    manifest=MANIFEST.model_copy(update={"objective": "reconstruction", "y": None}), graphs=BUNDLE.graphs
)
FORECAST = Bundle(
    manifest=MANIFEST.model_copy(update={"objective": "mse", "y": Example(shape=(1,), dtype="float32")}),
    graphs=BUNDLE.graphs,
)
FLEET = told_errors({"test": sketch([0.1] * 99 + [10.0])})
"""One in a hundred of the fleet's errors is 10."""


def oddity(folder: Path, bundle: Bundle = RECONSTRUCTION, **settings: Any) -> Bench:
    source = Windows(spec=SENSOR.model_copy(update={"forecast": Forecast()})) if bundle is FORECAST else Windows()
    return Bench(folder, ServingSettings(enabled=True, **settings), source, open_bundle=Oddity, bundle=bundle)


@pytest.mark.parametrize(
    ("settings", "errors", "threshold"),
    [
        ({}, FLEET, 0.1),
        ({"alert_quantile": 0.999}, FLEET, 10.0),
        ({"alert_level": "own"}, FLEET, 100.0),
        ({}, (), 100.0),
    ],
    ids=["the fleet's", "the fleet's at the device's own quantile", "its own", "its own while nothing is told"],
)
async def test_what_is_an_alarm(
    settings: dict[str, Any], errors: tuple[Errors, ...], threshold: float, tmp_path: Path
) -> None:
    """An error of 25 where this device's own test part knows only 100."""
    async with oddity(tmp_path, **settings) as bench:
        await bench.round(1, 5.0, errors=errors)
        await bench.window(0.0)
    (told,) = bench.published
    assert told.error == 25.0
    assert told.threshold is not None
    assert threshold / GAMMA < told.threshold < threshold * GAMMA
    assert told.alert == (threshold < 25)


async def test_a_device_without_a_test_part_has_the_fleets_level(tmp_path: Path) -> None:
    async with oddity(tmp_path) as bench:
        bench.source.test_examples = 0
        await bench.round(1, 5.0)
        await bench.window(0.0)
        await bench.round(1, 5.0, errors=FLEET)
        await bench.window(0.0)
    assert [(told.threshold is None, told.alert) for told in bench.published] == [(True, False), (False, True)]


async def test_the_fleets_level_outlives_a_reboot_and_a_changed_quantile_decides_at_once(tmp_path: Path) -> None:
    async with oddity(tmp_path) as bench:
        await bench.round(1, 5.0, errors=FLEET)
        await bench.until((tmp_path / "0-d").exists)
    async with oddity(tmp_path, alert_quantile=0.999) as bench:
        await bench.window(0.0)
        await bench.window(3.0)
    assert [(told.error, told.alert) for told in bench.published] == [(25.0, True), (4.0, False)]


async def test_a_model_that_is_served_on_keeps_the_level_that_was_told_of_it(tmp_path: Path) -> None:
    """The next one is measured worse here, and what the fleet says now is of better models."""
    async with oddity(tmp_path) as bench:
        await bench.round(1, 5.0, errors=FLEET)
        bench.server._good["d"] = replace(bench.server._good["d"], runs=Better(RECONSTRUCTION))
        await bench.round(2, 6.0, errors=told_errors({"test": sketch([1000.0])}))
        assert bench.round_served == 1
        await bench.window(0.0)
    assert bench.published[-1].alert


class Better(Oddity):
    def evaluate(self, parameters: Sequence[np.ndarray], x: Any, y: Any, *, time_limit_s: float) -> Evaluation:
        return Evaluation((Metric(split="test", name="loss", total=1.0, weight=float(len(x))),), ())


async def test_a_forecast_is_told_at_once_and_again_with_its_error(tmp_path: Path) -> None:
    async with oddity(tmp_path, FORECAST) as bench:
        await bench.round(1, 5.0, errors=FLEET)
        await bench.window(at_s=7.0)
        await bench.followed(5.1, at_s=7.0)
        await bench.window(at_s=8.0)
        await bench.followed(0.0, at_s=8.0)
    assert [(told.time, told.value, told.error is None, told.alert) for told in bench.published] == [
        (7.0, (5.0,), True, False),
        (7.0, (5.0,), False, False),
        (8.0, (5.0,), True, False),
        (8.0, (5.0,), False, True),
    ]
    assert bench.published[-1].error == 25.0


async def test_of_a_label_that_is_a_number_no_error_is_told(tmp_path: Path) -> None:
    async with oddity(tmp_path, FORECAST) as bench:
        bench.source.spec = SENSOR
        await bench.round(1, 5.0, errors=FLEET)
        await bench.window(at_s=7.0)
        await bench.followed(0.0, at_s=7.0)
    assert [told.error for told in bench.published] == [None]


async def test_what_the_link_does_not_take_is_dropped_and_counted(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.round(1, 0.9)
        bench.linked = False
        await bench.window()
        bench.linked = True
        await bench.window(at_s=2.0)
        assert [prediction.time for prediction in bench.published] == [2.0]
        assert bench.server.counts["dropped, for the link is down"] == 1


async def test_no_more_goes_out_than_a_minute_may_see(tmp_path: Path) -> None:
    async with Bench(tmp_path, ServingSettings(enabled=True, max_per_minute=2.0)) as bench:
        await bench.round(1, 0.9)
        for _ in range(5):
            await bench.window()
        assert len(bench.published) == 1
        assert bench.server.counts["held back by max_per_minute"] == 4


async def test_alerts_alone_are_published_where_only_they_are_asked_for(tmp_path: Path) -> None:
    settings = ServingSettings(enabled=True, publish="alerts", alert_labels=("1",))
    async with Bench(tmp_path, settings) as bench:
        await bench.round(1, 0.2)
        await bench.window()
        await bench.round(2, 0.9)
        await bench.window()
        assert [(prediction.model.round, prediction.alert) for prediction in bench.published] == [(2, True)]


async def test_a_window_that_fails_costs_itself_alone(tmp_path: Path) -> None:
    async with Bench(tmp_path) as bench:
        await bench.round(1, 0.9)
        await bench.window(1000.0)
        await bench.window()
        assert len(bench.published) == 1
        assert bench.server.counts["windows that failed"] == 1


async def test_a_bundle_is_opened_once_and_the_statistics_pass_changes_nothing(tmp_path: Path) -> None:
    before = Pretender.opened
    async with Bench(tmp_path) as bench:
        await bench.round(0, 0.5, task="statistics")
        for round_ in range(1, 6):
            await bench.round(round_, 0.9)
    assert Pretender.opened == before + 1


async def test_short_rounds_do_not_wear_out_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(server_module.Shelf, "put", lambda self, kept: written.append(kept.standing.round))
    async with Bench(tmp_path) as bench:
        for round_ in range(1, 6):
            await bench.round(round_, 0.9)
        assert written == [1]
    assert written == [1, 5]


async def test_an_anomaly_is_told_by_the_real_runtime_with_its_threshold(tmp_path: Path) -> None:
    """An autoencoder whose test part is small numbers: a window of large ones is beyond the threshold, and alone is told."""
    compiled = compile_bundle(
        autoencoder(4, (8,), 2, rng=np.random.default_rng(0)), objective="reconstruction", name="a", classes=0
    )
    model_ = Model(run="r", version=1, tensors=encode_tensors(compiled.initial))
    worker = Worker()
    source = Windows(x=np.random.default_rng(1).normal(0, 0.1, (200, 4)).astype(np.float32), test_examples=200)
    settings = ServingSettings(enabled=True, publish="alerts", alert_quantile=0.99)
    bench = Bench(tmp_path, settings, source, open_bundle=lambda bundle: Trainer(bundle, worker))
    try:
        async with bench:
            refs = {"model": reference(encode(model_)), "bundle": reference(encode(compiled.bundle))}
            plan = Plan(key=RoundKey(run="r", round=2), task="train", data="d", **refs)
            bench.server.offer(Assignment(plan, model_, compiled.bundle, 0.0))
            await bench.until(lambda: bench.round_served == 1, limit_s=60)
            for scale in (0.01, 5.0):
                before = bench.server.counts["predictions"]
                bench.source.feeds[-1].offer(LiveWindow(np.full(4, scale, np.float32), scale))
                await bench.until(lambda before=before: bench.server.counts["predictions"] > before, limit_s=30)
            await bench.until(lambda: bool(bench.published))
    finally:
        worker.close()
    (told,) = bench.published
    assert (told.time, told.alert) == (5.0, True)
    assert told.error is not None
    assert told.threshold is not None
    assert told.error > 10 * told.threshold
    x = np.full((1, 4), 5.0, np.float32)
    runnable = Runnable(export_inference(autoencoder(4, (8,), 2, rng=np.random.default_rng(0)), compiled.initial))
    expected = np.mean(np.square(runnable.run({next(iter(runnable.inputs)): x})[runnable.outputs[0]] - x))
    assert told.error == pytest.approx(expected, rel=1e-5)


def test_a_model_without_an_infer_graph_is_not_served(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bundle = replace_graphs(BUNDLE, {"train": b""})
    plan = Plan(key=RoundKey(run="r", round=1), task="train", data="d", model=REF, bundle=REF)
    bench.server._consider("d", Assignment(plan, model(0, 0.5), bundle, 0.0))
    assert bench.round_served is None
    assert bench.server.counts["models that failed"] == 1


REF = ObjectRef(sha256=bytes(32), size_bytes=1)


def replace_graphs(bundle: Bundle, graphs: dict[str, bytes]) -> Bundle:
    return bundle.model_copy(update={"graphs": graphs})
