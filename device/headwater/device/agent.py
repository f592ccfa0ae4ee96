"""Law: an example never leaves this module; what goes up is a weighted sum, its weight, and sums of metrics.

Plan + data → train → weigh → `Delta`. Clip, noise, compression, masks and signatures take their places in that line.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from headwater.core.aggregate import difference, shared, weighted
from headwater.core.batches import minibatches, shuffling
from headwater.device.runtime.guard import GraphRefused
from headwater.device.runtime.trainer import Trainer, TrainingDiverged, TrainingTimedOut
from headwater.device.sources import DataMismatch, Dataset, Source, fits
from headwater.node.child import Assignment, Decline
from headwater.schemas.messages import Bundle, Delta, Metric, Model, ObjectRef, Plan
from headwater.schemas.statuses import DataStatus
from headwater.schemas.tensors import Array, TensorError, decode_tensors, encode_tensors, parameter_specs

log = logging.getLogger("headwater.device")

TRAINERS_KEPT: Final = 2
"""Compiled graphs held at once: this run's and the last one's."""


class Agent:
    """The device's work on a plan.

    Args:
        sources: by data key; a plan names the key that it is about.
        time_limit_s: no training takes longer, whatever the plan allows.
    """

    def __init__(self, node: str, sources: Mapping[str, Source], *, time_limit_s: float) -> None:
        self._node = node
        self._sources = sources
        self._time_limit_s = time_limit_s
        self._trainers: dict[bytes, Trainer] = {}
        self._one_at_a_time = asyncio.Lock()

    def data(self) -> dict[str, DataStatus]:
        """What this device says of its data: how many examples, under which keys."""
        statuses = {key: source.status() for key, source in self._sources.items()}
        return {key: status for key, status in statuses.items() if status is not None}

    async def work(self, assignment: Assignment) -> Delta | Decline:
        """The delta of one plan, or why there is none. It is computed in a thread, so that the link stays alive."""
        plan = assignment.plan
        source = self._sources.get(plan.data)
        dataset = await asyncio.to_thread(source.snapshot) if source else None
        if dataset is None:
            known = ", ".join(self.data()) or "nothing"
            return Decline("no_data", f"data: no {plan.data!r} here; this device has {known}")
        async with self._one_at_a_time:
            try:
                trainer = self._trainer(plan.bundle, assignment.bundle)
                fits(dataset, assignment.bundle.manifest)
                return await asyncio.to_thread(self._contribute, plan, trainer, assignment.model, dataset)
            except GraphRefused as error:
                return Decline("unsupported_graph", str(error))
            except DataMismatch as error:
                return Decline("wrong_data", str(error))
            except TensorError as error:
                return Decline(error.reason, f"model: {error}")
            except (TrainingTimedOut, TrainingDiverged) as error:
                return Decline("training_failed", str(error))

    def _trainer(self, ref: ObjectRef, bundle: Bundle) -> Trainer:
        trainer = self._trainers.pop(ref.sha256, None) or Trainer(bundle)
        self._trainers[ref.sha256] = trainer
        while len(self._trainers) > TRAINERS_KEPT:
            del self._trainers[next(iter(self._trainers))]
        return trainer

    def _contribute(self, plan: Plan, trainer: Trainer, model: Model, dataset: Dataset) -> Delta:
        manifest = trainer.manifest
        parameters = decode_tensors(model.tensors, parameter_specs(manifest.parameters))
        limit_s = min(self._time_limit_s, plan.deadline_s)
        match plan.task:
            case "train":
                terms, metrics = self._train(plan, trainer, parameters, dataset, limit_s)
                weight = len(dataset.train_x)
            case "evaluate":
                terms, metrics = (), ()
                weight = len(dataset.test_x)
            case "statistics":
                terms, metrics = trainer.statistics(dataset), ()
                weight = len(dataset.train_x)
        if (plan.evaluate or plan.task == "evaluate") and len(dataset.test_x):
            metrics += trainer.evaluate(parameters, dataset.test_x, dataset.test_y, time_limit_s=limit_s)
        return Delta(
            key=plan.key,
            sender=self._node,
            task=plan.task,
            weight=float(weight),
            examples=weight,
            devices=1,
            tensors=encode_tensors(terms),
            metrics=metrics,
        )

    def _train(
        self, plan: Plan, trainer: Trainer, parameters: tuple[Array, ...], dataset: Dataset, limit_s: float
    ) -> tuple[tuple[Array, ...], tuple[Metric, ...]]:
        examples = len(dataset.train_x)
        order, mask = minibatches(
            examples, plan.batch_size, plan.local_epochs, shuffling(plan.seed, plan.key, self._node)
        )
        result = trainer.train(
            parameters, dataset, order=order, mask=mask, learning_rate=plan.learning_rate, time_limit_s=limit_s
        )
        change = difference(result.parameters, shared(trainer.manifest, parameters))
        return weighted(change, examples), result.metrics
