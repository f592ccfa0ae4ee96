"""Law: a method's trainings are made in segments, and between two of them the device may rest, wait, keep where it
stands, or stop.

A checkpoint is written after an epoch, and only when two seconds of work have gone by since the last: plans that are
short never touch the disk, and a reboot costs one epoch or two seconds, whichever is longer. It holds the trainings of
the plan that are done, and where the one under way stands; the method begins again, and is answered from there.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np

from headwater.core.local import Measured, Measuring, Reply, Request, Trained
from headwater.core.local import Training as Asked
from headwater.device.conditions import pause_s
from headwater.device.consent import Consent
from headwater.device.runtime.failures import TrainingTimedOut
from headwater.device.runtime.steps import Course, Minibatches, Segment, Steps
from headwater.device.runtime.trainer import NOTHING_TOLD, Carry, Evaluation, Extras, Trainer, Training, told_as
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Plan
from headwater.schemas.settings import ConditionSettings
from headwater.schemas.tensors import Array

log = logging.getLogger("headwater.device")

CHECKPOINT_AFTER_S: Final = 2.0
LOOK_EVERY_S: Final = 5.0
"""How often the conditions are looked at while they do not hold."""

REST_AFTER_S: Final = 0.3
"""Of work on single minibatches; longer segments are rested after each."""

TRAININGS_KEPT: Final = 4
"""Finished trainings of a plan that a checkpoint holds. A method that asks for more begins anew after a reboot."""

T = TypeVar("T")


class NotNow(Exception):
    """The device's own conditions did not hold for as long as the plan could wait."""


@dataclass(frozen=True, slots=True)
class Beside:
    """How a training lives beside the device's own work. `obstacle` looks at the sensors, `consent` asks the owner."""

    obstacle: Callable[[], str | None] = lambda: None
    conditions: ConditionSettings = field(default_factory=ConditionSettings)
    look_every_s: float = LOOK_EVERY_S
    consent: Consent | None = None

    async def allowed(self, plan: Plan, examples: int) -> None:
        """Raises NotNow where the owner's rule objects to this plan."""
        why = await self.consent.objection(plan, examples) if self.consent is not None else None
        if why is not None:
            raise NotNow(why)

    async def ready(self, until: float) -> None:
        """Wait until the conditions hold; the log says for which.

        Raises NotNow at the loop's time `until`, or when they did not hold for `conditions.patience_s`.
        """
        loop, told = asyncio.get_running_loop(), ""
        if self.conditions.patience_s is not None:
            until = min(until, loop.time() + self.conditions.patience_s)
        while why := self.obstacle():
            left_s = until - loop.time()
            if left_s <= 0:
                raise NotNow(f"the device's own conditions did not hold in time: {why}")
            if why != told:
                log.info("training waits: %s", why)
                told = why
            await asyncio.sleep(min(self.look_every_s, left_s))
        if told:
            log.info("training goes on")

    async def rest(self, busy_s: float, until: float) -> None:
        """A pause after so much work, as the device's owner wants it. Raises NotNow as `ready` does."""
        pause = pause_s(self.conditions, busy_s)
        if pause > 0:
            await asyncio.sleep(pause)
        await self.ready(until)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One plan's work on one device's data; `noise` is for a graph that adds some."""

    plan: Plan
    course: Course
    data: Dataset
    noise: np.random.Generator | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same for a checkpoint to be of this plan."""
        plan, key, course = self.plan, self.plan.key, self.course
        return {
            "key": [key.run, key.round, key.step, key.attempt],
            "model": plan.model.sha256.hex(),
            "bundle": plan.bundle.sha256.hex(),
            "course": [plan.data, course.epochs, plan.batch_size, plan.learning_rate, plan.seed],
            "learning": plan.learning.model_dump(mode="json"),
            "examples": len(self.data.train_x),
        }

    @property
    def batches(self) -> int:
        """Of one pass."""
        return self.course.steps_a_pass(len(self.data.train_x))


class Coach:
    """Answers what a plan's method asks for. What it told of the test part is in `told`.

    Args:
        until: the loop's time at which it is too late.
    """

    def __init__(self, trainer: Trainer, lesson: Lesson, state: LocalState, beside: Beside, until: float) -> None:
        self._trainer = trainer
        self._lesson = lesson
        self._state = state
        self._beside = beside
        self._until = until
        self._minibatches: Minibatches | None = None
        self._finished: list[Trained] = []
        self._asked = 0
        self._busy_s = 0.0
        self._kept_at = asyncio.get_running_loop().time()
        self._resumed: _Standing | None = None
        self.told = NOTHING_TOLD

    async def follow(self, method: Generator[Request, Reply, T]) -> T:
        """Answer a method to its end, and return what it comes to.

        Raises:
            TrainingTimedOut, TrainingDiverged, GraphRefused, WorkerFailed: as `Trainer.train`.
            NotNow: the conditions stopped to hold, for longer than the plan could wait.
        """
        self._resumed = _standing(self._trainer.manifest, self._lesson, self._state)
        reply: Reply | None = None
        while True:
            try:
                request = next(method) if reply is None else method.send(reply)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            reply = await (self._train(request) if isinstance(request, Asked) else self._measure(request))

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _train(self, asked: Asked) -> Trained:
        number, before = self._asked, self._resumed
        self._asked += 1
        if before is not None and number < len(before.finished):
            trained = before.finished[number]
        elif asked.batch is not None:
            trained = await self._on_one_batch(asked, asked.batch)
        else:
            begin = before.carry if before is not None and number == len(before.finished) else None
            trained = await self._at_length(asked, begin or self._trainer.begin(asked.start))
        if number < TRAININGS_KEPT:
            self._finished.append(trained)
        return trained

    async def _at_length(self, asked: Asked, carry: Carry) -> Trained:
        lesson, loop = self._lesson, asyncio.get_running_loop()
        course = replace(lesson.course, epochs=asked.epochs, learning_rate=asked.learning_rate)
        training = self._trainer.training(carry, asked.anchors or asked.start, self._extras(asked))
        steps, kept_epochs = Steps(course, len(lesson.data.train_x), begin=carry.epochs), carry.epochs
        while segment := steps.take(training.most_steps(course, lesson.data)):
            began = loop.time()
            await self._advance(training, segment, course)
            now = loop.time()
            if training.carry.epochs > kept_epochs and now - self._kept_at >= CHECKPOINT_AFTER_S:
                await asyncio.to_thread(self._keep, training.carry)
                self._kept_at, kept_epochs = loop.time(), training.carry.epochs
            await self._beside.rest(now - began, self._until)
        return _trained(training.carry, course.epochs * lesson.batches)

    async def _on_one_batch(self, asked: Asked, number: int) -> Trained:
        """`asked.epochs` steps on one minibatch. They are few, so what they need goes along with them."""
        lesson, loop = self._lesson, asyncio.get_running_loop()
        course = replace(lesson.course, epochs=asked.epochs, learning_rate=asked.learning_rate)
        carry, extras = self._trainer.begin(asked.start), self._extras(asked)
        training = self._trainer.training(carry, asked.anchors or asked.start, extras, is_short=True)
        self._minibatches = self._minibatches or Minibatches(lesson.course, len(lesson.data.train_x))
        batch, left = self._minibatches.at(number), asked.epochs
        while left:
            part = batch.repeated(min(left, training.most_steps(course, lesson.data)))
            left -= part.steps
            began = loop.time()
            await self._advance(training, part, course)
            self._busy_s += loop.time() - began
        if self._busy_s >= REST_AFTER_S:
            busy_s, self._busy_s = self._busy_s, 0.0
            await self._beside.rest(busy_s, self._until)
        return _trained(training.carry, asked.epochs)

    async def _advance(self, training: Training, segment: Segment, course: Course) -> None:
        """One segment in a thread, so that the link stays alive. When this is cancelled, no more follow."""
        left_s = self._until - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise TrainingTimedOut(f"train: out of time after epoch {training.carry.epochs} of {course.epochs}")
        await asyncio.to_thread(training.advance, segment, self._lesson.data, course.learning_rate, limit_s=left_s)

    def _extras(self, asked: Asked) -> Extras:
        return Extras(asked.corrections, self._lesson.noise, asked.hyperparameters)

    def _keep(self, carry: Carry) -> None:
        if self._asked <= TRAININGS_KEPT:
            _save(self._state, self._lesson, self._trainer.manifest, _Standing(tuple(self._finished), carry))

    # ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _measure(self, asked: Measuring) -> Measured:
        data, plan = self._lesson.data, self._lesson.plan
        if "train" in asked.splits:
            return Measured(_means(await self._evaluate(asked.parameters, data.train_x, data.train_y)))
        if not len(data.test_x) or not (plan.evaluate or plan.task == "evaluate"):
            return Measured()
        found = await self._evaluate(asked.parameters, data.test_x, data.test_y)
        for split in asked.splits:
            self.told += told_as(found, split)
        return Measured(_means(found))

    async def _evaluate(self, parameters: Sequence[Array], x: Array, y: Array) -> Evaluation:
        halted, left_s = threading.Event(), self._until - asyncio.get_running_loop().time()
        try:
            return await asyncio.to_thread(
                self._trainer.evaluate, parameters, x, y, time_limit_s=left_s, halted=halted.is_set
            )
        finally:
            halted.set()


def _trained(carry: Carry, steps: int) -> Trained:
    return Trained(carry.parameters, carry.sums, carry.weight, steps)


def _means(found: Evaluation) -> dict[str, float]:
    return {metric.name: metric.total / metric.weight for metric in found.metrics if metric.weight > 0}


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Standing:
    """How far a plan is: its finished trainings, in order, and where the one behind them stands."""

    finished: tuple[Trained, ...]
    carry: Carry


def _save(state: LocalState, lesson: Lesson, manifest: Manifest, standing: _Standing) -> None:
    carry = standing.carry
    arrays = _named("", manifest, carry.parameters, carry.sums)
    arrays |= {f"slot {s.name}": value for s, value in zip(manifest.slots, carry.slots, strict=True)}
    for number, done in enumerate(standing.finished):
        arrays |= _named(f"{number} ", manifest, done.parameters, done.sums)
    finished = [[done.weight, done.steps] for done in standing.finished]
    state.save_checkpoint(
        lesson.identity, {"epochs": carry.epochs, "weight": carry.weight, "finished": finished}, arrays
    )


def _named(prefix: str, manifest: Manifest, parameters: Sequence[Array], sums: Mapping[str, Array]) -> dict[str, Array]:
    named = {f"{prefix}parameter {p.name}": value for p, value in zip(manifest.parameters, parameters, strict=True)}
    return named | {f"{prefix}sum {name}": value for name, value in sums.items()}


def _standing(manifest: Manifest, lesson: Lesson, state: LocalState) -> _Standing | None:
    """Where this plan stood before a reboot."""
    frame = state.checkpoint(lesson.identity) if state.has_checkpoint else None
    if frame is None:
        return None
    arrays, header = frame.arrays, frame.header
    try:
        slots = tuple(_sound(arrays[f"slot {s.name}"], s.shape, np.float32) for s in manifest.slots)
        parameters, sums = _read("", manifest, arrays)
        carry = Carry(parameters, slots, sums, float(header["weight"]), int(header["epochs"]))
        finished = tuple(
            Trained(*_read(f"{number} ", manifest, arrays), float(weight), int(steps))
            for number, (weight, steps) in enumerate(header["finished"])
        )
    except (KeyError, ValueError, TypeError) as error:
        log.warning("the checkpoint does not fit its plan (%s); the training begins anew", error)
        return None
    log.info("training %d goes on after epoch %d", len(finished) + 1, carry.epochs)
    return _Standing(finished, carry)


def _read(prefix: str, manifest: Manifest, arrays: Mapping[str, Array]) -> tuple[tuple[Array, ...], dict[str, Array]]:
    named = ((arrays[f"{prefix}parameter {p.name}"], p.shape) for p in manifest.parameters)
    sums = {name: _sound(arrays[f"{prefix}sum {name}"], (), np.float64) for name in manifest.metrics}
    return tuple(_sound(value, shape, np.float32) for value, shape in named), sums


def _sound(found: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Raises ValueError for another shape or type, or what is not finite."""
    if found.shape != shape or found.dtype != dtype:
        raise ValueError(f"{found.dtype} {list(found.shape)} where {np.dtype(dtype)} {list(shape)} belongs")
    if not np.isfinite(found).all():
        raise ValueError("holds NaN or infinity")
    return found
