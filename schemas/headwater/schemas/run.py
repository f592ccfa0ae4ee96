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

from headwater.schemas import limits, patterns
from headwater.schemas.base import Count, Fraction, Frozen, Name, Positive
from headwater.schemas.combinations import first_conflict
from headwater.schemas.learning import Clusters, Compression, Learning, Pace, Personal, Pruning, Selection, Strategy
from headwater.schemas.manifest import Objective

Width = Annotated[int, Field(ge=1, le=65_536)]
Optimiser = Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
Rounds = Annotated[int, Field(ge=1, le=1_000_000)]
Filters = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=16)]
Patterns = Annotated[tuple[Name, ...], Field(max_length=64)]
"""Name patterns as those of files: `head.*`, `*.bias`."""


class _Model(Frozen):
    """`frozen` names parameters that do not train, `personal` those that train and never leave their device."""

    frozen: Patterns = ()
    personal: Patterns = ()


def _halves(field: str, size: int, filters: tuple[int, ...]) -> None:
    """Raises ValueError where so many blocks would leave nothing."""
    if size < 2 ** len(filters):
        least = 2 ** len(filters)
        raise ValueError(
            f"{field}: {size} cannot be halved {len(filters)} times; take {least} or more, or fewer filters"
        )


class Normalising(_Model):
    """`normalise` puts a normaliser in front, element by element, filled by a federated statistics pass."""

    normalise: bool = False


class LogisticModel(Normalising):
    """Logistic regression, or with another objective linear regression."""

    kind: Literal["logistic"]
    features: Width
    classes: Width


class MlpModel(Normalising):
    """A multilayer perceptron. `classes` are its outputs, whatever the objective takes them for."""

    kind: Literal["mlp"]
    features: Width
    classes: Width
    hidden: Annotated[tuple[Width, ...], Field(max_length=64)] = (64,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"


class Cnn1dModel(Normalising):
    """Convolutions over a window of sensors, x `[channels, window]`; each of `filters` is a block that halves it."""

    kind: Literal["cnn1d"]
    channels: Width
    window: Width
    classes: Width
    filters: Filters = (32, 64)
    kernel: Annotated[int, Field(ge=1, le=1024)] = 5
    batch_norm: bool = False

    @model_validator(mode="after")
    def _the_window_can_be_halved(self) -> "Cnn1dModel":
        _halves("window", self.window, self.filters)
        return self


class Cnn2dModel(Normalising):
    """Convolutions over a small image, x `[channels, height, width]`; each of `filters` is a block that halves it."""

    kind: Literal["cnn2d"]
    height: Width
    width: Width
    classes: Width
    channels: Width = 1
    filters: Filters = (16, 32)
    hidden: Width = 64
    batch_norm: bool = False

    @model_validator(mode="after")
    def _the_image_can_be_halved(self) -> "Cnn2dModel":
        _halves("height", self.height, self.filters)
        _halves("width", self.width, self.filters)
        return self


class DsCnnModel(Normalising):
    """Depthwise-separable convolutions of keyword-spotting size, x `[1, height, width]`: time by MFCC."""

    kind: Literal["ds_cnn"]
    height: Width = 49
    width: Width = 10
    classes: Width = 12
    filters: Width = 64
    blocks: Annotated[int, Field(ge=1, le=64)] = 4
    batch_norm: bool = True


class GruModel(Normalising):
    """Gated recurrent units over x `[time, features]`; `time` is how many steps an example has."""

    kind: Literal["gru"]
    features: Width
    time: Width
    classes: Width
    hidden: Annotated[int, Field(ge=1, le=4096)] = 32
    layers: Annotated[int, Field(ge=1, le=16)] = 1


class TransformerModel(Normalising):
    """A transformer's encoder over x `[time, features]`. `hidden` is the width of its feed-forward parts."""

    kind: Literal["transformer"]
    features: Width
    time: Annotated[int, Field(ge=1, le=4096)]
    classes: Width
    width: Annotated[int, Field(ge=1, le=4096)] = 32
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    blocks: Annotated[int, Field(ge=1, le=64)] = 2
    hidden: Width = 64
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> "TransformerModel":
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} do not share a width of {self.width}; take a divisor of it")
        return self


class AutoencoderModel(_Model):
    """Dense layers down to a `code` and, mirrored, up again; for the objective reconstruction."""

    kind: Literal["autoencoder"]
    features: Width
    hidden: Annotated[tuple[Width, ...], Field(max_length=64)] = (32,)
    code: Width = 8
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"


class Autoencoder1dModel(_Model):
    """Convolutions that halve a window x `[channels, window]` and, mirrored, double it; for reconstruction."""

    kind: Literal["autoencoder1d"]
    channels: Width
    window: Width
    filters: Filters = (16, 32)

    @model_validator(mode="after")
    def _the_window_can_be_halved(self) -> "Autoencoder1dModel":
        if self.window % 2 ** len(self.filters):
            raise ValueError(
                f"window: {self.window} cannot be halved {len(self.filters)} times; take a multiple of "
                f"{2 ** len(self.filters)}, or fewer filters"
            )
        return self


class OnnxModel(_Model):
    """A forward model of the owner's; its path is read by `run start`, and its bytes go into the history."""

    kind: Literal["onnx"]
    path: str
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0


Described = (
    LogisticModel
    | MlpModel
    | Cnn1dModel
    | Cnn2dModel
    | DsCnnModel
    | GruModel
    | TransformerModel
    | AutoencoderModel
    | Autoencoder1dModel
)
"""A model that a few numbers describe."""


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
    to begin. `over_selection` 0.3 chooses 30 % more than `fraction` says and closes with the fastest that make it up.
    With `adaptive_deadline` a parent waits as long as its children's past times suggest, and `deadline_s` at most.
    """

    fraction: Fraction = 1.0
    quorum: Fraction = 0.5
    deadline_s: Positive = 60.0
    attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    min_children: Annotated[int, Field(ge=1, le=10_000)] = 1
    over_selection: Annotated[float, Field(ge=0, le=9)] = 0.0
    adaptive_deadline: bool = False
    selection: Selection = Field(default_factory=Selection)

    @model_validator(mode="after")
    def _there_are_more_to_choose(self) -> "Cohort":
        if self.over_selection > 0 and self.fraction >= 1:
            raise ValueError(
                f"over_selection: {self.over_selection} asks for more children than there are, for a fraction of "
                f"{self.fraction} are all; give a fraction below 1, or leave over_selection out"
            )
        return self


class Aggregation(Frozen):
    """How updates become a new version of the model.

    `synchronous`: a round waits for its cohort. `buffered`: every `buffer` updates make a version, and nobody waits
    for the slow (FedBuff). `asynchronous`: each update makes one, mixed in by `mixing` (FedAsync's alpha). An update of
    a model `s` versions old counts `(1 + s)**-staleness_exponent`; one older than `max_staleness` is refused. Left
    out, that is 0 where rounds are synchronous (late is refused), and 20 otherwise.
    """

    mode: Literal["synchronous", "buffered", "asynchronous"] = "synchronous"
    buffer: Annotated[int, Field(ge=1, le=10_000)] = 10
    max_staleness: Annotated[int, Field(ge=0, le=1000)] | None = None
    staleness_exponent: Annotated[float, Field(ge=0, le=10)] = 0.5
    mixing: Fraction = 0.6

    @property
    def staleness_cap(self) -> int:
        if self.max_staleness is not None:
            return self.max_staleness
        return 0 if self.mode == "synchronous" else 20

    @property
    def updates_a_version(self) -> int:
        """How many updates end a round, 0 where the cohort does."""
        return {"synchronous": 0, "buffered": self.buffer, "asynchronous": 1}[self.mode]


class RunDescription(Frozen):
    """A run. `edge_rounds` is κ2; `evaluate_every` counts rounds, and the last model is always evaluated.

    `initial` is "random" (by `seed`), "run:ID" to go on from another run's last model, or an .npz file of the
    parameters in order, whose path is read by `run start`. `keep_deltas` keeps what each child of the cloud gave in the
    history, so that any version can be computed again from it.
    """

    name: Name
    data: Name
    rounds: Rounds
    model: Annotated[Described | OnnxModel, Field(discriminator="kind")]
    objective: Objective = "cross_entropy"
    loss: Loss = Field(default_factory=Loss)
    edge_rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    evaluate_every: Count = 1
    seed: Count = 0
    initial: Annotated[str, Field(pattern=patterns.INITIAL)] = "random"
    local: LocalTraining = Field(default_factory=LocalTraining)
    cohort: Cohort = Field(default_factory=Cohort)
    aggregation: Aggregation = Field(default_factory=Aggregation)
    strategy: Strategy = Field(default_factory=Strategy)
    clusters: Clusters = Field(default_factory=Clusters)
    personal: Personal = Field(default_factory=Personal)
    uplink: Compression = Field(default_factory=Compression)
    gateway_uplink: Compression | None = None
    downlink: Compression = Field(default_factory=Compression)
    pruning: Pruning = Field(default_factory=Pruning)
    pace: Pace = Field(default_factory=Pace)
    keep_deltas: bool = False

    @property
    def initial_run(self) -> str | None:
        """The run whose last model it begins with."""
        return self.initial.removeprefix("run:") if self.initial.startswith("run:") else None

    @property
    def initial_file(self) -> str | None:
        """The owner's file whose parameters it begins with."""
        return None if self.initial == "random" or self.initial_run is not None else self.initial

    @property
    def learning(self) -> Learning:
        """What of it a plan carries."""
        return Learning(
            strategy=self.strategy,
            selection=self.cohort.selection,
            clusters=self.clusters,
            personal=self.personal,
            uplink=self.uplink,
            gateway_uplink=self.gateway_uplink,
            pace=self.pace,
            pruning=self.pruning,
        )

    @property
    def classes(self) -> int:
        """How many classes labels have, 0 where the target is no label or the model has the last word."""
        return getattr(self.model, "classes", 0) if self.objective == "cross_entropy" else 0

    @model_validator(mode="after")
    def _objective_fits_the_model(self) -> "RunDescription":
        mirrors = isinstance(self.model, AutoencoderModel | Autoencoder1dModel)
        if self.objective == "cross_entropy" and mirrors:
            raise ValueError("objective: an autoencoder gives no classes; take reconstruction")
        if self.objective == "cross_entropy" and self.classes < 2:
            raise ValueError("model.classes: cross-entropy needs at least 2; say how many there are")
        if self.objective == "reconstruction" and not (mirrors or self._gives_its_input):
            raise ValueError(
                f"objective: reconstruction needs an output like its input, which kind {self.model.kind!r} has not; "
                "take autoencoder or autoencoder1d"
            )
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> "RunDescription":
        problem = first_conflict(self)
        if problem is not None:
            raise ValueError(problem)
        return self

    @property
    def _gives_its_input(self) -> bool:
        """Of the owner's models the compiler says so; a dense one does with as many outputs as features."""
        flat = isinstance(self.model, LogisticModel | MlpModel) and self.model.features == self.model.classes
        return flat or isinstance(self.model, OnnxModel)
