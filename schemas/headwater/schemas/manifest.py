"""Law: the order and the shape of everything that enters or leaves a graph is said here, never guessed.

A model is data: forward ONNX compiled into graphs, and this manifest, which names what they take
and give. Initializer order, exporter names and file order carry no meaning.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, FiniteFloat, model_validator

from headwater.schemas import limits
from headwater.schemas.base import Dtype, Frozen, Name, Shape, added_later

Objective = Literal["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber", "reconstruction"]
GraphName = Literal["train", "evaluate", "infer"]
Variant = Literal["plain", "proximal", "corrected", "clipped", "alternating"]


LOCAL_STEPS: Final = "local_steps"
"""A metric that any delta may have: by how many plain steps a device's normalised update is (FedNova)."""

SKETCH_BUCKETS: Final = 128
"""Of a quantile sketch of errors; what they cover is `core.sketch`'s to say."""

TRAIN_S: Final = "train_s"
"""A metric that any delta may have: the seconds that a device worked on the plan, in all its edge rounds; the weight is
1 a device."""

WAIT_S: Final = "wait_s"
"""A metric that a gateway's delta may have: the seconds that a device's update waited below it for those of others; the
weight is 1 a device."""

SPENT: Final = frozenset({TRAIN_S, WAIT_S})
"""Those that say nothing of a model, and are told as a round's times."""

STANDING_METRICS: Final = SPENT | {LOCAL_STEPS}
"""Those that are no manifest's."""

DEVICE_TALLIES: Final = {"device_correct": 101, "device_loss": SKETCH_BUCKETS}
"""Tallies that any delta may have: how many devices have which accuracy, by hundredths, or which loss, by sketch."""


class Parameter(Frozen):
    """One tensor of the model. What neither trains nor is state stays as the model version has it.

    `state` marks a running statistic: training moves it, no gradient does, and it is averaged like a weight.
    `personal` marks one that trains and never leaves its device.
    """

    name: Name
    shape: Shape
    trainable: bool = True
    state: Annotated[bool, added_later(False)] = False
    personal: Annotated[bool, added_later(False)] = False

    @model_validator(mode="after")
    def _state_does_not_train(self) -> "Parameter":
        if self.state and self.trainable:
            raise ValueError("state: a running statistic has no gradient, so it cannot be trainable")
        if self.personal and not self.moves:
            raise ValueError("personal: a parameter that never moves is the same everywhere")
        return self

    @property
    def moves(self) -> bool:
        """Whether the train graph returns a new value of it."""
        return self.trainable or self.state


class Slot(Frozen):
    """A tensor of the local optimiser's own, zero at the beginning of a round."""

    name: Name
    shape: Shape


class Tally(Frozen):
    """A vector of sums over examples: counts by class, or the buckets of a quantile sketch."""

    name: Name
    length: Annotated[int, Field(ge=1, le=limits.MAX_TALLY_LENGTH)]


class Example(Frozen):
    """One example's tensor, without the batch axis. `classes` is 0 where the target is not a label."""

    shape: Shape
    dtype: Dtype
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Manifest(Frozen):
    """What the graphs of a model take and give; all of it goes by name, and what a graph does not use it does not take.

    `train`, a run of minibatch steps. It takes
        every parameter, by its own name;
        `x` `[n, *x.shape]`, `y` `[n, *y.shape]` (none where the objective is reconstruction);
        `order` int64 `[steps, batch]`, row indices into x and y;
        `mask` float32 `[steps, batch]`, the examples' weights, 0 for the filler of a ragged last batch;
        `learning_rate` float32 `[steps]`;
        `seeds` int64 `[steps]`, where the model draws random numbers (`random`);
        `slot_<name>` for each slot, and a scalar `hyper_<name>` for each hyperparameter;
        variant proximal: `anchor_<name>` for each trainable parameter, what the proximal term pulls towards;
        variant corrected: `correction_<name>` for each, added to its gradient;
        variant clipped: `noise_<name>` `[steps, *shape]` for each, standard normal;
        variant alternating: nothing more; `hyper_shared_rate` and `hyper_personal_rate` multiply the learning rate of
        the shared and of the personal parameters, so that the one or the other may stand still.
    It gives `new_<name>` for each parameter that moves, `new_slot_<name>` for each slot, and a float32 scalar for each
    name in `metrics`. What it gives it takes again, so steps may be cut into runs
    anywhere without a trace.
    `evaluate` takes every parameter, `x`, `y` and `mask` float32 `[n]`, and gives the metrics, and a float32 vector
    for each tally.
    `infer` takes every parameter and `x`, and gives `prediction`.
    Metrics and tallies are sums over examples times their weights: they add up along the tree, and the divisor is the
    sum of the weights. All parameters are float32.
    """

    model: Name
    objective: Objective
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1, max_length=limits.MAX_TENSORS)]
    x: Example
    y: Example | None
    metrics: Annotated[tuple[Name, ...], Field(max_length=limits.MAX_METRICS)]
    tallies: Annotated[tuple[Tally, ...], Field(max_length=limits.MAX_METRICS), added_later(())] = ()
    variant: Annotated[Variant, added_later("plain")] = "plain"
    random: Annotated[bool, added_later(False)] = False
    slots: Annotated[tuple[Slot, ...], Field(max_length=3 * limits.MAX_TENSORS), added_later(())] = ()
    hyperparameters: Annotated[
        dict[Name, FiniteFloat], Field(max_length=limits.MAX_METRICS, default_factory=dict), added_later({})
    ]

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Manifest":
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) != len(names):
            raise ValueError("parameters: two parameters have the same name")
        return self

    @property
    def trainable(self) -> tuple[Parameter, ...]:
        """Those that have a gradient."""
        return tuple(parameter for parameter in self.parameters if parameter.trainable)

    @property
    def moving(self) -> tuple[Parameter, ...]:
        """Those that the train graph returns."""
        return tuple(parameter for parameter in self.parameters if parameter.moves)

    @property
    def shared(self) -> tuple[Parameter, ...]:
        """Those that a delta is about: they move, and they are not personal."""
        return tuple(parameter for parameter in self.parameters if parameter.moves and not parameter.personal)
