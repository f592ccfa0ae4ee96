"""Law: a guarded graph runs on stock onnxruntime, one thread, against a clock; what comes out is checked and copied.

One `run` is a whole pass over the plan's steps; between graphs only parameters and scalars travel.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from headwater.device.runtime.guard import GraphRefused, check_graph
from headwater.device.sources.dataset import Dataset, Labels
from headwater.schemas.base import Split
from headwater.schemas.manifest import GraphName, Manifest
from headwater.schemas.messages import Bundle, Metric
from headwater.schemas.tensors import Array

Parameters = tuple[NDArray[np.float32], ...]


class TrainingTimedOut(Exception):
    """The graph ran longer than it was allowed to, and was stopped."""


class TrainingDiverged(Exception):
    """A result is NaN or infinite; the learning rate is too high, or the data are on too different scales."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The trainable parameters after the steps, and the metrics' sums over all examples seen."""

    parameters: Parameters
    metrics: tuple[Metric, ...]


class Trainer:
    """The graphs of one bundle. Not for two threads at once.

    Raises:
        GraphRefused: a graph is not allowed on a device, or is not what the manifest says.
    """

    def __init__(self, bundle: Bundle) -> None:
        for payload in bundle.graphs.values():
            check_graph(payload)
        self.manifest: Manifest = bundle.manifest
        self._graphs = bundle.graphs
        self._sessions: dict[GraphName, ort.InferenceSession] = {}

    def train(
        self,
        parameters: Sequence[Array],
        data: Dataset,
        *,
        order: NDArray[np.int64],
        mask: NDArray[np.float32],
        learning_rate: float,
        time_limit_s: float,
    ) -> TrainResult:
        """Minibatch steps in the given order (see `Manifest`).

        Raises:
            TrainingTimedOut: after `time_limit_s`.
            TrainingDiverged: naming the parameter that is no longer finite.
            GraphRefused: the graph does not run, or gives other shapes than the manifest's.
        """
        feed = self._feed(parameters, data.train_x, data.train_y) | {
            "order": order,
            "mask": mask,
            "learning_rate": np.array(learning_rate, dtype=np.float32),
        }
        names = [f"new_{parameter.name}" for parameter in self.manifest.trainable]
        results = self._run("train", [*names, *self.manifest.metrics], feed, time_limit_s)
        new = tuple(results[: len(names)])
        for parameter, value in zip(self.manifest.trainable, new, strict=True):
            if value.shape != parameter.shape or value.dtype != np.float32:
                raise GraphRefused(f"train: {parameter.name} came out as {value.dtype} {list(value.shape)}")
            if not np.isfinite(value).all():
                raise TrainingDiverged(f"{parameter.name}: no longer finite; lower learning_rate or normalise the data")
        return TrainResult(new, self._metrics("train", results[len(names) :], float(mask.sum())))

    def evaluate(
        self, parameters: Sequence[Array], x: NDArray[np.float32], y: Labels, *, time_limit_s: float
    ) -> tuple[Metric, ...]:
        """The metrics' sums over x and y. Raises as `train`."""
        results = self._run("evaluate", list(self.manifest.metrics), self._feed(parameters, x, y), time_limit_s)
        return self._metrics("test", results, float(len(x)))

    def statistics(self, data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Σx and Σx² over the training examples, float64 in the shape of one example."""
        x = data.train_x.astype(np.float64)
        return x.sum(axis=0), np.square(x).sum(axis=0)

    def _feed(self, parameters: Sequence[Array], x: NDArray[np.float32], y: Labels) -> dict[str, Array]:
        named = {p.name: value for p, value in zip(self.manifest.parameters, parameters, strict=True)}
        return {**named, "x": x, "y": y}

    def _run(self, graph: GraphName, outputs: list[str], feed: dict[str, Array], time_limit_s: float) -> list[Array]:
        session = self._session(graph)
        given = {name: feed[name] for name in (value.name for value in session.get_inputs()) if name in feed}
        options = ort.RunOptions()
        with _stopwatch(options, time_limit_s) as expired:
            try:
                return [np.array(value) for value in session.run(outputs, given, options)]
            except Exception as error:
                if expired.is_set():
                    raise TrainingTimedOut(f"{graph}: stopped after {time_limit_s:g} s") from None
                raise GraphRefused(f"{graph}: onnxruntime refused it: {_short(error)}") from None

    def _session(self, graph: GraphName) -> ort.InferenceSession:
        if graph not in self._sessions:
            if graph not in self._graphs:
                raise GraphRefused(f"{graph}: the bundle has no such graph")
            try:
                self._sessions[graph] = ort.InferenceSession(
                    self._graphs[graph],
                    _options(),
                    providers=["CPUExecutionProvider"],
                    # It would compute what depends on constants alone while loading, where no clock can stop it.
                    disabled_optimizers=["ConstantFolding"],
                )
            except Exception as error:
                raise GraphRefused(f"{graph}: onnxruntime refused it: {_short(error)}") from None
        return self._sessions[graph]

    def _metrics(self, split: Split, totals: Sequence[Array], weight: float) -> tuple[Metric, ...]:
        for name, total in zip(self.manifest.metrics, totals, strict=True):
            if total.shape != () or total.dtype != np.float32:
                raise GraphRefused(f"{split} {name}: came out as {total.dtype} {list(total.shape)}, not as a float32")
            if not np.isfinite(total):
                raise TrainingDiverged(f"{split} {name}: no longer finite; lower learning_rate or normalise the data")
        return tuple(
            Metric(split=split, name=name, total=float(total), weight=weight)
            for name, total in zip(self.manifest.metrics, totals, strict=True)
        )


@contextmanager
def _stopwatch(options: Any, time_limit_s: float) -> Iterator[threading.Event]:
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        options.terminate = True

    timer = threading.Timer(time_limit_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


def _options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Warnings and errors come back as exceptions; a device's log is no place for onnxruntime's own.
    options.log_severity_level = 4
    return options


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
