"""Law: an example never leaves this module; what goes up is a weighted sum, its weight, and sums of metrics.

Plan + data → train → weigh → `Delta`. Clip, noise, compression, masks and signatures take their places in that line.
How it trains is the method's to say (`core.local`, `core.personalise`); what it keeps for itself outlives a reboot.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from headwater.core.aggregate import weighted
from headwater.core.local import Memory, Outcome, Setting, pace
from headwater.core.local.method import Arrays, with_own
from headwater.core.personalise import evaluation_of, round_of
from headwater.device.coach import Beside, Coach, Lesson, NotNow
from headwater.device.memory import CHOSEN, STEPS_PER_S, Memories, fitting
from headwater.device.runtime.client import Worker
from headwater.device.runtime.failures import GraphRefused, TrainingDiverged, TrainingTimedOut, WorkerFailed
from headwater.device.runtime.steps import Course
from headwater.device.runtime.trainer import NOTHING_TOLD, Evaluation, Trainer, statistics, summed
from headwater.device.sharing import Sharing
from headwater.device.sources import DataMismatch, Dataset, Source, fits
from headwater.device.state import LocalState
from headwater.node.child import Assignment, Decline
from headwater.node.places import own
from headwater.node.tasks import Background
from headwater.node.uplink import Going, Link, going
from headwater.schemas.manifest import LOCAL_STEPS, TRAIN_S, Manifest
from headwater.schemas.messages import Bundle, Delta, Metric, Model, ObjectRef, Plan, RoundKey
from headwater.schemas.statuses import DataStatus
from headwater.schemas.tensors import Array, TensorError, companion_specs, decode_tensors, encode_tensors, models_of

log = logging.getLogger("headwater.device")

TRAINERS_KEPT: Final = 2
"""Bundles known at once: this run's and the last one's."""

MAX_REFUSALS_NOTED: Final = 8
"""At once; one more is taken for granted not to have been."""


class _NoData(Exception):
    """No source under the plan's key, or one that has nothing yet."""


class _NoTests(Exception):
    """An evaluation was asked for, and there is nothing to evaluate on."""


@dataclass(frozen=True, slots=True)
class Means:
    """What an agent works with. `entropy` gives a generator that nobody else can follow."""

    worker: Worker = field(default_factory=Worker)
    state: LocalState = field(default_factory=lambda: LocalState(Path("headwater-state")))
    sharing: Sharing | None = None
    beside: Beside = field(default_factory=Beside)
    entropy: Callable[[], np.random.Generator] = np.random.default_rng


class Agent:
    """The device's work on a plan.

    Args:
        sources: by data key; a plan names the key that it is about.
        time_limit_s: no training takes longer, whatever the plan allows.
    """

    def __init__(
        self, node: str, sources: Mapping[str, Source], *, time_limit_s: float, means: Means | None = None
    ) -> None:
        self._node = node
        self._sources = sources
        self._time_limit_s = time_limit_s
        self._means = means or Means()
        self._memories = Memories(self._means.state)
        self._noting = Background(MAX_REFUSALS_NOTED)
        self._trainers: dict[bytes, Trainer] = {}
        self._one_at_a_time = asyncio.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether it is at work on a plan, or on what became of one."""
        return self._one_at_a_time.locked()

    def data(self) -> dict[str, DataStatus]:
        """What this device says of its data: how many examples, under which keys."""
        statuses = {key: source.status() for key, source in self._sources.items()}
        known = {key: status for key, status in statuses.items() if status is not None}
        sharing = self._means.sharing
        if sharing is None:
            return known
        return {key: sharing.with_histogram(key, status) for key, status in known.items()}

    def refused(self, key: RoundKey) -> None:
        """The delta of a plan was not taken: what was kept in case it would be is not so."""
        self._noting.start(self._note_refused(key))

    async def _note_refused(self, key: RoundKey) -> None:
        async with self._one_at_a_time:
            await self._memories.refused(key)

    async def work(self, assignment: Assignment) -> Delta | Decline:
        """The delta of one plan, or why there is none. Cancelled, it stops at the next segment of steps."""
        plan = assignment.plan
        async with self._one_at_a_time:
            try:
                return await self._contribute(own(assignment, self._node))
            except _NoData:
                known = ", ".join(self.data()) or "nothing"
                return Decline("no_data", f"data: no {plan.data!r} here; this device has {known}")
            except _NoTests:
                return Decline("no_data", f"data: {plan.data!r} has no test part here; set its test_fraction")
            except GraphRefused as error:
                return Decline("unsupported_graph", str(error))
            except DataMismatch as error:
                return Decline("wrong_data", str(error))
            except TensorError as error:
                return Decline(error.reason, f"model: {error}")
            except NotNow as error:
                return Decline("not_now", str(error))
            except (TrainingTimedOut, TrainingDiverged, WorkerFailed) as error:
                return Decline("training_failed", str(error))

    async def _contribute(self, assignment: Assignment) -> Delta:
        assignment = own(assignment, self._node)
        plan, manifest = assignment.plan, assignment.bundle.manifest
        deadline = assignment.arrived_at + plan.deadline_s
        source = self._sources.get(plan.data)
        if source is None:
            raise _NoData
        await self._means.beside.ready(deadline)
        until = min(asyncio.get_running_loop().time() + self._time_limit_s, deadline)
        data = await asyncio.to_thread(source.snapshot)
        if data is None:
            raise _NoData
        fits(data, manifest)
        if self._means.sharing is not None:
            await asyncio.to_thread(self._means.sharing.saw, plan.data, data)
        await self._means.beside.allowed(plan, len(data.train_x))
        began = asyncio.get_running_loop().time()
        delta = await self._made(assignment, data, until)
        return _timed(delta, asyncio.get_running_loop().time() - began)

    async def _made(self, assignment: Assignment, data: Dataset, until: float) -> Delta:
        """The delta of a plan that the data fit. `until` is of the loop's time."""
        plan, manifest = assignment.plan, assignment.bundle.manifest
        models = models_of(manifest, assignment.model)
        if plan.task == "statistics":
            sums = await asyncio.to_thread(statistics, data)
            return self._delta(plan, len(data.train_x), sums, NOTHING_TOLD)
        trainer = await asyncio.to_thread(self._trainer, plan.bundle, assignment.bundle)
        memory = await self._memories.of(plan.key.run)
        lesson = self._lesson(plan, manifest, data, memory.at(plan.key))
        setting = self._setting(lesson, manifest, models, assignment.model, memory)
        coach = Coach(trainer, lesson, self._means.state, self._means.beside, until)
        if plan.task == "evaluate":
            if not len(data.test_x):
                raise _NoTests
            await coach.follow(evaluation_of(setting))
            return self._delta(plan, len(data.test_x), (), coach.told)
        began = asyncio.get_running_loop().time()
        outcome = await coach.follow(round_of(setting))
        elapsed_s = asyncio.get_running_loop().time() - began
        update = self._update(plan, manifest, data, outcome, coach.told)
        gone = await self._going(assignment, update, weighted(outcome.terms, data.weight), setting.memory)
        after = _after(memory, plan, setting, outcome, elapsed_s, gone)
        await self._memories.put(plan.key.run, after)
        return gone.delta

    def _trainer(self, ref: ObjectRef, bundle: Bundle) -> Trainer:
        trainer = self._trainers.pop(ref.sha256, None) or Trainer(bundle, self._means.worker)
        self._trainers[ref.sha256] = trainer
        while len(self._trainers) > TRAINERS_KEPT:
            del self._trainers[next(iter(self._trainers))]
        return trainer

    def _lesson(self, plan: Plan, manifest: Manifest, data: Dataset, kept: Arrays) -> Lesson:
        course = Course(
            batch_size=plan.batch_size,
            epochs=plan.local_epochs,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            key=plan.key,
            node=self._node,
        )
        course = replace(course, epochs=_epochs(plan, course.steps_a_pass(len(data.train_x)), kept))
        return Lesson(plan, course, data, self._means.entropy() if manifest.variant == "clipped" else None)

    def _setting(
        self,
        lesson: Lesson,
        manifest: Manifest,
        models: tuple[tuple[Array, ...], ...],
        message: Model,
        memory: Memory,
    ) -> Setting:
        plan = lesson.plan
        kept = fitting(manifest, memory.at(plan.key))
        specs = len(models) * companion_specs(manifest, plan.learning)
        return Setting(
            manifest=manifest,
            learning=plan.learning,
            models=tuple(with_own(manifest, model, kept) for model in models),
            epochs=lesson.course.epochs,
            learning_rate=plan.learning_rate,
            batches=lesson.batches,
            companions=decode_tensors(message.companions, specs) if message.companions else (),
            memory=kept,
        )

    async def _going(self, assignment: Assignment, update: Delta, terms: Sequence[Array], memory: Arrays) -> Going:
        """The update as it goes up. To encode one takes a while; to leave it as it is does not."""
        plan, manifest = assignment.plan, assignment.bundle.manifest
        link = Link(plan, manifest, plan.learning.uplink, assignment.masks)
        arguments = update, terms, link, memory, self._means.entropy()
        return await asyncio.to_thread(going, *arguments) if link.is_on else going(*arguments)

    def _update(self, plan: Plan, manifest: Manifest, data: Dataset, outcome: Outcome, told: Evaluation) -> Delta:
        """The delta of a round of training, without its tensors."""
        trained, weight = outcome.trained, data.weight
        told = summed(manifest, "train", trained.sums, trained.weight) + told
        if outcome.local_steps is not None:
            steps = Metric(split="train", name=LOCAL_STEPS, total=weight * outcome.local_steps, weight=weight)
            told += Evaluation((steps,))
        delta = self._delta(plan, len(data.train_x), (), told, weight)
        if outcome.of_models == 1:
            return delta
        shares = tuple(weight if model == outcome.chosen else 0.0 for model in range(outcome.of_models))
        return delta.model_copy(update={"shares": shares})

    def _delta(
        self, plan: Plan, examples: int, terms: Sequence[Array], told: Evaluation, weight: float | None = None
    ) -> Delta:
        """`weight`: what the examples count together, where that is not their number."""
        return Delta.model_construct(
            key=plan.key,
            sender=self._node,
            task=plan.task,
            weight=float(examples) if weight is None else weight,
            examples=examples,
            devices=1,
            tensors=encode_tensors(terms),
            metrics=told.metrics,
            tallies=told.tallies,
        )


def _timed(delta: Delta, worked_s: float) -> Delta:
    """The delta, which tells how long the device worked on it."""
    spent = Metric(split="train", name=TRAIN_S, total=worked_s, weight=1.0)
    return delta.model_copy(update={"metrics": (*delta.metrics, spent)})


def _epochs(plan: Plan, steps_a_pass: int, kept: Arrays) -> int:
    """What the plan says, or where it gives a time, as many as this device makes in it."""
    wanted = plan.learning.pace
    if not wanted.target_s:
        return plan.local_epochs
    speed = float(kept[STEPS_PER_S]) if STEPS_PER_S in kept else None
    return pace.epochs_within(wanted.target_s, speed, steps_a_pass, wanted.max_epochs)


def _after(memory: Memory, plan: Plan, setting: Setting, outcome: Outcome, elapsed_s: float, gone: Going) -> Memory:
    """What is kept behind a round. All that it took counts for the speed, so that the whole round fits its time."""
    kept = dict(outcome.kept)
    if outcome.of_models > 1:
        kept[CHOSEN] = np.array(outcome.chosen)
    if plan.learning.pace.target_s:
        speed = setting.memory.get(STEPS_PER_S)
        told = pace.measured(None if speed is None else float(speed), setting.epochs * setting.batches, elapsed_s)
        kept[STEPS_PER_S] = np.array(told)
    return memory.after(plan.key, kept, {**outcome.if_taken, **gone.if_taken}, gone.if_refused)
