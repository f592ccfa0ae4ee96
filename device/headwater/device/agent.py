"""Law: an example never leaves this module; what goes up is a weighted sum, its weight, and sums of metrics.

Plan + data → train → weigh → `Delta`. Clip, noise, compression, masks and signatures take their places in that line.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from headwater.core.aggregate import difference, shared, weighted
from headwater.device.coach import Beside, Lesson, NotNow, personal_of, train, with_personal
from headwater.device.runtime.client import Worker
from headwater.device.runtime.failures import GraphRefused, TrainingDiverged, TrainingTimedOut, WorkerFailed
from headwater.device.runtime.steps import Course
from headwater.device.runtime.trainer import Carry, Evaluation, Extras, Trainer, statistics, summed
from headwater.device.sources import DataMismatch, Dataset, Source, fits
from headwater.device.state import LocalState
from headwater.node.child import Assignment, Decline
from headwater.schemas.messages import Bundle, Delta, ObjectRef, Plan
from headwater.schemas.statuses import DataStatus
from headwater.schemas.tensors import Array, TensorError, decode_tensors, encode_tensors, parameter_specs

log = logging.getLogger("headwater.device")

TRAINERS_KEPT: Final = 2
"""Bundles known at once: this run's and the last one's."""

_NOTHING: Final = Evaluation(())


class _NoData(Exception):
    """No source under the plan's key, or one that has nothing yet."""


class _NoTests(Exception):
    """An evaluation was asked for, and there is nothing to evaluate on."""


@dataclass(frozen=True, slots=True)
class Means:
    """What an agent works with. `entropy` gives a generator that nobody else can follow."""

    worker: Worker = field(default_factory=Worker)
    state: LocalState = field(default_factory=lambda: LocalState(Path("headwater-state")))
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
        self._trainers: dict[bytes, Trainer] = {}
        self._one_at_a_time = asyncio.Lock()

    def data(self) -> dict[str, DataStatus]:
        """What this device says of its data: how many examples, under which keys."""
        statuses = {key: source.status() for key, source in self._sources.items()}
        return {key: status for key, status in statuses.items() if status is not None}

    async def work(self, assignment: Assignment) -> Delta | Decline:
        """The delta of one plan, or why there is none. Cancelled, it stops at the next segment of steps."""
        plan = assignment.plan
        async with self._one_at_a_time:
            try:
                return await self._contribute(assignment)
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
        parameters = decode_tensors(assignment.model.tensors, parameter_specs(manifest.parameters))
        if plan.task == "statistics":
            sums = await asyncio.to_thread(statistics, data)
            return self._delta(plan, len(data.train_x), sums, _NOTHING)
        trainer = await asyncio.to_thread(self._trainer, plan.bundle, assignment.bundle)
        if any(parameter.personal for parameter in manifest.parameters):
            kept = await asyncio.to_thread(self._means.state.personal, plan.key.run)
            parameters = with_personal(manifest, parameters, kept)
        if plan.task == "evaluate":
            if not len(data.test_x):
                raise _NoTests
            told = await self._evaluate(trainer, parameters, data, until)
            return self._delta(plan, len(data.test_x), (), told)
        carry = await self._train(plan, trainer, parameters, data, until)
        told = summed(manifest, "train", carry.sums, carry.weight)
        if plan.evaluate:
            told += await self._evaluate(trainer, parameters, data, until)
        change = difference(shared(manifest, carry.parameters), shared(manifest, parameters))
        return self._delta(plan, len(data.train_x), weighted(change, data.weight), told, data.weight)

    def _trainer(self, ref: ObjectRef, bundle: Bundle) -> Trainer:
        trainer = self._trainers.pop(ref.sha256, None) or Trainer(bundle, self._means.worker)
        self._trainers[ref.sha256] = trainer
        while len(self._trainers) > TRAINERS_KEPT:
            del self._trainers[next(iter(self._trainers))]
        return trainer

    async def _train(
        self, plan: Plan, trainer: Trainer, parameters: tuple[Array, ...], data: Dataset, until: float
    ) -> Carry:
        manifest, means = trainer.manifest, self._means
        course = Course(
            batch_size=plan.batch_size,
            epochs=plan.local_epochs,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            key=plan.key,
            node=self._node,
        )
        extras = Extras(noise=means.entropy() if manifest.variant == "clipped" else None)
        carry = await train(trainer, Lesson(plan, course, parameters, data, extras), means.state, means.beside, until)
        personal = personal_of(manifest, carry.parameters)
        if personal:
            await asyncio.to_thread(means.state.save_personal, plan.key.run, personal)
        return carry

    async def _evaluate(
        self, trainer: Trainer, parameters: tuple[Array, ...], data: Dataset, until: float
    ) -> Evaluation:
        """The received model, with this device's own parameters, on the test part."""
        if not len(data.test_x):
            return _NOTHING
        halted, left_s = threading.Event(), until - asyncio.get_running_loop().time()
        try:
            return await asyncio.to_thread(
                trainer.evaluate, parameters, data.test_x, data.test_y, time_limit_s=left_s, halted=halted.is_set
            )
        finally:
            halted.set()

    def _delta(
        self, plan: Plan, examples: int, terms: Sequence[Array], told: Evaluation, weight: float | None = None
    ) -> Delta:
        """`weight`: what the examples count together, where that is not their number."""
        return Delta(
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
