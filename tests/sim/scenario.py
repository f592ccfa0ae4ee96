"""Law: a world is a value that follows from its seed: who is below whom, what is asked of them, and what goes wrong.

Device `d<i>` weighs 2**i, so that a sum names its contributors. Faults stop at `FAULTS_END_S`; what follows must end.
"""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Literal, get_args

from headwater.schemas.learning import Compression, Selection, SelectionRule, Strategy, StrategyName
from headwater.schemas.run import Aggregation, Cohort, LogisticModel, RunDescription
from headwater.testbed.virtual.links import Links

FAULTS_END_S: Final = 36.0
MUST_END_S: Final = 600.0
"""By when the run has to be over, with every fault behind it: some 15 times what an undisturbed one takes."""

KEEPALIVE_S: Final = 4.0
CLOUD: Final = "cloud"
STANDBY: Final = "standby"
"""The second process of the cloud; its first goes by the cloud's name."""


@dataclass(frozen=True, slots=True)
class Crash:
    """From `at_s` on, the process dies at its `skip`-th effect (a publish, a disk write, a step of a transaction)."""

    at_s: float
    process: str
    skip: int
    down_s: float
    power_cut: bool


@dataclass(frozen=True, slots=True)
class BrokerRestart:
    at_s: float
    broker: str
    down_s: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing passes between a client and its broker for a while."""

    at_s: float
    broker: str
    client: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Reset:
    """A connection breaks and both ends notice."""

    at_s: float
    broker: str
    client: str


@dataclass(frozen=True, slots=True)
class FullDisk:
    at_s: float
    node: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Replay:
    """Whoever has the brokers says an announcement or a delta again: `pick`, in [0, 1), of all that were said so far. A
    delta goes `elsewhere` too, to the sender's other parent. What is `kept` stays in the broker's memory."""

    at_s: float
    pick: float
    elsewhere: bool
    kept: bool


Fault = Crash | BrokerRestart | Cut | Reset | FullDisk | Replay


@dataclass(frozen=True, slots=True)
class Scenario:
    """`parents` maps each node but the cloud to the node above; `devices` and `gateways` are its leaves and the rest.

    A broker goes by the name of the parent that it serves. `slowness` multiplies a device's work. `persistent` brokers
    keep retained messages over a restart. With a `standby` the cloud has two processes, of which one
    leads. `second_parents` has the gateway that a device falls back to, `unwilling` how often one declines.
    In a `signed` world every node has a certificate.
    """

    seed: int
    parents: dict[str, str]
    description: RunDescription
    faults: tuple[Fault, ...] = ()
    slowness: dict[str, float] = field(default_factory=dict)
    links: Links = field(default_factory=Links)
    persistent: bool = False
    standby: bool = False
    second_parents: dict[str, str] = field(default_factory=dict)
    unwilling: dict[str, float] = field(default_factory=dict)
    signed: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(node for node in self.parents if is_device(node))

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(node for node in self.parents if not is_device(node))

    @property
    def brokers(self) -> tuple[str, ...]:
        return (CLOUD, *self.gateways)

    def below(self, node: str) -> frozenset[str]:
        """The devices that may be below a node, at any depth; a device is below itself."""
        if is_device(node):
            return frozenset({node})
        places = (*self.parents.items(), *self.second_parents.items())
        return frozenset().union(*(self.below(child) for child, parent in places if parent == node))

    def named(self, weight: float) -> frozenset[str]:
        """The devices whose weights make up this one.

        Raises:
            ValueError: it is no sum of theirs.
        """
        whole = int(weight)
        if whole != weight or whole >> len(self.devices):
            raise ValueError(f"weight: {weight} is no sum of {len(self.devices)} devices' weights")
        return frozenset(f"d{i}" for i in range(len(self.devices)) if whole >> i & 1)


def is_device(node: str) -> bool:
    return node.startswith("d")


def weight_of(device: str) -> float:
    return float(2 ** int(device[1:]))


def scenario(seed: int) -> Scenario:
    """The world of a seed."""
    rng = Random(seed)
    parents = _tree(rng)
    calm = Scenario(
        seed=seed,
        parents=parents,
        description=_description(rng),
        links=Links(
            latency_s=rng.choice((0.001, 0.02)),
            jitter_s=rng.choice((0.002, 0.05, 0.3)),
            duplicates=rng.choice((0.0, 0.05, 0.3)),
            losses=rng.choice((0.0, 0.3)),
            reorders=rng.random() < 0.5,
        ),
        persistent=rng.random() < 0.5,
        standby=rng.random() < 0.3,
    )
    slowness = _slowness(rng, calm)
    faults = sorted((_fault(rng, calm) for _ in range(rng.randint(0, 12))), key=lambda fault: fault.at_s)
    drawn = _with_a_choice(_with_second_parents(replace(calm, slowness=slowness, faults=tuple(faults))))
    return _with_trust(_with_methods(drawn))


def _with_second_parents(drawn: Scenario) -> Scenario:
    """In one world of five: the devices of a gateway know another, and theirs is gone for a while."""
    rng = Random(f"{drawn.seed}/second")
    if rng.random() >= 0.2:
        return drawn
    first, second = rng.sample([gateway for gateway in drawn.gateways if gateway != "region"], 2)
    moving = {device: second for device in drawn.devices if drawn.parents[device] == first}
    gone = Crash(rng.uniform(0.0, 12.0), first, rng.randrange(30), 20.0, rng.random() < 0.5)
    return replace(drawn, second_parents=moving, faults=(*drawn.faults, gone))


def _with_a_choice(drawn: Scenario) -> Scenario:
    """Where not everyone is asked: by any rule, and in half of those worlds of devices that may decline."""
    cohort = drawn.description.cohort
    if cohort.fraction >= 1:
        return drawn
    rng = Random(f"{drawn.seed}/choice")
    selection = Selection(by=rng.choice(get_args(SelectionRule)), floor=rng.choice((0.0, 0.5)))
    chosen = cohort.model_copy(update={"selection": selection})
    unwilling = {device: 0.5 for device in drawn.devices if rng.random() < 0.4} if rng.random() < 0.5 else {}
    description = drawn.description.model_copy(update={"cohort": chosen})
    return replace(drawn, description=description, unwilling=unwilling)


def _with_methods(drawn: Scenario) -> Scenario:
    """In one world of three: a strategy that remembers, updates that travel coded, models that travel as patches.

    The codec says all of every value, and so keeps nothing for the next: what a sum holds still names its contributors.
    """
    rng = Random(f"{drawn.seed}/methods")
    if rng.random() >= 1 / 3:
        return drawn
    mixes = drawn.description.aggregation.mode == "asynchronous"
    name: StrategyName = "fedavg" if mixes else rng.choice(("fedavg", "fedavgm", "fedadam", "scaffold"))
    uplink, downlink = (rng.choice((Compression(), EXACT)) if name != "scaffold" else Compression() for _ in range(2))
    changes = {"strategy": Strategy(name=name), "uplink": uplink, "downlink": downlink}
    # Validated anew: a world asks for nothing that a run's file could not.
    sections = drawn.description.model_copy(update=changes).model_dump()
    return replace(drawn, description=RunDescription.model_validate(sections))


def _with_trust(drawn: Scenario) -> Scenario:
    """In one world of four: everyone signs what it says, and somebody has the brokers and says it again."""
    rng = Random(f"{drawn.seed}/trust")
    if rng.random() >= 1 / 4:
        return drawn
    replays = tuple(
        Replay(rng.uniform(1.0, 25.0), rng.random(), rng.random() < 0.5, rng.random() < 0.5)
        for _ in range(rng.randint(0, 20))
    )
    return replace(drawn, signed=True, faults=(*drawn.faults, *replays))


EXACT: Final = Compression(codec="topk", fraction=1.0, values="fp32", feedback=False)


def _tree(rng: Random) -> dict[str, str]:
    """Two or three gateways of two to four devices; sometimes a region above one of them, or a device at the cloud."""
    parents: dict[str, str] = {}
    names = iter(f"d{i}" for i in range(100))
    region = rng.random() < 0.2
    if region:
        parents["region"] = CLOUD
    for number in range(rng.randint(2, 3)):
        parents[f"gw{number}"] = "region" if region and number != 1 else CLOUD
        for _ in range(rng.randint(2, 4)):
            parents[next(names)] = f"gw{number}"
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        parents[next(names)] = CLOUD
    return parents


def _slowness(rng: Random, calm: Scenario) -> dict[str, float]:
    """At most one slow device below each parent; so slow that it misses deadlines only where a quorum goes without."""
    slow = 40.0 if calm.description.cohort.quorum < 1 else 3.0
    below: dict[str, list[str]] = {}
    for device in calm.devices:
        below.setdefault(calm.parents[device], []).append(device)
    return {rng.choice(siblings): slow for siblings in below.values() if rng.random() < 0.2 and len(siblings) > 1}


def _description(rng: Random) -> RunDescription:
    edge_rounds = rng.choice((1, 1, 1, 2, 3))
    fraction = rng.choice((1.0, 1.0, 1.0, 0.6))
    aggregation = _aggregation(rng)
    return RunDescription(
        name="sim",
        data="d",
        rounds=rng.randint(2, 4) if aggregation.mode == "synchronous" else rng.randint(4, 8),
        model=LogisticModel(kind="logistic", features=1, classes=2),
        edge_rounds=edge_rounds,
        seed=rng.randrange(1000),
        cohort=Cohort(
            fraction=fraction,
            over_selection=rng.choice((0.0, 0.5)) if fraction < 1 else 0.0,
            adaptive_deadline=rng.random() < 0.2,
            quorum=rng.choice((1.0, 0.5, 0.5, 0.3)),
            # A region and its gateways take a fifth each, and latencies and what is asked again their part.
            deadline_s=edge_rounds * rng.choice((12.0, 20.0)),
            attempts=100,
            min_children=rng.choice((1, 2)),
        ),
        aggregation=aggregation,
    )


def _aggregation(rng: Random) -> Aggregation:
    mode = rng.choice(("synchronous", "synchronous", "synchronous", "buffered", "asynchronous"))
    return Aggregation(
        mode=mode,
        buffer=rng.choice((1, 2, 3)),
        max_staleness=None if mode == "synchronous" else rng.choice((None, 1, 3)),
        staleness_exponent=rng.choice((0.0, 0.5)),
    )


def _fault(rng: Random, calm: Scenario) -> Fault:
    kind: Literal["crash", "broker", "cut", "reset", "disk"] = rng.choice(
        ("crash", "crash", "crash", "crash", "broker", "cut", "cut", "reset", "disk")
    )
    at_s = rng.uniform(0.0, 20.0)
    tier = rng.choice(((CLOUD,), calm.gateways, calm.devices))
    node = rng.choice(tier)
    client, broker = rng.choice(clients(calm))
    match kind:
        case "crash":
            process = STANDBY if node == CLOUD and calm.standby and rng.random() < 0.5 else node
            return Crash(at_s, process, rng.randrange(30), rng.choice((0.05, 1.0, 8.0)), rng.random() < 0.3)
        case "broker":
            return BrokerRestart(at_s, rng.choice(calm.brokers), rng.choice((0.1, 2.0, 10.0)))
        case "cut":
            return Cut(at_s, broker, client, rng.choice((0.5, 3.0, 15.0)))
        case "reset":
            return Reset(at_s, broker, client)
        case "disk":
            return FullDisk(at_s, node, rng.choice((1.0, 8.0)))


def clients(calm: Scenario) -> list[tuple[str, str]]:
    """Every connection: (client, broker). A gateway has two."""
    upward = [(node, parent) for node, parent in calm.parents.items()]
    sites = [(site_client(gateway), gateway) for gateway in calm.gateways]
    return [*upward, *sites, (CLOUD, CLOUD)]


def site_client(gateway: str) -> str:
    return f"{gateway}.site"
