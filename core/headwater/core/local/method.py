"""Law: what a device does in a round is a generator: it asks for trainings and measurements, and ends with an outcome.

    received = setting.received
    trained = yield from train(Training(received, setting.epochs, setting.learning_rate))
    return Outcome(trained, setting.change(trained.parameters))

So a method reads as in its paper, whoever drives it: the device's coach with onnxruntime, or a test with a quadratic.
What it keeps between rounds are named arrays, `<kind> <parameter>`; they never leave the device.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from headwater.core.aggregate import Parameters, Sums, difference, shared
from headwater.schemas.base import Split
from headwater.schemas.learning import Learning
from headwater.schemas.manifest import Manifest, Parameter
from headwater.schemas.tensors import Array

Arrays = Mapping[str, Array]
Kind = Literal["own", "personal", "alone", "local", "control", "dynamic"]
"""Of an array that is kept: this device's values of the parameters that the model says are personal; its personal
model; the one trained alone; APFL's v; SCAFFOLD's c_i; FedDyn's gradient."""

PULL: Final = "proximal"
SHARED_RATE: Final = "shared_rate"
PERSONAL_RATE: Final = "personal_rate"
"""Hyperparameters of train graphs: how strongly anchors pull, and what the learning rate of the shared parameters, and
of the personal ones, is multiplied by."""


@dataclass(frozen=True, slots=True)
class Training:
    """A request to train on the device's own data. Parameters are the manifest's, all, in its order.

    Args:
        anchors: what a proximal term pulls towards, by default `start`.
        corrections: added to the gradients, one for each trainable parameter, by default 0.
        hyperparameters: of the graph, where they are not its defaults.
        batch: only the minibatch of this number is taken, `epochs` times over; the round's order of examples has
            `Setting.batches` of them a pass. Ask for them in ascending order, each as often as needed.
    """

    start: Parameters
    epochs: int
    learning_rate: float
    anchors: Parameters | None = None
    corrections: Sequence[Array] | None = None
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training: `steps` were made, over examples that count `weight` together; `sums` are metrics'."""

    parameters: Parameters
    sums: Mapping[str, NDArray[np.float64]]
    weight: float
    steps: int

    def with_more(self, other: "Trained") -> "Trained":
        """The other's parameters, with what both measured."""
        sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        return Trained(other.parameters, sums, self.weight + other.weight, self.steps + other.steps)


@dataclass(frozen=True, slots=True)
class Measuring:
    """A request to measure a model: on the training part, which stays here, or on the test part, to be told as these
    splits."""

    parameters: Parameters
    splits: tuple[Split, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Means over examples by metric; none where nobody asked for it, or there is nothing to measure on."""

    means: Mapping[str, float] = field(default_factory=dict)


Request = Training | Measuring
Reply = Trained | Measured


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round makes of a device.

    `terms` are what goes up, not yet weighted, in the order of `tensors.delta_specs`. `local_steps` is by how many
    plain steps they were divided, where they were (FedNova). `chosen` is the model that they are about, of `of_models`
    that coexist. `kept` are arrays to keep whatever becomes of the delta, `if_taken` those that follow if it is taken.
    """

    trained: Trained
    terms: Sums
    local_steps: float | None = None
    chosen: int = 0
    of_models: int = 1
    kept: Arrays = field(default_factory=dict)
    if_taken: Arrays = field(default_factory=dict)


Method = Generator[Request, Reply, Outcome]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a device begins a round with.

    `models` coexist, one in most runs, each with this device's own values of the personal parameters. `companions` came
    beside them, as many beside each. `memory` is what was kept, each array fit for its parameter. A pass over the data
    has `batches`.
    """

    manifest: Manifest
    learning: Learning
    models: tuple[Parameters, ...]
    epochs: int
    learning_rate: float
    batches: int = 1
    companions: Parameters = ()
    memory: Arrays = field(default_factory=dict)

    @property
    def received(self) -> Parameters:
        return self.models[0]

    def with_model(self, number: int) -> "Setting":
        """With one of the models that coexist, and what came beside it."""
        each = len(self.companions) // len(self.models)
        beside = self.companions[number * each :][:each]
        return replace(self, models=(self.models[number],), companions=beside)

    @property
    def personal_rate(self) -> float:
        """The learning rate of what is personal."""
        return self.learning.personal.learning_rate or self.learning_rate

    @property
    def controlled(self) -> tuple[Parameter, ...]:
        """The parameters that a strategy's corrections are about: shared, and trainable."""
        return tuple(parameter for parameter in self.manifest.shared if parameter.trainable)

    def change(self, trained: Parameters) -> Sums:
        """new − old of the shared parameters."""
        return difference(shared(self.manifest, trained), shared(self.manifest, self.received))

    def of(self, parameters: Sequence[Array], which: Sequence[Parameter]) -> tuple[Array, ...]:
        """The values of some of the parameters."""
        named = {p.name: value for p, value in zip(self.manifest.parameters, parameters, strict=True)}
        return tuple(named[parameter.name] for parameter in which)

    def put(self, parameters: Parameters, which: Sequence[Parameter], values: Sequence[Array]) -> Parameters:
        """All parameters, with these values of some."""
        named = {p.name: np.asarray(value, np.float32) for p, value in zip(which, values, strict=True)}
        pairs = zip(self.manifest.parameters, parameters, strict=True)
        return tuple(named.get(parameter.name, value) for parameter, value in pairs)

    def recalled(self, kind: Kind, begin: Parameters) -> Parameters:
        """A model that is kept, or `begin`, which also gives what never moves."""
        pairs = zip(self.manifest.parameters, begin, strict=True)
        return tuple(self.memory.get(f"{kind} {p.name}", value) if p.moves else value for p, value in pairs)

    def recalled_of(self, kind: Kind) -> tuple[Array, ...]:
        """What is kept of the controlled parameters, or 0."""
        return tuple(self.memory.get(f"{kind} {p.name}", np.zeros(p.shape, np.float32)) for p in self.controlled)


def train(request: Training) -> Generator[Request, Reply, Trained]:
    """Ask for a training."""
    reply = yield request
    if not isinstance(reply, Trained):
        raise TypeError(f"a training was answered by {type(reply).__name__}")
    return reply


def measure(parameters: Parameters, *splits: Split) -> Generator[Request, Reply, Measured]:
    """Ask for a measurement."""
    reply = yield Measuring(parameters, splits)
    if not isinstance(reply, Measured):
        raise TypeError(f"a measurement was answered by {type(reply).__name__}")
    return reply


def kept_model(manifest: Manifest, kind: Kind, parameters: Sequence[Array]) -> Arrays:
    """A model as it is kept: what moves of it."""
    pairs = zip(manifest.parameters, parameters, strict=True)
    return {f"{kind} {parameter.name}": value for parameter, value in pairs if parameter.moves}


def kept_own(manifest: Manifest, parameters: Sequence[Array]) -> Arrays:
    """The personal parameters of a trained model, as they are kept."""
    pairs = zip(manifest.parameters, parameters, strict=True)
    return {f"own {parameter.name}": value for parameter, value in pairs if parameter.personal}


def kept_of(kind: Kind, which: Sequence[Parameter], values: Sequence[Array]) -> Arrays:
    """Arrays beside some parameters, as they are kept."""
    return {f"{kind} {p.name}": np.asarray(value, np.float32) for p, value in zip(which, values, strict=True)}


def with_own(manifest: Manifest, parameters: Sequence[Array], memory: Arrays) -> Parameters:
    """The parameters, with this device's own values of the personal ones."""
    pairs = zip(manifest.parameters, parameters, strict=True)
    return tuple(memory.get(f"own {p.name}", value) if p.personal else value for p, value in pairs)
