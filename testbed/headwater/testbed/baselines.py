"""Law: what a device would reach alone is trained by the same graphs, for as many epochs, on its data and no other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headwater.core.graph import compile_bundle
from headwater.core.models import NORMALISER
from headwater.core.normalise import normalised
from headwater.device.runtime.steps import Course
from headwater.device.runtime.trainer import Trainer, statistics
from headwater.device.sources.dataset import Dataset
from headwater.schemas.messages import RoundKey
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import Array

_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Judge:
    """A model's accuracy on named test sets."""

    trainer: Trainer
    tests: dict[str, Dataset]

    def accuracy(self, parameters: tuple[Array, ...]) -> dict[str, float]:
        told = {}
        for name, data in self.tests.items():
            metrics = self.trainer.evaluate(parameters, data.test_x, data.test_y, time_limit_s=_LIMIT_S).metrics
            told[name] = next(m.total / m.weight for m in metrics if m.name == "correct")
        return told


def trainer_of(description: RunDescription, forward: bytes) -> tuple[Trainer, tuple[Array, ...]]:
    """The graphs of a run, and the parameters that it begins with."""
    compiled = compile_bundle(forward, objective=description.objective, name=description.name, frozen=NORMALISER)
    return Trainer(compiled.bundle), compiled.initial


def alone(
    trainer: Trainer,
    initial: tuple[Array, ...],
    description: RunDescription,
    node: str,
    data: Dataset,
    halted: Callable[[], bool] = lambda: False,
) -> tuple[Array, ...]:
    """The model that a device reaches by itself: its own normaliser, and all rounds' epochs on its own examples."""
    sums, examples = statistics(data), float(len(data.train_x))
    parameters = normalised(trainer.manifest, initial, sums, examples)
    epochs = description.local.epochs * description.edge_rounds
    for number in range(1, description.rounds + 1):
        if halted():
            break
        course = Course(
            batch_size=description.local.batch_size,
            epochs=epochs,
            learning_rate=description.local.learning_rate,
            seed=description.seed,
            key=RoundKey(run="alone", round=number),
            node=node,
        )
        parameters = trainer.train(parameters, data, course=course, time_limit_s=_LIMIT_S).parameters
    return parameters


def together(parts: list[Dataset]) -> Dataset:
    """The parts as one data set; the testbed may do what no node can."""
    return Dataset(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("train_x", "train_y", "test_x", "test_y")
        )
    )
