"""A device whose loss is ½·|w − b|², so that what a method does can be worked by hand.

    a step   w ← w − η·r·(w − b + pull·(w − anchor) + correction)        r: the rate of shared or personal parameters

With several targets b each is a minibatch, and a pass takes one step on each.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from headwater.core.local import Measured, Measuring, Reply, Request, Setting, Trained, Training
from headwater.core.local.method import PERSONAL_RATE, PULL, SHARED_RATE
from headwater.schemas.learning import Learning
from headwater.schemas.manifest import Example, Manifest, Parameter

T = TypeVar("T")
Values = tuple[np.ndarray, ...]


def manifest(*parameters: Parameter, momentum: float | None = None) -> Manifest:
    """Of a vector `w` of three, or of these parameters."""
    return Manifest(
        model="m",
        objective="mse",
        parameters=parameters or (Parameter(name="w", shape=(3,)),),
        x=Example(shape=(), dtype="float32"),
        y=Example(shape=(), dtype="float32"),
        metrics=("loss",),
        hyperparameters={} if momentum is None else {"momentum": momentum},
    )


def setting(*received: Sequence[float], **given: object) -> Setting:
    """Of a model of one vector for each of `received`. `learning` are the sections, as in a run's file."""
    learning = Learning.model_validate(given.pop("learning", {}))
    common = {"manifest": manifest(), "epochs": 1, "learning_rate": 0.5}
    models = tuple((np.array(values, np.float32),) for values in received)
    return Setting(**{**common, "learning": learning, "models": models, **given})  # type: ignore[arg-type]


@dataclass
class Quadratic:
    """One device. What it was asked for is in `trainings`, what it told in `told`."""

    targets: Sequence[Values]
    of: Manifest = field(default_factory=manifest)
    momentum: float = 0.0
    trainings: list[Training] = field(default_factory=list)
    told: dict[str, Values] = field(default_factory=dict)

    def follow(self, method: Generator[Request, Reply, T]) -> T:
        """Answer all that a method asks for."""
        reply: Reply | None = None
        while True:
            try:
                request = method.send(reply) if reply else next(method)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            reply = self._trained(request) if isinstance(request, Training) else self._measured(request)

    def _trained(self, request: Training) -> Trained:
        self.trainings.append(request)
        batches = range(len(self.targets)) if request.batch is None else [request.batch % len(self.targets)]
        w = [value.astype(np.float64) for value in request.start]
        velocity = [np.zeros_like(value) for value in w]
        loss, steps = 0.0, 0
        for _ in range(request.epochs):
            for batch in batches:
                loss += self._loss(w, batch)
                steps += 1
                self._step(request, w, velocity, batch)
        parameters = tuple(value.astype(np.float32) for value in w)
        return Trained(parameters, {"loss": np.array(loss)}, float(steps), steps)

    def _step(self, request: Training, w: list[np.ndarray], velocity: list[np.ndarray], batch: int) -> None:
        anchors = request.anchors or request.start
        corrections = request.corrections or [np.zeros_like(value) for value in w]
        hyper = request.hyperparameters
        for place, parameter in enumerate(self.of.parameters):
            rate = hyper.get(PERSONAL_RATE if parameter.personal else SHARED_RATE, 1.0)
            gradient = w[place] - self.targets[batch][place] + corrections[place]
            gradient = gradient + hyper.get(PULL, 0.0) * (w[place] - anchors[place])
            velocity[place] = self.momentum * velocity[place] + gradient
            w[place] = w[place] - request.learning_rate * rate * velocity[place]

    def _loss(self, w: Sequence[np.ndarray], batch: int) -> float:
        return float(sum(np.square(value - b).sum() / 2 for value, b in zip(w, self.targets[batch], strict=True)))

    def _measured(self, request: Measuring) -> Measured:
        self.told |= {split: request.parameters for split in request.splits if split != "train"}
        losses = [self._loss(request.parameters, batch) for batch in range(len(self.targets))]
        return Measured({"loss": float(np.mean(losses))})


def device(*targets: Sequence[float], **given: object) -> Quadratic:
    """A device that wants each of these vectors."""
    return Quadratic([(np.array(target, np.float64),) for target in targets], **given)  # type: ignore[arg-type]
