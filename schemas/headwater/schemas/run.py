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

from headwater.schemas.base import Count, Fraction, Frozen, Name, Positive
from headwater.schemas.manifest import Objective

Width = Annotated[int, Field(ge=1, le=65_536)]
Rounds = Annotated[int, Field(ge=1, le=1_000_000)]


class MlpModel(Frozen):
    """A multilayer perceptron. `normalise` puts a normaliser in front, filled by a federated statistics pass."""

    kind: Literal["mlp"]
    features: Width
    classes: Width
    hidden: tuple[Width, ...] = (64,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    normalise: bool = False


class OnnxModel(Frozen):
    """A forward model of the owner's; its path is read by `run start`, and its bytes go into the history."""

    kind: Literal["onnx"]
    path: str
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class LocalTraining(Frozen):
    """What a device does in a round. `epochs` is κ1 of HierFAVG."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    learning_rate: Positive = 0.1


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
