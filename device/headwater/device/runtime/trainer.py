"""Law: a plan is trained in segments of steps that leave no trace: between two of them anything may happen, or nothing.

What comes out of a segment goes into the next: parameters, the optimiser's slots, and the metrics' sums, which add up
in float64. What comes out is checked; the graphs run in the worker, and here only arrays are seen.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.figures import place_of_device
from headwater.device.runtime.client import UnknownBundle, UnknownSlot, Worker
from headwater.device.runtime.failures import GraphRefused, TrainingDiverged, TrainingTimedOut
from headwater.device.runtime.frames import Frame
from headwater.device.runtime.steps import Course, Pace, Segment, Steps
from headwater.device.sources.dataset import Dataset, Labels
from headwater.schemas.base import Split
from headwater.schemas.manifest import GraphName, Manifest
from headwater.schemas.messages import Bundle, Counts, Metric
from headwater.schemas.tensors import Array, encode_tensor

Parameters = tuple[NDArray[np.float32], ...]
Sums = Mapping[str, NDArray[np.float64]]

EVALUATED_SIZE_BYTES: Final = 256 * 1024
"""Examples of one evaluation: a convolution's values are many times as large, and must fit into a small device."""

EVALUATED_ROWS: Final = 32
"""Of one evaluation at least, however large."""

SEGMENT_SIZE_BYTES: Final = 32 * 1024 * 1024
"""Examples, indices and noise that one segment carries to the worker."""

WHOLE_SIZE_BYTES: Final = 1024 * 1024
"""Examples up to this size go along whole, which is cheaper than picking rows."""

_TOLD_AT_MOST: Final = 4
"""A fresh worker lacks the bundle, then the held arrays; it may have ended in between."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Carry:
    """Where a training stands between two steps: all that the next one needs. `parameters` are the manifest's, all."""

    parameters: Parameters
    slots: Parameters
    sums: Sums
    weight: float = 0.0
    epochs: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The metrics' sums over a split, and the tallies."""

    metrics: tuple[Metric, ...]
    tallies: tuple[Counts, ...] = ()

    def __add__(self, other: "Evaluation") -> "Evaluation":
        """Both, of different splits."""
        return Evaluation(self.metrics + other.metrics, self.tallies + other.tallies)


NOTHING_TOLD: Final = Evaluation(())


@dataclass(frozen=True, slots=True)
class Extras:
    """What an algorithm adds to plain steps.

    `corrections` (variant corrected) hold one array for each trainable parameter; without them they are zero. `noise`
    (variant clipped) draws from the device's own entropy, never from the plan: who knows the seed can take it off.
    """

    corrections: Sequence[Array] | None = None
    noise: np.random.Generator | None = None
    hyperparameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Held:
    """Arrays that a worker is told once, and told again when it is a fresh one."""

    slot: str
    arrays: Mapping[str, Array]
    version: int = field(default_factory=lambda: next(_numbers))


class Graphs:
    """The graphs of one bundle, run by a worker."""

    def __init__(self, worker: Worker, bundle: Bundle) -> None:
        self._worker = worker
        self._name = f"bundle {next(_numbers)}"
        self._payloads: dict[str, Array] = {
            name: np.frombuffer(payload, dtype=np.uint8) for name, payload in bundle.graphs.items()
        }

    def load(self) -> None:
        """Have the graphs guarded. Raises GraphRefused."""
        self._worker.ask(Frame({"do": "load", "bundle": self._name}, self._payloads))

    def run(
        self,
        graph: GraphName,
        outputs: Sequence[str],
        feed: Mapping[str, Array],
        *,
        limit_s: float,
        size_bytes: int,
        held: _Held | None = None,
    ) -> Mapping[str, Array]:
        """The outputs, of `size_bytes` together at most. Raises as `Worker.ask` does."""
        header = {
            "do": "run",
            "bundle": self._name,
            "graph": graph,
            "outputs": list(outputs),
            "held": [held.slot, held.version] if held else None,
            "time_limit_s": limit_s,
        }
        request = Frame(header, feed)
        for _ in range(_TOLD_AT_MOST):
            try:
                return self._worker.ask(request, limit_s=limit_s, max_answer_bytes=size_bytes)
            except UnknownBundle:
                self.load()
            except UnknownSlot:
                self._hold(held)
        return self._worker.ask(request, limit_s=limit_s, max_answer_bytes=size_bytes)

    def _hold(self, held: _Held | None) -> None:
        if held:
            self._worker.ask(Frame({"do": "hold", "slot": held.slot, "version": held.version}, held.arrays))


class Trainer:
    """The learning of one bundle. Not for two trainings at once.

    Raises:
        GraphRefused: a graph is not allowed on a device.
    """

    def __init__(self, bundle: Bundle, worker: Worker | None = None) -> None:
        self.manifest: Manifest = bundle.manifest
        self.pace = Pace()
        self._graphs = Graphs(worker or Worker(), bundle)
        self._graphs.load()
        self._answering: dict[str, tuple[Sequence[Array], _Held]] = {}

    def begin(self, parameters: Sequence[Array]) -> Carry:
        """A training's beginning: slots and sums are 0."""
        manifest = self.manifest
        sums = {name: np.zeros(shape) for name, shape in _sums(manifest, "train")}
        slots = tuple(np.zeros(slot.shape, dtype=np.float32) for slot in manifest.slots)
        return Carry(tuple(np.asarray(value, dtype=np.float32) for value in parameters), slots, sums)

    def training(
        self, carry: Carry, anchors: Sequence[Array], extras: Extras | None = None, *, is_short: bool = False
    ) -> "Training":
        """Go on from `carry`.

        Args:
            anchors: what a proximal term pulls towards.
            is_short: what no step changes goes along with each segment, which is cheaper for one than to be told once.
        """
        return Training(self.manifest, self._graphs, self.pace, carry, anchors, extras or Extras(), is_short=is_short)

    def train(
        self,
        parameters: Sequence[Array],
        data: Dataset,
        *,
        course: Course,
        time_limit_s: float,
        extras: Extras | None = None,
    ) -> Carry:
        """A whole course at once.

        Raises:
            TrainingTimedOut: after `time_limit_s`.
            TrainingDiverged: naming the parameter that is no longer finite.
            GraphRefused: the graph does not run, or gives other shapes than the manifest's.
            WorkerFailed: the worker has no memory left, or ended.
        """
        until = time.monotonic() + time_limit_s
        training = self.training(self.begin(parameters), parameters, extras)
        steps = Steps(course, len(data.train_x))
        while segment := steps.take(training.most_steps(course, data)):
            training.advance(segment, data, course.learning_rate, limit_s=max(until - time.monotonic(), 0.0))
        return training.carry

    def evaluate(
        self,
        parameters: Sequence[Array],
        x: NDArray[np.float32],
        y: Labels,
        *,
        time_limit_s: float,
        halted: Callable[[], bool] = lambda: False,
    ) -> Evaluation:
        """The sums over x and y, a bounded number of rows at a time. Raises as `train`."""
        until = time.monotonic() + time_limit_s
        manifest = self.manifest
        named = {p.name: value for p, value in zip(manifest.parameters, parameters, strict=True)}
        most = max(EVALUATED_SIZE_BYTES // max(x[:1].nbytes, 1), EVALUATED_ROWS)
        many = len(x) > most
        held = _Held("evaluate", named) if many else None
        totals = {name: np.zeros(shape) for name, shape in _sums(manifest, "test")}
        for begin in range(0, len(x), most):
            if halted():
                raise TrainingTimedOut("evaluate: halted, nobody waits for it any more")
            rows = slice(begin, begin + most)
            feed = {} if many else dict(named)
            feed |= {"x": x[rows], "y": y[rows], "mask": np.ones(len(x[rows]), dtype=np.float32)}
            results = self._graphs.run(
                "evaluate",
                list(totals),
                feed,
                limit_s=max(until - time.monotonic(), 0.0),
                size_bytes=_size_bytes(totals.values()),
                held=held,
            )
            totals = _added(manifest, "test", totals, results)
        return summed(manifest, "test", totals, float(len(x)))

    def infer(
        self, parameters: Sequence[Array], x: NDArray[np.float32], *, slot: str, time_limit_s: float
    ) -> NDArray[np.float32]:
        """The prediction for some examples. The worker is told the same parameters once; `slot` is who asks.

        Raises as `train`.
        """
        known = self._answering.get(slot)
        if known is None or known[0] is not parameters:
            named = {p.name: value for p, value in zip(self.manifest.parameters, parameters, strict=True)}
            known = self._answering[slot] = parameters, _Held(slot, named)
        widest = max(int(np.prod(example.shape)) for example in (self.manifest.x, self.manifest.y) if example)
        widest = max(widest, self.manifest.y.classes if self.manifest.y else 0)
        results = self._graphs.run(
            "infer",
            ["prediction"],
            {"x": x},
            limit_s=time_limit_s,
            size_bytes=8 * len(x) * max(widest, 1),
            held=known[1],
        )
        prediction = results["prediction"]
        if prediction.dtype != np.float32 or prediction.shape[:1] != (len(x),):
            found = f"{prediction.dtype} {list(prediction.shape)}"
            raise GraphRefused(f"prediction came out as {found} for {len(x)} examples")
        return prediction


class Training:
    """A training under way. `carry` is what a segment that failed leaves as it was."""

    def __init__(
        self,
        manifest: Manifest,
        graphs: Graphs,
        pace: Pace,
        carry: Carry,
        anchors: Sequence[Array],
        extras: Extras,
        *,
        is_short: bool = False,
    ) -> None:
        self.carry = carry
        self._manifest = manifest
        self._graphs = graphs
        self._pace = pace
        self._noise = extras.noise
        self._outputs = [f"new_{p.name}" for p in manifest.moving] + [f"new_slot_{s.name}" for s in manifest.slots]
        constants = _constants(manifest, carry.parameters, anchors, extras)
        self._along = constants if is_short else {}
        self._held = _Held("train", constants) if constants and not is_short else None

    def most_steps(self, course: Course, data: Dataset) -> int:
        """How many steps the next segment may have, by time and by memory."""
        batch = min(course.batch_size, len(data.train_x))
        size_bytes = batch * 12
        if data.train_x.nbytes > WHOLE_SIZE_BYTES:
            size_bytes += batch * (data.train_x[0].nbytes + data.train_y[:1].nbytes)
        if self._manifest.variant == "clipped":
            size_bytes += sum(4 * int(np.prod(p.shape)) for p in self._manifest.trainable)
        return max(min(self._pace.steps, SEGMENT_SIZE_BYTES // size_bytes), 1)

    def advance(self, segment: Segment, data: Dataset, learning_rate: float, *, limit_s: float) -> None:
        """Run a segment's steps. Raises as `Trainer.train`."""
        manifest, started = self._manifest, time.monotonic()
        feed = dict(self._along)
        feed |= {p.name: v for p, v in zip(manifest.parameters, self.carry.parameters, strict=True) if p.moves}
        feed |= {f"slot_{s.name}": v for s, v in zip(manifest.slots, self.carry.slots, strict=True)}
        weights = _weights(segment, data)
        feed |= _examples(segment, data, weights)
        feed["learning_rate"] = np.full(segment.steps, learning_rate, dtype=np.float32)
        if manifest.random:
            feed["seeds"] = segment.seeds
        if manifest.variant == "clipped":
            feed |= self._drawn(segment.steps)
        expected: list[Array] = [*(feed[p.name] for p in manifest.moving), *self.carry.slots, *self.carry.sums.values()]
        results = self._graphs.run(
            "train",
            [*self._outputs, *self.carry.sums],
            feed,
            limit_s=limit_s,
            size_bytes=_size_bytes(expected),
            held=self._held,
        )
        self.carry = self._next(results, segment.epochs, float(weights.sum(dtype=np.float64)))
        self._pace.measured(segment.steps, time.monotonic() - started)

    def _next(self, results: Mapping[str, Array], epochs: int, weight: float) -> Carry:
        manifest = self._manifest
        moved = {p.name: _sound(f"train: {p.name}", results[f"new_{p.name}"], p.shape) for p in manifest.moving}
        return Carry(
            tuple(moved.get(p.name, v) for p, v in zip(manifest.parameters, self.carry.parameters, strict=True)),
            tuple(_sound(f"train: {s.name}", results[f"new_slot_{s.name}"], s.shape) for s in manifest.slots),
            _added(manifest, "train", self.carry.sums, results),
            self.carry.weight + weight,
            epochs,
        )

    def _drawn(self, steps: int) -> dict[str, Array]:
        if self._noise is None:
            raise GraphRefused("train: the graph adds noise, and this training has none; give it entropy")
        return {
            f"noise_{p.name}": self._noise.standard_normal((steps, *p.shape), dtype=np.float32)
            for p in self._manifest.trainable
        }


def statistics(data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σx and Σx² over the training examples, float64 in the shape of one example."""
    x = data.train_x.astype(np.float64)
    return x.sum(axis=0), np.square(x).sum(axis=0)


def summed(manifest: Manifest, split: Split, sums: Sums, weight: float) -> Evaluation:
    """Sums as they go up."""
    metrics = [Metric(split=split, name=name, total=float(sums[name]), weight=weight) for name in manifest.metrics]
    counted = [tally.name for tally in manifest.tallies if tally.name in sums]
    tallies = [Counts(split=split, name=name, values=encode_tensor(sums[name])) for name in counted]
    return Evaluation(tuple(metrics), tuple(tallies))


def told_as(found: Evaluation, split: Split) -> Evaluation:
    """What was found on a device's test part, as the figures of a split, with this device's place among the others."""
    place = place_of_device({metric.name: metric.total / metric.weight for metric in found.metrics})
    metrics = tuple(metric.model_copy(update={"split": split}) for metric in found.metrics)
    tallies = tuple(tally.model_copy(update={"split": split}) for tally in found.tallies)
    if place is None:
        return Evaluation(metrics, tallies)
    name, counts = place
    return Evaluation(metrics, (*tallies, Counts(split=split, name=name, values=encode_tensor(counts))))


def _sums(manifest: Manifest, split: Split) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What a graph adds up: metrics, and where it evaluates tallies too."""
    yield from ((name, ()) for name in manifest.metrics)
    if split == "test":
        yield from ((tally.name, (tally.length,)) for tally in manifest.tallies)


def _constants(
    manifest: Manifest, parameters: Parameters, anchors: Sequence[Array], extras: Extras
) -> dict[str, Array]:
    """What a train graph takes and no step changes."""
    values: dict[str, Any] = {
        p.name: value for p, value in zip(manifest.parameters, parameters, strict=True) if not p.moves
    }
    for name, default in manifest.hyperparameters.items():
        values[f"hyper_{name}"] = np.array(extras.hyperparameters.get(name, default), dtype=np.float32)
    if manifest.variant == "proximal":
        named = {p.name: value for p, value in zip(manifest.parameters, anchors, strict=True)}
        values |= {f"anchor_{p.name}": named[p.name] for p in manifest.trainable}
    if manifest.variant == "corrected":
        corrections = extras.corrections or [np.zeros(p.shape, dtype=np.float32) for p in manifest.trainable]
        for parameter, value in zip(manifest.trainable, corrections, strict=True):
            values[f"correction_{parameter.name}"] = np.asarray(value, dtype=np.float32)
    return values


def _weights(segment: Segment, data: Dataset) -> NDArray[np.float32]:
    """What each of a segment's rows counts: its example's weight, and nothing where it is filler."""
    return segment.mask if data.train_weights is None else segment.mask * data.train_weights[segment.order]


def _examples(segment: Segment, data: Dataset, weights: NDArray[np.float32]) -> dict[str, Array]:
    """The rows of a segment: all of a small data set, or those that it takes, in its own order."""
    if data.train_x.nbytes <= WHOLE_SIZE_BYTES:
        return {"x": data.train_x, "y": data.train_y, "order": segment.order, "mask": weights}
    rows = segment.order.ravel()
    order = np.arange(len(rows), dtype=np.int64).reshape(segment.order.shape)
    return {"x": data.train_x[rows], "y": data.train_y[rows], "order": order, "mask": weights}


def _added(
    manifest: Manifest, split: Split, sums: Sums, results: Mapping[str, Array]
) -> dict[str, NDArray[np.float64]]:
    return {
        name: sums[name] + _sound(f"{split} {name}", results[name], shape) for name, shape in _sums(manifest, split)
    }


def _sound(what: str, value: Array, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A result as the manifest has it, finite."""
    if value.shape != shape or value.dtype != np.float32:
        raise GraphRefused(f"{what} came out as {value.dtype} {list(value.shape)}, not as float32 {list(shape)}")
    if not np.isfinite(value).all():
        raise TrainingDiverged(
            f"{what.removeprefix('train: ')}: no longer finite; lower learning_rate or normalise the data"
        )
    return value


def _size_bytes(expected: Iterable[Array]) -> int:
    """Results of these shapes in their widest type."""
    return sum(8 * max(value.size, 1) for value in expected)
