"""Law: a window is scored by the model that is served now, whole; a model that fails costs its predictions, no more.

A new model is measured beside the last good one on this device's own test part, and only then takes its place, by one
assignment. Predictions that the link does not take are dropped and counted: what is old is of no use.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from headwater.core.sketch import level
from headwater.device.memory import in_use
from headwater.device.runtime.failures import GraphRefused, TrainingDiverged, TrainingTimedOut, WorkerFailed
from headwater.device.runtime.trainer import Evaluation
from headwater.device.serving.decision import Standing, decide
from headwater.device.serving.foretold import Waiting, came, foretold
from headwater.device.serving.limiter import full, take
from headwater.device.serving.reading import Meaning, level_of, meaning_of, score_of, threshold_of
from headwater.device.serving.shelf import Kept, Shelf
from headwater.device.sources import Dataset, LiveSource
from headwater.device.sources.live.feed import Following, LiveWindow
from headwater.node.child import Assignment
from headwater.schemas.messages import Bundle, Model
from headwater.schemas.settings import ServingSettings
from headwater.schemas.statuses import Prediction
from headwater.schemas.tensors import Array, TensorError, decode_tensors, encode_tensors, models_of, parameter_specs
from headwater.schemas.wire import encode, encode_status, reference
from headwater.transport.link import LinkDown

log = logging.getLogger("headwater.device")

MAX_WAITING: Final = 64
"""Predictions that wait for the link; the oldest are dropped beyond that."""

RUNS_KEPT: Final = 2
"""Bundles that are open: this run's, and that of the last good model."""

MEASURE_LIMIT_S: Final = 60.0
SCORE_LIMIT_S: Final = 5.0
TELL_EVERY_S: Final = 60.0
"""How often what was dropped is logged."""

KEEP_EVERY_S: Final = 60.0
"""How often the disk is written at most: rounds may be short, and flash wears out."""

_FAILURES: Final = (GraphRefused, TrainingDiverged, TrainingTimedOut, WorkerFailed, TensorError, ValueError)


class Runs(Protocol):
    """What serving needs of the runtime, for one bundle."""

    def evaluate(self, parameters: Sequence[Array], x: Array, y: Array, *, time_limit_s: float) -> Evaluation: ...

    def infer(self, parameters: Sequence[Array], x: Array, *, slot: str, time_limit_s: float) -> Array: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A model that answers."""

    kept: Kept
    parameters: tuple[Array, ...]
    runs: Runs
    meaning: Meaning

    @property
    def standing(self) -> Standing:
        return self.kept.standing


class Server:
    """A device's predictions.

    Args:
        folder: where the last good model of each data key is kept.
        open_bundle: guards a bundle's graphs and makes them run.
        kept: what this device keeps of a run, its personal model or parameters among it.
        publish: hands a prediction to the link, or raises LinkDown.
    """

    def __init__(
        self,
        node: str,
        settings: ServingSettings,
        sources: Mapping[str, LiveSource],
        *,
        folder: Path,
        open_bundle: Callable[[Bundle], Runs],
        kept: Callable[[str], Mapping[str, Array]],
        publish: Callable[[bytes], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._settings = settings
        self._sources = dict(sources)
        self._shelves = {key: Shelf(folder / f"{index}-{_plain(key)}") for index, key in enumerate(sorted(sources))}
        self._open_bundle = open_bundle
        self._kept_of = kept
        self._publish = publish
        self._clock = clock
        self._bucket = full(settings.max_per_minute, clock())
        self._served: dict[str, Served] = {}
        self._good: dict[str, Served] = {}
        self._foretold: dict[str, Waiting] = {}
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._something = asyncio.Event()
        self._offered: dict[str, Assignment] = {}
        self._news = asyncio.Event()
        self._runs: dict[bytes, Runs] = {}
        self._kept_at_s: dict[str, float] = {}
        self._unkept: dict[str, Kept] = {}
        self.counts: Counter[str] = Counter()

    def served(self, data: str) -> Standing | None:
        """The model that answers for a data key."""
        served = self._served.get(data)
        return served.standing if served else None

    async def run(self) -> None:
        """Serve what the disk has, then what rounds bring. Runs until cancelled."""
        try:
            for key in self._sources:
                await asyncio.to_thread(self._restore, key)
            async with asyncio.TaskGroup() as tasks:
                for key, source in self._sources.items():
                    tasks.create_task(self._score(key, source))
                tasks.create_task(self._judge())
                tasks.create_task(self._send())
                tasks.create_task(self._tell())
        finally:
            self._keep_what_waits()

    def offer(self, assignment: Assignment) -> None:
        """A plan's model, to be measured when there is time; a newer one takes the place of one that waits."""
        data = assignment.plan.data
        if assignment.plan.task != "statistics" and data in self._sources:
            self._offered[data] = assignment
            self._news.set()

    async def _judge(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._offered:
                data, assignment = self._offered.popitem()
                try:
                    await asyncio.to_thread(self._consider, data, assignment)
                except Exception:
                    # Whatever it is, the device goes on with the model that it has.
                    log.exception("data.%s: a model was passed over", data)
                    self.counts["models that failed"] += 1

    # ── which model ─────────────────────────────────────────────────────────────────────────────────────────────

    def _restore(self, data: str) -> None:
        kept = self._shelves[data].get()
        if kept is None:
            return
        try:
            served = self._opened(data, kept, reference(encode(kept.bundle)).sha256)
        except _FAILURES as error:
            log.warning("data.%s: %s is not served again: %s", data, kept.standing, error)
            return
        self._served[data] = self._good[data] = served
        log.info("data.%s: %s is served again", data, kept.standing)

    def _consider(self, data: str, assignment: Assignment) -> None:
        standing = Standing(assignment.plan.key.run, assignment.model.version, assignment.plan.model.sha256.hex())
        try:
            own = self._kept_of(assignment.plan.key.run)
            level = level_of(assignment.plan.errors, own)
            kept = Kept(standing, assignment.bundle, _in_use(assignment, own), level=level)
            candidate = self._opened(data, kept, assignment.plan.bundle.sha256)
            test = self._test_part(data)
            candidate = self._measured(candidate, test)
            good = self._good.get(data)
            # Measured anew, for the test part grows.
            good = self._measured(good, test) if good else None
        except _FAILURES as error:
            log.warning("data.%s: %s is not served: %s", data, standing, error)
            self.counts["models that failed"] += 1
            return
        self._decide(data, good, candidate)

    def _decide(self, data: str, good: Served | None, candidate: Served) -> None:
        served = self._served.get(data)
        decision = decide(
            good.standing if good else None,
            served.standing if served else None,
            candidate.standing,
            self._settings.max_metric_drop,
        )
        log.info("data.%s: %s: %s", data, decision.action, decision.reason)
        self.counts[decision.action] += 1
        held = decision.action == "swap" or (served and served.standing.sha256 == candidate.standing.sha256)
        if decision.action == "roll back" and good is not None:
            self._served[data] = good
        elif held:
            # Where it is served already: what is known of its errors may be newer.
            self._served[data] = candidate
        if held and decision.action != "roll back" and (candidate.standing.score is not None or good is None):
            self._good[data] = candidate
            self._keep(data, candidate.kept)

    def _keep(self, data: str, kept: Kept) -> None:
        self._unkept[data] = kept
        if self._clock() - self._kept_at_s.get(data, -KEEP_EVERY_S) >= KEEP_EVERY_S:
            self._keep_what_waits()

    def _keep_what_waits(self) -> None:
        while self._unkept:
            data, kept = self._unkept.popitem()
            self._kept_at_s[data] = self._clock()
            try:
                self._shelves[data].put(kept)
            except OSError as error:
                log.warning("data.%s: %s is not on the disk, a reboot will lose it: %s", data, kept.standing, error)

    def _opened(self, data: str, kept: Kept, bundle: bytes) -> Served:
        """`bundle` is the bundle's hash. Raises GraphRefused or TensorError."""
        manifest = kept.bundle.manifest
        if "infer" not in kept.bundle.graphs:
            raise GraphRefused("infer: the bundle has no such graph, so there is nothing to serve")
        parameters = decode_tensors(kept.model.tensors, parameter_specs(manifest.parameters))
        label = self._sources[data].spec.label
        meaning = meaning_of(
            manifest,
            kept.bundle.graphs["infer"],
            labels=label.labels if label else (),
            threshold=self._threshold(kept),
            alert_labels=self._settings.alert_labels,
        )
        runs = self._runs.pop(bundle, None) or self._open_bundle(kept.bundle)
        self._runs[bundle] = runs
        while len(self._runs) > RUNS_KEPT:
            del self._runs[next(iter(self._runs))]
        return Served(kept, parameters, runs, meaning)

    def _threshold(self, kept: Kept) -> float | None:
        """What is an alarm: by the fleet's errors where they are known and wanted, else by this device's own."""
        if kept.level is None or self._settings.alert_level == "own":
            return kept.threshold
        return level(kept.level, self._settings.alert_quantile)

    def _test_part(self, data: str) -> Dataset | None:
        dataset = self._sources[data].snapshot()
        return dataset if dataset is not None and len(dataset.test_x) else None

    def _measured(self, served: Served, test: Dataset | None) -> Served:
        """With its score on the test part, and what its errors there are."""
        if test is None:
            return served
        told = served.runs.evaluate(served.parameters, test.test_x, test.test_y, time_limit_s=MEASURE_LIMIT_S)
        standing = replace(served.standing, score=score_of(told.metrics))
        threshold = threshold_of(told.tallies, self._settings.alert_quantile)
        kept = replace(served.kept, standing=standing, threshold=threshold)
        return replace(served, kept=kept, meaning=replace(served.meaning, threshold=self._threshold(kept)))

    # ── what it says ────────────────────────────────────────────────────────────────────────────────────────────

    async def _score(self, data: str, source: LiveSource) -> None:
        feed = source.feed()
        try:
            async for news in feed:
                if isinstance(news, Following):
                    self._compare(data, news)
                else:
                    await self._predict(data, news)
        finally:
            feed.close()

    async def _predict(self, data: str, window: LiveWindow) -> None:
        served = self._served.get(data)
        if served is None:
            self.counts["windows before there was a model"] += 1
            return
        try:
            output = await asyncio.to_thread(
                served.runs.infer,
                served.parameters,
                window.x[None],
                slot=f"serve {data}",
                time_limit_s=SCORE_LIMIT_S,
            )
            said = served.meaning.prediction(
                output[0], window.x, node=self._node, data=data, at_s=window.at_s, standing=served.standing
            )
        except _FAILURES as error:
            self.counts["windows that failed"] += 1
            log.debug("data.%s: %s: %s", data, served.standing, error)
            return
        if self._sources[data].spec.forecast is not None and served.meaning.foretells:
            self._foretold[data] = foretold(self._foretold.get(data, ()), said, output[0])
        self._offer(said)

    def _compare(self, data: str, following: Following) -> None:
        """What was foretold with what has come."""
        try:
            self._foretold[data], judged = came(self._foretold.get(data, ()), following)
        except ValueError as error:
            self.counts["windows that failed"] += 1
            log.debug("data.%s: %s", data, error)
            return
        if judged is not None:
            self._offer(judged)

    def _offer(self, prediction: Prediction) -> None:
        self.counts["predictions"] += 1
        if self._settings.publish == "alerts" and not prediction.alert:
            return
        self._bucket, may_go = take(self._bucket, self._settings.max_per_minute, self._clock())
        if not may_go:
            self.counts["held back by max_per_minute"] += 1
            return
        self.counts["dropped, for the link is slow"] += len(self._waiting) == MAX_WAITING
        self._waiting.append(encode_status(prediction))
        self._something.set()

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                payload = self._waiting.popleft()
                try:
                    await self._publish(payload)
                    self.counts["published"] += 1
                except LinkDown:
                    self.counts["dropped, for the link is down"] += 1

    async def _tell(self) -> None:
        """What went wrong since the last time, in one line."""
        told: Counter[str] = Counter()
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            await asyncio.to_thread(self._keep_what_waits)
            wrong = {name: count - told[name] for name, count in self.counts.items() if name.startswith(_WRONG)}
            told = Counter(self.counts)
            said = ", ".join(f"{count} {name}" for name, count in sorted(wrong.items()) if count)
            if said:
                log.warning("predictions: %s", said)


_WRONG: Final = ("dropped", "windows that", "models that", "held back")


def _in_use(assignment: Assignment, own: Mapping[str, Array]) -> Model:
    """The model as this device uses it: its personal one, or its own of several, with its own parameters."""
    manifest, model = assignment.bundle.manifest, assignment.model
    if not own and not model.clusters:
        return model
    tensors = encode_tensors(in_use(manifest, models_of(manifest, model), own))
    return model.model_copy(update={"tensors": tensors, "clusters": (), "companions": ()})


def _plain(key: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in key)[:64]
