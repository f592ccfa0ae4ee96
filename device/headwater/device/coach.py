"""Law: a plan is trained in segments, and between two of them the device may rest, wait, keep where it stands, or stop.

A checkpoint is written after an epoch, and only when two seconds of work have gone by since the last: plans that are
short never touch the disk, and a reboot costs one epoch or two seconds, whichever is longer.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from headwater.device.conditions import pause_s
from headwater.device.runtime.failures import TrainingTimedOut
from headwater.device.runtime.steps import Course, Segment, Steps
from headwater.device.runtime.trainer import Carry, Extras, Trainer, Training
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


class NotNow(Exception):
    """The device's own conditions did not hold for as long as the plan could wait."""


@dataclass(frozen=True, slots=True)
class Beside:
    """How a training lives beside the device's own work. `obstacle` looks at the sensors."""

    obstacle: Callable[[], str | None] = lambda: None
    conditions: ConditionSettings = field(default_factory=ConditionSettings)
    look_every_s: float = LOOK_EVERY_S

    async def ready(self, until: float) -> None:
        """Wait until the conditions hold; the log says for which. Raises NotNow at the loop's time `until`."""
        loop, told = asyncio.get_running_loop(), ""
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


@dataclass(frozen=True, slots=True)
class Lesson:
    """One plan's training."""

    plan: Plan
    course: Course
    received: Sequence[Array]
    data: Dataset
    extras: Extras

    @property
    def identity(self) -> Mapping[str, Any]:
        """What must be the same for a checkpoint to be of this training."""
        plan, key = self.plan, self.plan.key
        return {
            "key": [key.run, key.round, key.step, key.attempt],
            "model": plan.model.sha256.hex(),
            "bundle": plan.bundle.sha256.hex(),
            "course": [plan.data, plan.local_epochs, plan.batch_size, plan.learning_rate, plan.seed],
            "examples": len(self.data.train_x),
        }


async def train(trainer: Trainer, lesson: Lesson, state: LocalState, beside: Beside, until: float) -> Carry:
    """Train a plan to its end.

    Args:
        until: the loop's time at which it is too late.

    Raises:
        TrainingTimedOut, TrainingDiverged, GraphRefused, WorkerFailed: as `Trainer.train`.
        NotNow: the conditions stopped to hold, for longer than the plan could wait.
    """
    loop, course = asyncio.get_running_loop(), lesson.course
    carry = _resumed(trainer, lesson, state) or trainer.begin(lesson.received)
    training = trainer.training(carry, lesson.received, lesson.extras)
    steps = Steps(course, len(lesson.data.train_x), begin=carry.epochs)
    kept_at, kept_epochs = loop.time(), carry.epochs
    while segment := steps.take(training.most_steps(course, lesson.data)):
        left_s = until - loop.time()
        if left_s <= 0:
            raise TrainingTimedOut(f"train: out of time after epoch {training.carry.epochs} of {course.epochs}")
        began = loop.time()
        await _advance(training, segment, lesson, left_s)
        now = loop.time()
        if training.carry.epochs > kept_epochs and now - kept_at >= CHECKPOINT_AFTER_S:
            await asyncio.to_thread(_keep, state, lesson, trainer.manifest, training.carry)
            kept_at, kept_epochs = loop.time(), training.carry.epochs
        await _rest(beside, now - began, until)
    return training.carry


async def _advance(training: Training, segment: Segment, lesson: Lesson, left_s: float) -> None:
    """One segment in a thread, so that the link stays alive. When this is cancelled, no more follow."""
    await asyncio.to_thread(training.advance, segment, lesson.data, lesson.course.learning_rate, limit_s=left_s)


async def _rest(beside: Beside, busy_s: float, until: float) -> None:
    pause = pause_s(beside.conditions, busy_s)
    if pause > 0:
        await asyncio.sleep(pause)
    await beside.ready(until)


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────────────────


def _keep(state: LocalState, lesson: Lesson, manifest: Manifest, carry: Carry) -> None:
    arrays: dict[str, Array] = {}
    arrays |= {f"parameter {p.name}": value for p, value in zip(manifest.parameters, carry.parameters, strict=True)}
    arrays |= {f"slot {s.name}": value for s, value in zip(manifest.slots, carry.slots, strict=True)}
    arrays |= {f"sum {name}": value for name, value in carry.sums.items()}
    state.save_checkpoint(lesson.identity, {"epochs": carry.epochs, "weight": carry.weight}, arrays)


def _resumed(trainer: Trainer, lesson: Lesson, state: LocalState) -> Carry | None:
    """Where this plan stood before a reboot."""
    frame = state.checkpoint(lesson.identity)
    if frame is None:
        return None
    begin, manifest = trainer.begin(lesson.received), trainer.manifest
    try:
        carry = Carry(
            _like(begin.parameters, [frame.arrays[f"parameter {p.name}"] for p in manifest.parameters]),
            _like(begin.slots, [frame.arrays[f"slot {s.name}"] for s in manifest.slots]),
            {name: _like([value], [frame.arrays[f"sum {name}"]])[0] for name, value in begin.sums.items()},
            float(frame.header["weight"]),
            int(frame.header["epochs"]),
        )
    except (KeyError, ValueError) as error:
        log.warning("the checkpoint does not fit its plan (%s); the training begins anew", error)
        return None
    log.info("training goes on after epoch %d of %d", carry.epochs, lesson.course.epochs)
    return carry


def with_personal(manifest: Manifest, received: Sequence[Array], kept: Mapping[str, Array]) -> tuple[Array, ...]:
    """The received parameters with this device's own over them; own ones that do not fit begin anew."""
    personal = {parameter.name for parameter in manifest.parameters if parameter.personal}
    values = []
    for parameter, value in zip(manifest.parameters, received, strict=True):
        own = kept.get(parameter.name) if parameter.name in personal else None
        try:
            values.append(value if own is None else _like([value], [own])[0])
        except ValueError as error:
            log.warning("the personal parameter %s does not fit (%s) and begins anew", parameter.name, error)
            values.append(value)
    return tuple(values)


def personal_of(manifest: Manifest, parameters: Sequence[Array]) -> dict[str, Array]:
    return {p.name: value for p, value in zip(manifest.parameters, parameters, strict=True) if p.personal}


def _like(expected: Sequence[Any], found: Sequence[Any]) -> tuple[Any, ...]:
    """Raises ValueError for another shape or type, or what is not finite."""
    for one, other in zip(expected, found, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ValueError(f"{other.dtype} {list(other.shape)} where {one.dtype} {list(one.shape)} belongs")
        if not np.isfinite(other).all():
            raise ValueError("holds NaN or infinity")
    return tuple(found)
