"""Law: a graph is guarded, then bounded for the inputs that it gets, and only then run: one thread, against a clock.

This module, in the worker, is the only one that loads onnxruntime. Requests and answers are frames; what goes wrong
with a graph is an answer too.

    load  bundle                                  the graphs' bytes   guard them and keep them
    hold  slot version                            arrays              keep them, in place of the slot's last ones
    run   bundle graph held outputs time_limit_s  arrays              the outputs for these and the held arrays
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from headwater.device.runtime.failures import GraphRefused, TrainingTimedOut, WorkerFailed
from headwater.device.runtime.frames import Array, Frame
from headwater.device.runtime.guard import check_graph
from headwater.device.runtime.sizes import check_sizes

MAX_BUNDLES: Final = 3
"""Bundles kept at once: this run's, the last one's, and one for serving."""

MAX_SIZES_KNOWN: Final = 256
MAX_SENTENCE_LENGTH: Final = 300


class UnknownBundle(Exception):
    """A bundle that this worker does not have; it may be a fresh one, so the agent says it again."""


class UnknownSlot(Exception):
    """As `UnknownBundle`, for held arrays, or for a version of them that the agent has not told yet."""


_KINDS: Final[Mapping[type[Exception], str]] = {
    GraphRefused: "refused",
    TrainingTimedOut: "timed_out",
    WorkerFailed: "memory",
    UnknownBundle: "unknown_bundle",
    UnknownSlot: "unknown_slot",
}


@dataclass(slots=True)
class _Graph:
    """A guarded graph; its session begins with its first run."""

    model: Any
    session: Any = None
    known_sizes: set[tuple[tuple[str, tuple[int, ...]], ...]] = field(default_factory=set)


class Runner:
    """The graphs of a few bundles. `limit_bytes` is the process's, and what one value may take is a part of it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        # Eight bytes an element, whatever its type, and never more than half of all memory for one value.
        self._most_elements = limit_bytes // 16
        self._bundles: dict[str, dict[str, _Graph]] = {}
        self._held: dict[str, tuple[int, Mapping[str, Array]]] = {}

    def answer(self, request: Frame) -> Frame:
        """One request's answer: what was asked for, or `failure` and the sentence that `says` why not."""
        try:
            return Frame({}, self._doing(request.header["do"])(request))
        except tuple(_KINDS) as error:
            return Frame({"failure": _KINDS[type(error)], "says": str(error)})
        except MemoryError:
            return Frame({"failure": "memory", "says": self._too_much("a request")})

    def _doing(self, what: str) -> Callable[[Frame], Mapping[str, Array]]:
        return {"hello": lambda _: {}, "load": self._load, "hold": self._hold, "run": self._run}[what]

    def _load(self, request: Frame) -> Mapping[str, Array]:
        graphs = {}
        for name, payload in request.arrays.items():
            try:
                graphs[name] = _Graph(check_graph(payload.tobytes()))
            except GraphRefused as error:
                raise GraphRefused(f"{name}: {error}") from None
        self._bundles[request.header["bundle"]] = graphs
        while len(self._bundles) > MAX_BUNDLES:
            del self._bundles[next(iter(self._bundles))]
        return {}

    def _hold(self, request: Frame) -> Mapping[str, Array]:
        slot = request.header["slot"]
        self._held.pop(slot, None)
        if request.arrays:
            self._held[slot] = request.header["version"], request.arrays
        return {}

    def _slot(self, slot: str, version: int) -> Mapping[str, Array]:
        held, arrays = self._held.get(slot, (None, {}))
        if held != version:
            raise UnknownSlot(f"slot {slot!r}")
        return arrays

    def _run(self, request: Frame) -> Mapping[str, Array]:
        bundle, name = request.header["bundle"], request.header["graph"]
        if bundle not in self._bundles:
            raise UnknownBundle(f"bundle {bundle}")
        # Used last, dropped last.
        graphs = self._bundles[bundle] = self._bundles.pop(bundle)
        held = request.header["held"]
        feed = {**(self._slot(*held) if held else {}), **request.arrays}
        outputs, limit_s = request.header["outputs"], float(request.header["time_limit_s"])
        graph = graphs.get(name)
        if graph is None:
            raise GraphRefused(f"{name}: the bundle has no such graph")
        taken = {value.name for value in graph.model.graph.input}
        given = {key: value for key, value in feed.items() if key in taken}
        self._bound(name, graph, given)
        results = self._within(name, limit_s, lambda options: self._session(graph).run(outputs, given, options))
        return dict(zip(outputs, (np.asarray(result) for result in results), strict=True))

    def _bound(self, name: str, graph: _Graph, given: Mapping[str, Array]) -> None:
        shapes = {key: value.shape for key, value in given.items()}
        key = tuple(sorted(shapes.items()))
        if key in graph.known_sizes:
            return
        try:
            check_sizes(graph.model, shapes, self._most_elements)
        except GraphRefused as error:
            raise GraphRefused(f"{name}: {error}") from None
        if len(graph.known_sizes) >= MAX_SIZES_KNOWN:
            graph.known_sizes.clear()
        graph.known_sizes.add(key)

    def _session(self, graph: _Graph) -> Any:
        if graph.session is None:
            graph.session = ort.InferenceSession(
                graph.model.SerializeToString(),
                _options(),
                providers=["CPUExecutionProvider"],
                # It would compute what depends on constants alone while loading, where no clock can stop it.
                disabled_optimizers=["ConstantFolding"],
            )
        return graph.session

    def _within(self, name: str, limit_s: float, run: Callable[[Any], Any]) -> Any:
        options = ort.RunOptions()
        with _stopwatch(options, limit_s) as expired:
            try:
                return run(options)
            except MemoryError:
                raise WorkerFailed(self._too_much(name)) from None
            except Exception as error:
                if expired.is_set():
                    raise TrainingTimedOut(f"{name}: stopped after {limit_s:.3g} s") from None
                if any(sign in str(error) for sign in ("bad_alloc", "Failed to allocate")):
                    raise WorkerFailed(self._too_much(name)) from None
                raise GraphRefused(f"{name}: onnxruntime refused it: {_short(error)}") from None

    def _too_much(self, what: str) -> str:
        return f"{what}: takes more than the {self._limit_bytes // 2**20} MB that worker.memory_limit_mb allows"


@contextmanager
def _stopwatch(options: Any, limit_s: float) -> Iterator[threading.Event]:
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        options.terminate = True

    timer = threading.Timer(limit_s, stop)
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
    # Bytes that also read as onnxruntime's own format would otherwise be taken for that, past the guard.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MAX_SENTENCE_LENGTH]
