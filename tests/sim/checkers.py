"""Law: a judge knows the contract and the trace, and nothing of how the nodes keep the one or made the other.

Each checker looks at a world that is over and says in sentences what was wrong, or nothing.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from headwater.cloud.history import ClosedRound
from headwater.core.compress import decode as decode_update
from headwater.node.child import MAX_BACKGROUND as MAX_BACKGROUND_ABOVE
from headwater.node.hosting import Contribution, RoundResult
from headwater.node.outbox import MAX_OUTGOING
from headwater.node.parent import MAX_BACKGROUND as MAX_BACKGROUND_BELOW
from headwater.schemas.learning import Strategy
from headwater.schemas.messages import Announcement, Chunk, Delta, Plan, Receipt, Refusal, RoundKey
from headwater.schemas.statuses import RunStatus
from headwater.schemas.tensors import Array, decode_tensor, delta_specs
from headwater.schemas.wire import decode
from sim.nodes import MANIFEST
from sim.scenario import CLOUD, Cut, Scenario, is_device, site_client
from sim.trace import Event, label, message_of
from sim.world import Observed

Checker = Callable[[Observed], Iterator[str]]

TOLERANCE: Final = 1e-6


# ── sums ────────────────────────────────────────────────────────────────────────────────────────────────────────


def nobody_counts_twice(world: Observed) -> Iterator[str]:
    """A weight names its devices; in one round each of them is there once, and the sum says the same as the records."""
    for event, result in _closed(world):
        where = f"{event.who} {label(result.plan.key)}"
        seen: set[tuple[str, RoundKey]] = set()
        for given in result.contributions:
            if (given.node, given.key) in seen:
                yield f"{where}: {given.node} gave {label(given.key)} twice"
            seen.add((given.node, given.key))
        yield from _names(world.scenario, where, result)
        if result.plan.task == "train" and not _averages(world.scenario, event.who):
            yield from _adds_up(where, result)


def _adds_up(where: str, result: RoundResult) -> Iterator[str]:
    """A late update counts by its age; how its control variate moved, behind it, counts whole."""
    steps = sum(given.factor * given.weight for given in result.contributions)
    whole = sum(given.weight for given in result.contributions)
    for total, told in zip(result.sum.totals, (steps, whole), strict=False):
        if not _near(total[0], told):
            yield f"{where}: the sum holds {total[0]}, the records {told}"


def only_the_plan_is_answered(world: Observed) -> Iterator[str]:
    """A round holds answers to its own plan; only where the plan takes late ones, those as far back as it says."""
    for event, result in _closed(world):
        plan = result.plan
        for given in result.contributions:
            behind = plan.key.round - given.key.round
            late = plan.max_staleness and 0 <= behind <= plan.max_staleness
            if given.key != plan.key and not late:
                yield f"{event.who} {label(plan.key)}: holds {given.node}'s answer to {label(given.key)}"


def no_update_in_two_rounds(world: Observed) -> Iterator[str]:
    """What one committed round of the run holds is in no other."""
    holders: dict[tuple[str, RoundKey], tuple[int, int, str]] = {}
    for closed in _committed(world):
        if closed.state != "closed":
            continue
        for given in closed.contributions:
            holder = (closed.round, closed.attempt, closed.task)
            if holders.setdefault((given.node, given.key), holder) != holder:
                yield f"{given.node}'s {label(given.key)} is in {holders[given.node, given.key]} and in {holder}"


def _names(scenario: Scenario, where: str, result: RoundResult) -> Iterator[str]:
    by_key: dict[RoundKey, set[str]] = {}
    for given in result.contributions:
        if not is_device(given.node) and scenario.parents[given.node] == CLOUD and scenario.description.edge_rounds > 1:
            # The mean of its edge rounds' weights names nobody; `weight_is_conserved` looks at those.
            continue
        try:
            devices = scenario.named(given.weight)
        except ValueError as error:
            yield f"{where}: {given.node}: {error}"
            continue
        if not devices <= scenario.below(given.node):
            yield f"{where}: {given.node} brought {sorted(devices - scenario.below(given.node))}, not below it"
        if is_device(given.node) and devices != {given.node}:
            yield f"{where}: {given.node} brought the weight of {sorted(devices)}"
        twice = by_key.setdefault(given.key, set()) & devices
        if twice:
            yield f"{where}: {sorted(twice)} counted twice"
        by_key[given.key] |= devices


def weight_is_conserved(world: Observed) -> Iterator[str]:
    """What goes up is what was folded below, and a row in SQL is the sum of its contributions."""
    for row in world.rows:
        if row.state == "closed" and not _near(row.weight, math.fsum(weight for _, weight in row.given)):
            yield f"round {row.round}.{row.attempt}: SQL has weight {row.weight} over {row.given}"
    results: dict[str, list[RoundResult]] = {}
    for event in world.trace.of("result", "says"):
        if event.what == "result":
            results.setdefault(event.who, []).append(event.value)
            continue
        delta = message_of(event.value.topic, event.value.payload)
        if isinstance(delta, Delta) and not is_device(event.who) and delta.task == "train":
            yield from _goes_up(world.scenario, event.who, delta, results.get(event.who, []))


def _goes_up(scenario: Scenario, gateway: str, delta: Delta, results: list[RoundResult]) -> Iterator[str]:
    """A gateway's delta against the rounds that it hosted for it; of a round hosted twice the last counts."""
    edge_rounds = scenario.description.edge_rounds if scenario.parents[gateway] == CLOUD else 1
    steps = range(delta.key.step * edge_rounds, (delta.key.step + 1) * edge_rounds)
    hosted: dict[int, RoundResult] = {}
    for result in results:
        if _same_attempt(result.plan.key, delta.key) and result.plan.key.step in steps:
            # Hosted again, what came behind it is done again too.
            hosted = {step: one for step, one in hosted.items() if step < result.plan.key.step}
            hosted |= {result.plan.key.step: result} if result.closed else {}
    where = f"{gateway} {label(delta.key)}"
    if not hosted:
        yield f"{where}: sends a delta of rounds that it did not host"
        return
    weights = [math.fsum(given.weight for given in result.contributions) for result in hosted.values()]
    weight = math.fsum(weights) / len(weights)
    if not _near(delta.weight, weight):
        yield f"{where}: sends weight {delta.weight} where {weight} was folded"
    for term in _terms(scenario, delta):
        if not _near(term[0], weight * len(hosted)):
            yield f"{where}: sends {term[0]} where {len(hosted)} steps of weight {weight} were folded"


# ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────


def announced_is_committed(world: Observed) -> Iterator[str]:
    """A model that the cloud names, and a round that it tells people of, stand in SQL by then, and are the newest."""
    newest, sha256 = 0, world.models[0][0]
    for event in world.trace.events:
        if event.who != CLOUD:
            continue
        if event.what == "committed" and event.value.model is not None:
            newest, sha256 = event.value.round, hashlib.sha256(event.value.model).hexdigest()
        elif event.what == "says":
            message = message_of(event.value.topic, event.value.payload)
            if isinstance(message, Announcement) and message.plan is not None and message.closed != message.plan.key:
                named = message.plan.model.sha256.hex()
                if named != sha256:
                    yield f"at {event.at:.3f}: round {label(message.plan.key)} names a model that is not version {newest}"
                if message.plan.task == "train" and message.plan.key.round != newest + 1:
                    yield f"at {event.at:.3f}: round {label(message.plan.key)} is announced behind version {newest}"
            elif isinstance(message, RunStatus) and message.round > newest:
                yield f"at {event.at:.3f}: people hear of round {message.round}, version {newest} is committed"


def sql_is_recomputed(world: Observed) -> Iterator[str]:
    """Every version follows from the deltas that SQL says it was made of, as they were seen on the wire."""
    deltas = _deltas_by_hash(world)
    versions, server = [np.array(world.models[0][1])], _Server(world.scenario.description.strategy)
    for closed in _committed(world):
        if closed.task != "train" or closed.state != "closed":
            continue
        missing = [given.node for given in closed.contributions if given.ref.sha256 not in deltas]
        if missing:
            yield f"round {closed.round}: the deltas of {missing} were never sent"
            return
        step = _step(world, versions, closed.contributions, deltas)
        versions.append(np.float64(np.float32(versions[-1] + server.step(step))))
        found = world.models.get(closed.round)
        if found is None:
            yield f"round {closed.round}: committed, and not in SQL"
        elif not np.allclose(found[1], versions[-1], rtol=TOLERANCE, atol=TOLERANCE):
            yield f"round {closed.round}: SQL has {found[1]}, its contributions give {tuple(versions[-1])}"


def _step(
    world: Observed, versions: list[Array], contributions: tuple[Contribution, ...], deltas: dict[bytes, Delta]
) -> Array:
    """Σ f·w·Δ / Σ w; where each update makes a version, α·f·(b + Δ − x) with the model b that it began from."""
    terms = [np.float64(_terms(world.scenario, deltas[given.ref.sha256])[0]) for given in contributions]
    aggregation = world.scenario.description.aggregation
    if aggregation.mode == "asynchronous":
        ((given,), (term,)) = contributions, terms
        base = versions[given.key.round - 1]
        return aggregation.mixing * given.factor * (base + term / given.weight - versions[-1])
    weighed = [given.factor * term for given, term in zip(contributions, terms, strict=True)]
    return np.sum(weighed, axis=0) / math.fsum(given.weight for given in contributions)


@dataclass
class _Server:
    """FedAvgM: m ← β·m + Δ, x ← x + η·m. FedAdam: m ← β·m + (1 − β)·Δ, v ← β₂·v + (1 − β₂)·Δ², x ← x + η·m/(√v + τ),
    where v begins as τ². The others take Δ."""

    strategy: Strategy
    momentum: Array = field(default_factory=lambda: np.zeros(3))
    second: Array | None = None

    def step(self, delta: Array) -> Array:
        about = self.strategy
        rate, beta, beta2, tau = about.server_learning_rate, about.momentum, about.beta2, about.tau
        match about.name:
            case "fedavgm":
                self.momentum = beta * self.momentum + delta
                return rate * self.momentum
            case "fedadam":
                before = np.full(3, tau**2) if self.second is None else self.second
                self.momentum = beta * self.momentum + (1 - beta) * delta
                self.second = beta2 * before + (1 - beta2) * delta**2
                return rate * self.momentum / (np.sqrt(self.second) + tau)
            case _:
                return delta


def late_counts_less(world: Observed) -> Iterator[str]:
    """An update of a model `s` versions old counts (1 + s)**-a, and older ones than allowed not at all."""
    aggregation = world.scenario.description.aggregation
    for closed in _committed(world):
        for given in closed.contributions if closed.task == "train" else ():
            staleness = closed.round - given.key.round
            if not _near(given.factor, (1 + staleness) ** -aggregation.staleness_exponent):
                yield f"round {closed.round}: {given.node}, {staleness} versions late, counts {given.factor}"
            if staleness > aggregation.staleness_cap:
                yield f"round {closed.round}: {given.node} is {staleness} versions late"


def versions_are_in_order(world: Observed) -> Iterator[str]:
    """Versions 0 to the last, each of another model; and what SQL has of a round is what was committed last."""
    if sorted(world.models) != list(range(len(world.models))):
        yield f"SQL has versions {sorted(world.models)}"
    if world.state == "finished" and len(world.models) != world.scenario.description.rounds + 1:
        yield f"finished with versions {sorted(world.models)} of {world.scenario.description.rounds} rounds"
    closed = [(row.round, row.task) for row in world.rows if row.state == "closed"]
    if len(set(closed)) != len(closed):
        yield f"a round closed twice: {closed}"


# ── what was promised ───────────────────────────────────────────────────────────────────────────────────────────


def acknowledged_is_kept(world: Observed) -> Iterator[str]:
    """A receipt went out: then whatever came of that round, at the parent that sent it, holds the update."""
    results = [(event, event.value) for event in world.trace.of("result")]
    for event in world.trace.of("says"):
        receipt = message_of(event.value.topic, event.value.payload)
        if not isinstance(receipt, Receipt):
            continue
        child = event.value.topic.split("/")[-3]
        where = f"at {event.at:.3f}: {event.who} acknowledged {child}'s {label(receipt.key)}"
        if event.who == CLOUD:
            yield from _kept_by_the_cloud(world, where, child, receipt.key)
            continue
        for ended, result in results:
            same = ended.who == event.who and result.plan.key == receipt.key and result.closed and ended.at > event.at
            if same and child not in {given.node for given in result.contributions}:
                yield f"{where}, and its round closed without it"
        yield from _kept_on_the_way_up(world, where, event, child, receipt.key)


def _kept_by_the_cloud(world: Observed, where: str, child: str, key: RoundKey) -> Iterator[str]:
    """In a committed round; or that of its key failed, and all of it comes again."""
    for closed in _committed(world):
        if any(given.node == child and given.key == key for given in closed.contributions):
            return
        if closed.state == "failed" and (closed.round, closed.attempt) == (key.round, key.attempt):
            return
    if world.state == "finished":
        yield f"{where}, and no committed round has it"


def _kept_on_the_way_up(world: Observed, where: str, event: Event, child: str, key: RoundKey) -> Iterator[str]:
    """Where a sum of that round goes up later, it names the child's devices."""
    if _averages(world.scenario, event.who) or world.scenario.description.edge_rounds > 1:
        return
    for later in world.trace.of("says"):
        if later.who != event.who or later.at <= event.at:
            continue
        delta = message_of(later.value.topic, later.value.payload)
        if isinstance(delta, Delta) and delta.key == key:
            if is_device(child) and not _has(delta.weight, child):
                yield f"{where}, and sent {label(delta.key)} of weight {delta.weight} without it"
            return


def what_was_sent_arrives(world: Observed) -> Iterator[str]:
    """A child that has a delta out and hears of its round again sends it again: undisturbed it is in before long."""
    sent: dict[tuple[str, RoundKey], float] = {}
    opened: dict[tuple[str, RoundKey], float] = {}
    for event in world.trace.of("says", "delivered"):
        message = message_of(event.value.topic, event.value.payload)
        match event.what, message:
            case "says", Delta(key=key):
                sent.setdefault((event.who, key), event.at)
            case "says", Announcement(plan=Plan(key=key)):
                opened[event.who, key] = event.at
            case "delivered", Refusal(key=key):
                sent.pop((event.who, key), None)
            case "delivered", Announcement(plan=Plan(key=key) as plan) if _waits_for_all(plan, event.who):
                # Whoever hears of another round has its answer for this one.
                sent = {(who, other): at for (who, other), at in sent.items() if who != event.who or other == key}
                since = sent.get((event.who, key)), opened.get((world.scenario.parents[event.who], key))
                if _is_owed(world, event, key, since):
                    yield f"at {event.at:.3f}: {event.who} hears again of {label(key)}, and its round ends without it"


def _is_owed(world: Observed, heard: Event, key: RoundKey, since: tuple[float | None, float | None]) -> bool:
    """`since` is when the child began to send and when its parent announced the round."""
    began, opened = since
    if began is None or opened is None or heard.who in world.scenario.second_parents:
        # Nothing is out, or it may be the other parent's part.
        return False
    until = heard.at + ARRIVES_WITHIN_S
    parent = world.scenario.parents[heard.who]
    lived = _lived(world, heard.who, began, until) and _lived(world, parent, opened, until)
    return lived and _quiet(world, heard.who, heard.at, until) and _ended_without(world, heard.who, key, until)


def _waits_for_all(plan: Plan, who: str) -> bool:
    return who != CLOUD and not plan.buffer and not plan.over_selection


ARRIVES_WITHIN_S: Final = 4.0
"""A delta that nothing disturbs, with every latency and a receipt's delay."""


def _lived(world: Observed, node: str, since: float, until: float) -> bool:
    return not any(event.who == node and since <= event.at <= until for event in world.trace.of("dies", "exits"))


def _quiet(world: Observed, child: str, since: float, until: float) -> bool:
    """Whether no fault was on the links between the child and its parent."""
    parent = world.scenario.parents[child]
    ends = (child, parent, site_client(parent))
    if any(event.who in ends and since <= event.at <= until for event in world.trace.of("lost")):
        return False
    return not any(
        isinstance(fault, Cut) and fault.client in ends and fault.at_s <= until and since <= fault.at_s + fault.for_s
        for fault in world.scenario.faults
    )


def _ended_without(world: Observed, child: str, key: RoundKey, after: float) -> bool:
    """Whether the parent's round of this key ended after that time, without the child."""
    ended = [event for event in world.trace.of("result") if event.who == world.scenario.parents[child]]
    return any(
        event.value.plan.key == key
        and event.at > after
        and child not in {given.node for given in event.value.contributions}
        for event in ended
    )


# ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────


def the_run_finishes(world: Observed) -> Iterator[str]:
    """Once faults stop, every round ends and so does the run."""
    if world.trouble:
        yield world.trouble
    if world.state != "finished":
        yield f"at {world.ended_at:.0f} s the run is {world.state}"


def everyone_rests(world: Observed) -> Iterator[str]:
    """Nobody waits for ever: after the run all are connected, nothing is owed and nothing is being sent."""
    yield from world.restless


def nothing_unexpected(world: Observed) -> Iterator[str]:
    """No task and no callback failed with an error that nobody meant."""
    yield from world.errors


def memory_is_bounded(world: Observed) -> Iterator[str]:
    """No queue, buffer or set of tasks of any node ever passed its bound."""
    above = (*world.scenario.parents.values(), *world.scenario.second_parents.values())
    children = {node: above.count(node) for node, _ in world.most}
    for (node, thing), most in sorted(world.most.items()):
        bound = children[node] * MOST_A_CHILD.get(thing, 0) + MOST.get(thing, 0)
        if most > bound:
            yield f"{node}: {most} {thing}; at most {bound}"


MOST: Final = {
    "tasks": 40,
    "assemblies above": 2,
    "background above": MAX_BACKGROUND_ABOVE,
    "outgoing": MAX_OUTGOING,
    "waiters above": 8,
    "waiters below": 8,
    "background below": min(MAX_BACKGROUND_BELOW, 16),
}
MOST_A_CHILD: Final = {
    "tasks": 10,
    "assemblies below": 1,
    "owed receipts": 2,
    "wants": 2,
    "background below": 8,
    "members": 1,
    "held": 4,
}
"""For each child; what a node holds beyond these it holds for nobody."""


CHECKERS: Final[dict[str, Checker]] = {
    checker.__name__: checker
    for checker in (
        nobody_counts_twice,
        only_the_plan_is_answered,
        no_update_in_two_rounds,
        weight_is_conserved,
        announced_is_committed,
        sql_is_recomputed,
        late_counts_less,
        versions_are_in_order,
        acknowledged_is_kept,
        what_was_sent_arrives,
        the_run_finishes,
        everyone_rests,
        nothing_unexpected,
        memory_is_bounded,
    )
}


def judged(world: Observed) -> dict[str, tuple[str, ...]]:
    """What each checker has to say; nothing, where all is well."""
    said = {name: tuple(dict.fromkeys(checker(world))) for name, checker in CHECKERS.items()}
    return {name: sentences for name, sentences in said.items() if sentences}


# ── reading a trace ─────────────────────────────────────────────────────────────────────────────────────────────


def _closed(world: Observed) -> Iterator[tuple[Event, RoundResult]]:
    return ((event, event.value) for event in world.trace.of("result") if event.value.closed)


def _committed(world: Observed) -> Iterator[ClosedRound]:
    """Attempts as they were committed; of one that was committed again the last."""
    last: dict[tuple[int, int, str], ClosedRound] = {}
    for event in world.trace.of("committed"):
        last[event.value.round, event.value.attempt, event.value.task] = event.value
    return iter(last.values())


def _averages(scenario: Scenario, parent: str) -> bool:
    """Whether this parent's children send means of several edge rounds."""
    return parent == CLOUD and scenario.description.edge_rounds > 1


def _deltas_by_hash(world: Observed) -> dict[bytes, Delta]:
    deltas: dict[bytes, Delta] = {}
    for event in world.trace.of("says"):
        if event.value.topic.endswith("/delta"):
            delta = message_of(event.value.topic, event.value.payload)
            if isinstance(delta, Delta):
                deltas[_object_hash(event)] = delta
    return deltas


def _object_hash(event: Event) -> bytes:
    return decode(event.value.payload, Chunk).object.sha256


def _terms(scenario: Scenario, delta: Delta) -> tuple[Array, ...]:
    """The tensors of a delta, however they travel."""
    if not delta.coded:
        return tuple(decode_tensor(tensor) for tensor in delta.tensors)
    return decode_update(delta.coded, delta_specs("train", MANIFEST, scenario.description.learning))


def _has(weight: float, device: str) -> bool:
    return bool(int(weight) >> int(device[1:]) & 1)


def _same_attempt(one: RoundKey, other: RoundKey) -> bool:
    return (one.run, one.round, one.attempt) == (other.run, other.round, other.attempt)


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
