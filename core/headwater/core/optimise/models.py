"""Law: the global models of a run, one or several that coexist, move by the means of their own devices and no others'.

Each model has its own optimiser's state. Parameters that all of them share move by everyone's mean, and stay alike. A
model that nobody trained in a round stays where it is, but for those.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from headwater.core.aggregate import Parameters, Sums, WeightedSum, stepped
from headwater.core.compress import sketch
from headwater.core.optimise import strategy
from headwater.core.optimise.server import State
from headwater.schemas.learning import Learning
from headwater.schemas.limits import MAX_CLUSTERS
from headwater.schemas.manifest import Manifest
from headwater.schemas.tensors import parameter_specs


@dataclass(frozen=True, slots=True)
class Models:
    """`clusters` are their names, none where there is one model only. `parameters` are the manifest's, of each."""

    parameters: tuple[Parameters, ...]
    states: tuple[State, ...]
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """What a round heard of one model: as `strategy.Update`, and its weight in the round."""

    update: strategy.Update
    share: float


def begin(learning: Learning, manifest: Manifest, parameters: Sequence[Parameters], clusters: Sequence[str]) -> Models:
    """Before the first round."""
    return Models(tuple(parameters), tuple(_init(learning, manifest) for _ in parameters), tuple(clusters))


def _init(learning: Learning, manifest: Manifest) -> State:
    if learning.uplink.codec != "sketch":
        return strategy.init(learning.strategy, manifest)
    empty = np.zeros((learning.uplink.rows, learning.uplink.columns))
    return {"momentum": (empty,), "error": (empty,)}


def heard(
    total: WeightedSum, learning: Learning, fleet_weight: float, of_places: Sequence[float] = ()
) -> tuple[Heard | None, ...]:
    """Of each model what the round heard, or None.

    Args:
        fleet_weight: of all devices that there are, taking part or not.
        of_places: the same of each model, where each has devices of its own.
    """
    shares = total.shares or (total.weight,)

    def of_model(model: int, share: float) -> Heard:
        heard_weight, there = (share, of_places[model]) if of_places else (total.weight, fleet_weight)
        share_of_fleet = heard_weight / max(there, heard_weight)
        return Heard(strategy.Update(total.mean(model), total.local_steps(model), share_of_fleet), share)

    return tuple(of_model(model, share) if share > 0 else None for model, share in enumerate(shares))


def apply(
    learning: Learning, manifest: Manifest, models: Models, told: Sequence[Heard | None], seed: int = 0
) -> tuple[Models, tuple[Sums, ...]]:
    """The states behind a round, and the step of each model; the parameters are those of before (`moved`).

    Args:
        seed: the run's, which says where a sketch has each value.
    """
    if learning.uplink.codec == "sketch":
        return _unsketched(learning, manifest, models, told, seed)
    alike = common(learning, manifest)
    told = _with_common(told, alike) if any(alike) else told
    states, steps = [], []
    for state, one in zip(models.states, told, strict=True):
        after, step = state, _nothing(manifest)
        if one is not None:
            after, step = strategy.apply(learning.strategy, manifest, state, one.update)
        states.append(after)
        steps.append(step)
    first = next((step for step, one in zip(steps, told, strict=True) if one is not None), None)
    if first is not None:
        steps = [
            tuple(f if shared else own for f, own, shared in zip(first, step, alike, strict=True)) for step in steps
        ]
    return replace(models, states=tuple(states)), tuple(steps)


def moved(manifest: Manifest, models: Models, steps: Sequence[Sums]) -> Models:
    """The models behind their steps."""
    parameters = tuple(stepped(manifest, one, step) for one, step in zip(models.parameters, steps, strict=True))
    return replace(models, parameters=parameters)


def grown(learning: Learning, manifest: Manifest, models: Models, clusters: Iterable[str]) -> Models:
    """With a model for each of these clusters too, as far as `MAX_CLUSTERS` goes: new ones begin with the mean of those
    that there are."""
    new = sorted(set(clusters) - set(models.clusters))[: MAX_CLUSTERS - len(models.clusters)]
    if not new:
        return models
    mean: Parameters = tuple(
        np.asarray(np.mean(values, axis=0, dtype=np.float64), dtype=np.float32)
        for values in zip(*models.parameters, strict=True)
    )
    # The one model of a run that just begins is nobody's yet.
    known = models if models.clusters else replace(models, parameters=(), states=())
    added = begin(learning, manifest, [mean] * len(new), new)
    return Models(known.parameters + added.parameters, known.states + added.states, known.clusters + added.clusters)


def _unsketched(
    learning: Learning, manifest: Manifest, models: Models, told: Sequence[Heard | None], seed: int
) -> tuple[Models, tuple[Sums, ...]]:
    """FetchSGD, of the one model that it has. Its step is η·(1 − ρ)·Δ: with momentum it goes as far as without."""
    uplink, ((state,), (one,)) = learning.uplink, (models.states, told)
    if one is None:
        return models, (_nothing(manifest),)
    after, step = sketch.apply(
        sketch.State(state["momentum"][0], state["error"][0]),
        one.update.mean[0],
        parameter_specs(manifest.shared),
        sketch.Hashes(uplink.rows, uplink.columns, seed),
        fraction=uplink.fraction,
        momentum=uplink.momentum,
    )
    # Momentum makes 1/(1 − ρ) of an update, and what devices send is a whole update already, no gradient.
    rate = learning.strategy.server_learning_rate * (1 - uplink.momentum)
    kept = {"momentum": (after.momentum,), "error": (after.error,)}
    return replace(models, states=(kept,)), (tuple(rate * tensor for tensor in step),)


def common(learning: Learning, manifest: Manifest) -> tuple[bool, ...]:
    """Which of the shared parameters are one for all clusters."""
    patterns = learning.clusters.shared
    return tuple(any(fnmatchcase(p.name, pattern) for pattern in patterns) for p in manifest.shared)


def _with_common(told: Sequence[Heard | None], common: Sequence[bool]) -> tuple[Heard | None, ...]:
    """Where a parameter is one for all clusters, each of them hears everyone's mean."""
    there = [one for one in told if one is not None]
    weight = sum(one.share for one in there)

    def of_all(place: int) -> np.ndarray:
        return np.asarray(sum(one.share * one.update.mean[place] for one in there) / weight)

    everyone = [of_all(place) if shared else None for place, shared in enumerate(common)]

    def mixed(one: Heard) -> Heard:
        own = one.update.mean
        mean = tuple(e if e is not None else o for e, o in zip(everyone, own, strict=False)) + own[len(everyone) :]
        return replace(one, update=replace(one.update, mean=mean))

    return tuple(mixed(one) if one is not None else None for one in told)


def _nothing(manifest: Manifest) -> Sums:
    return tuple(np.zeros(parameter.shape) for parameter in manifest.shared)
