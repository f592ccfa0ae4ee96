"""Law: a run is described by one small file; what it does not say has one default, written here.

name = "exercises"
data = "watch"
rounds = 40
[model]
kind = "mlp"
features = 72
classes = 7
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from headwater.schemas import limits
from headwater.schemas.base import Count, Fraction, Frozen, Name, Positive
from headwater.schemas.manifest import Objective

Width = Annotated[int, Field(ge=1, le=65_536)]
Optimiser = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
Rounds = Annotated[int, Field(ge=1, le=1_000_000)]


Patterns = Annotated[tuple[Name, ...], Field(max_length=64)]
"""Name patterns as those of files: `head.*`, `*.bias`."""


class _Model(Frozen):
    """`frozen` names parameters that do not train, `personal` those that train and never leave their device."""

    frozen: Patterns = ()
    personal: Patterns = ()


class MlpModel(_Model):
    """A multilayer perceptron. `normalise` puts a normaliser in front, filled by a federated statistics pass."""

    kind: Literal["mlp"]
    features: Width
    classes: Width
    hidden: tuple[Width, ...] = (64,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    normalise: bool = False


class OnnxModel(_Model):
    """A forward model of the owner's; its path is read by `run start`, and its bytes go into the history."""

    kind: Literal["onnx"]
    path: str
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Loss(Frozen):
    """How the objective weighs what it sees.

    `class_weights` (one a class) and `label_smoothing` belong to cross-entropy; a weight counts positive examples of
    binary cross-entropy. Beyond `huber_delta` an error counts linearly.
    """

    class_weights: Annotated[tuple[Positive, ...], Field(max_length=limits.MAX_TALLY_LENGTH)] = ()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    huber_delta: Positive = 1.0


class LocalTraining(Frozen):
    """What a device does in a round. `epochs` is κ1 of HierFAVG.

    `weight_decay` is added to the gradient (adamw: taken from the weights); `clip_norm` bounds the norm of a step's
    whole gradient, 0 leaves it. The optimiser's own state begins anew in each round. `schedule` moves the learning
    rate over the run's rounds: it rises over `warmup_rounds`, then stays, or falls to 0 along a cosine or a line.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    learning_rate: Positive = 0.1
    optimiser: Optimiser = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_rounds: Count = 0


class Cohort(Frozen):
    """Who takes part, and when a round is over.

    `fraction` of each parent's children are chosen; a round closes at `deadline_s` when `quorum` of the chosen
    answered, and otherwise is tried again, `attempts` times at most. The run waits for `min_children` below the cloud
    to begin.
    """

    fraction: Fraction = 1.0
    quorum: Fraction = 0.5
    deadline_s: Positive = 60.0
    attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    min_children: Annotated[int, Field(ge=1, le=10_000)] = 1


class RunDescription(Frozen):
    """A run. `edge_rounds` is κ2; `evaluate_every` counts rounds, and the last model is always evaluated.

    `initial` is "random" (by `seed`) or "run:ID" to go on from another run's last model.
    """

    name: Name
    data: Name
    rounds: Rounds
    model: Annotated[MlpModel | OnnxModel, Field(discriminator="kind")]
    objective: Objective = "cross_entropy"
    loss: Loss = Field(default_factory=Loss)
    edge_rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    evaluate_every: Count = 1
    seed: Count = 0
    initial: Annotated[str, Field(pattern=r"^(random|run:[A-Za-z0-9][A-Za-z0-9_.-]{0,63}|.+\.npz)$")] = "random"
    local: LocalTraining = Field(default_factory=LocalTraining)
    cohort: Cohort = Field(default_factory=Cohort)

    @model_validator(mode="after")
    def _labels_have_classes(self) -> "RunDescription":
        if self.objective == "cross_entropy" and self.model.classes < 2:
            raise ValueError("model.classes: cross-entropy needs at least 2; say how many there are")
        return self
