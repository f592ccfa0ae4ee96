"""Law: how a fleet learns is named in its run's file, by the names of the papers; what is left out is plain FedAvg.

A section each: [strategy], [cohort.selection], [clusters], [personal], [uplink], [downlink], [pruning]. What a node
needs of them travels in its plan. Which of them go together is one table, `schemas/combinations.py`.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from headwater.schemas.base import Fraction, Name, NodeId, Positive, Sparse, Weight

Below1 = Annotated[float, Field(ge=0, lt=1)]

StrategyName = Literal[
    "fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fedprox", "scaffold", "fednova", "feddyn", "signsgd"
]
ServerOptimiser = Literal["sgd", "momentum", "adagrad", "adam", "yogi", "majority"]
LocalRule = Literal["plain", "proximal", "scaffold", "normalised", "dynamic"]

_SERVER: Final[dict[str, ServerOptimiser]] = {
    "fedavgm": "momentum",
    "fedadagrad": "adagrad",
    "fedadam": "adam",
    "fedyogi": "yogi",
    "signsgd": "majority",
}
_LOCAL: Final[dict[str, LocalRule]] = {
    "fedprox": "proximal",
    "scaffold": "scaffold",
    "fednova": "normalised",
    "feddyn": "dynamic",
}

_RATES: Final[dict[str, float]] = {"adagrad": 0.03, "adam": 0.03, "yogi": 0.03, "majority": 0.02}


class Strategy(Sparse):
    """How updates are made, and how they move the model.

    `server` gives a strategy that corrects the devices' training another optimiser at the cloud: `name = "fedprox"`,
    `server = "adam"`. `learning_rate` is the cloud's own, η of Reddi et al. 2021 and η_g of SCAFFOLD; left out, 1, and
    0.03 for adagrad, adam and yogi, 0.02 for majority, where devices vote on the sign of each step. `tau` is the
    adaptivity of the former. `mu` is FedProx's, `alpha` FedDyn's.
    """

    name: StrategyName = "fedavg"
    server: ServerOptimiser | None = None
    learning_rate: Positive | None = None
    momentum: Below1 = 0.9
    beta2: Below1 = 0.99
    tau: Positive = 1e-3
    mu: Weight = 0.01
    alpha: Positive = 0.1

    @model_validator(mode="after")
    def _has_one_server(self) -> "Strategy":
        if self.server is not None and self.name in _SERVER:
            raise ValueError(
                f"server: {self.server!r} where {self.name} already is {_SERVER[self.name]!r}; leave it out, or take "
                "another name"
            )
        return self

    @property
    def optimiser(self) -> ServerOptimiser:
        """What the cloud makes of the mean update."""
        return self.server or _SERVER.get(self.name, "sgd")

    @property
    def local_rule(self) -> LocalRule:
        """What a device does besides plain steps."""
        return _LOCAL.get(self.name, "plain")

    @property
    def server_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return _RATES.get(self.optimiser, 1.0)


SelectionRule = Literal["uniform", "examples", "loss", "diversity", "utility", "turns"]


class Selection(Sparse):
    """By what a parent chooses among its children, where a fraction of them takes part.

    `uniform`: all alike. `examples`: as likely as they have examples. `loss`: of `candidates` times as many, drawn by
    their examples, those with the highest last known loss (power-of-choice, Cho et al. 2020). `diversity`: of
    `candidates` times as many, drawn uniformly, those whose label histograms, as far as they share them, have much in
    their sum of every label. `utility`: by loss, speed and energy (Oort, Lai et al. 2021), with a share of
    `exploration` and the exponent `penalty` on what is slower than `preferred_s`, which left out is the median of the
    known times. `turns`: whoever waited longest. Whatever the rule, a share `floor` of the places goes to those who
    waited longest.
    """

    by: SelectionRule = "uniform"
    candidates: Annotated[float, Field(ge=1, le=100)] = 2.0
    exploration: Annotated[float, Field(ge=0, le=1)] = 0.1
    penalty: Annotated[float, Field(ge=0, le=10)] = 2.0
    preferred_s: Positive | None = None
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0


class Clusters(Sparse):
    """Several global models that coexist.

    `place`: one for each child of the cloud, its gateway's cluster. `likeness`: `count` of them, and each device trains
    the one that fits its data best (IFCA, Ghosh et al. 2020). Parameters whose names match `shared` are one for all.
    """

    by: Literal["none", "place", "likeness"] = "none"
    count: Annotated[int, Field(ge=2, le=64)] = 2
    shared: Annotated[tuple[Name, ...], Field(max_length=64)] = ()


PersonalMethod = Literal["none", "fine_tune", "fedper", "fedrep", "ditto", "pfedme", "apfl", "mocha"]


class Personal(Sparse):
    """A model of each device's own, beside the global one. It never leaves its device, and survives reboots.

    `fine_tune`: the global model, trained on for `epochs`. `fedper`, `fedrep`: the parameters that `model.personal`
    names stay; fedrep trains them first, for `epochs`, and then the others. `ditto`: a model pulled towards the global
    one by `strength` (λ). `pfedme`: the same by Moreau envelopes, `steps` steps on each batch. `apfl`: a mixture of the
    global and an own model, beginning with a share of `mixing`, which is learned unless `adaptive` is false. `mocha`:
    the cloud's children are tasks whose relation is learned, `strength` is its λ. With `baseline` each device also
    trains a model alone, on nothing but its own data, for reports to compare with. `learning_rate` is the local one
    unless given.
    """

    method: PersonalMethod = "none"
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    learning_rate: Positive | None = None
    strength: Positive = 0.5
    steps: Annotated[int, Field(ge=1, le=1000)] = 5
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.5
    adaptive: bool = True
    baseline: bool = False


CodecName = Literal["none", "fp16", "int8", "int4", "ternary", "sign", "topk", "stc", "randk", "sketch", "lowrank"]
CODECS: Final[tuple[CodecName, ...]] = (
    "none",
    "fp16",
    "int8",
    "int4",
    "ternary",
    "sign",
    "topk",
    "stc",
    "randk",
    "sketch",
    "lowrank",
)


class Compression(Sparse):
    """How an update becomes few bytes.

    fp16, int8 and int4 (stochastic, with a scale for each `block` values), ternary (QSGD, Alistarh et al. 2017), sign
    (with a scale for each tensor); topk, stc (Sattler et al. 2019) and randk keep a `fraction` of the values, of all
    or `per_layer`; lowrank keeps `rank` columns of each matrix (PowerSGD, Vogels et al. 2019); sketch is FetchSGD's
    count sketch (Rothchild et al. 2020) of `rows` times `columns`, and the cloud takes a `fraction` from it. `values`
    says how those write numbers that they keep. `feedback` adds what one update left out to the next one; unless given
    it is on where a codec is biased. `momentum` is DGC's correction (Lin et al. 2018), of a sketch FetchSGD's ρ. An
    update is made of a `layers` fraction of the tensors, in turns; the others wait. What is left goes through zstd.
    """

    codec: CodecName = "none"
    values: Literal["fp32", "fp16", "int8", "int4"] = "int8"
    fraction: Fraction = 0.01
    per_layer: bool = False
    block: Annotated[int, Field(ge=8, le=65_536)] = 4096
    rank: Annotated[int, Field(ge=1, le=256)] = 2
    rows: Annotated[int, Field(ge=1, le=32)] = 3
    columns: Annotated[int, Field(ge=8, le=4_000_000)] = 6000
    feedback: bool | None = None
    momentum: Below1 = 0.0
    layers: Fraction = 1.0
    zstd: bool = True

    @property
    def is_on(self) -> bool:
        return self.codec != "none" or self.layers < 1

    @property
    def corrects_momentum(self) -> bool:
        """Whether a sender adds up momentum; a sketch's is in the cloud's sketch, and nowhere else."""
        return self.momentum > 0 and self.codec != "sketch"

    @property
    def keeps_what_is_left(self) -> bool:
        """Whether the next update makes up for what this one leaves out."""
        if self.feedback is not None:
            return self.feedback
        return self.codec in ("sign", "topk", "stc", "randk", "lowrank") or self.layers < 1


class Pruning(Sparse):
    """Parameters that are taken away for good: from `at_round` on a `sparsity` share of the weights is 0.

    By magnitude, or `structured`: whole outputs of a layer, by their norm. The mask travels once; only what is left of
    an update travels then.
    """

    sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.0
    structured: bool = False
    at_round: Annotated[int, Field(ge=1, le=1_000_000)] = 5


class Pace(Sparse):
    """How much each device does in a round. With `target_s` a device trains as many epochs as its own speed allows in
    that time, between 1 and `max_epochs`, so that fast and slow ones end together; 0: `local.epochs`.
    `cluster_rates` multiply the learning rate in the cluster of a gateway.
    """

    target_s: Weight = 0.0
    max_epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    cluster_rates: Annotated[dict[NodeId, Positive], Field(max_length=256)] = Field(default_factory=dict)


class Learning(Sparse):
    """What of all this a plan carries down the tree."""

    strategy: Strategy = Field(default_factory=Strategy)
    selection: Selection = Field(default_factory=Selection)
    clusters: Clusters = Field(default_factory=Clusters)
    personal: Personal = Field(default_factory=Personal)
    uplink: Compression = Field(default_factory=Compression)
    gateway_uplink: Compression | None = None
    pace: Pace = Field(default_factory=Pace)
    pruning: Pruning = Field(default_factory=Pruning)

    @property
    def cluster_uplink(self) -> Compression:
        """How a gateway's sum goes up. What its devices did is not done again, or a tree would step further than a flat
        fleet: corrected momentum is in the sum already, and so is what makes up for the values that were not drawn.
        What the gateway's own draw has not of it is left for later.
        """
        own = self.gateway_uplink or self.uplink
        changes: dict[str, float | bool] = {}
        if self.uplink.corrects_momentum:
            changes["momentum"] = 0.0
        if own.codec == self.uplink.codec == "randk" and not self.uplink.keeps_what_is_left:
            changes["feedback"] = True
        return own.model_copy(update=changes) if changes else own

    @property
    def has_places(self) -> bool:
        """Whether each child of the cloud has a model of its own."""
        return self.clusters.by == "place" or self.personal.method == "mocha"


PLAIN: Final = Learning()
"""FedAvg, and nothing else."""
