"""Law: a cluster's edge rounds add up to one update, as if a single device had made it.

    x_k ← x_{k−1} + τ_k·mean_k       τ_k the steps behind the mean where devices normalise theirs, else 1
    Δ = (x_κ2 − x_0) / Σ τ_k         FedNova's update of a cluster: normalised by all of its steps
    Δc = Σ mean_k Δc                 SCAFFOLD: each device's control variate moved in each edge round, from one c

HierFAVG, Liu et al. 2020, algorithm 1, with the corrections of `strategy.py`. Of several models that coexist each goes
its own way, and weighs as much as the devices that trained it, on average over the edge rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.core.aggregate import Parameters, Sums, WeightedSum, difference, shared, stepped
from headwater.schemas.learning import Learning
from headwater.schemas.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Edge:
    """A cluster's models within one plan. `companions` add up what a strategy sends besides; `shares` are the weights
    that each model had in each edge round so far, `local_steps` all the steps behind the first, for where devices
    normalise theirs a cluster has no other."""

    models: tuple[Parameters, ...]
    companions: tuple[Sums, ...]
    shares: tuple[tuple[float, ...], ...] = ()
    local_steps: float = 0.0

    @property
    def done(self) -> int:
        return len(self.shares)


@dataclass(frozen=True, slots=True)
class Total:
    """What goes up: w·Δ of each model that has a share, with what follows it."""

    terms: Sums
    weight: float
    shares: tuple[float, ...]
    local_steps: float


def begin(models: Sequence[Parameters]) -> Edge:
    """Before the first edge round."""
    return Edge(tuple(models), tuple(() for _ in models))


def after(learning: Learning, manifest: Manifest, edge: Edge, total: WeightedSum) -> Edge:
    """The cluster behind an edge round."""
    shares = total.shares or (total.weight,)
    models, companions = list(edge.models), list(edge.companions)
    for model, share in enumerate(shares):
        if not share > 0:
            continue
        mean = total.mean(model)
        step = _unscaled(learning, manifest, mean[: len(manifest.shared)], total.local_steps(model))
        models[model] = stepped(manifest, edge.models[model], step)
        companions[model] = _added(edge.companions[model], mean[len(manifest.shared) :])
    return Edge(tuple(models), tuple(companions), (*edge.shares, shares), edge.local_steps + total.local_steps())


def as_it_is(sum_: WeightedSum) -> Total:
    """A sum that goes up as it came."""
    return Total(sum_.totals, sum_.weight, sum_.shares, sum_.local_steps())


def total(learning: Learning, manifest: Manifest, edge: Edge, base: Sequence[Parameters]) -> Total:
    """The update of all the edge rounds, from the models `base` that they began with."""
    shares = tuple(float(np.mean(of_model)) for of_model in zip(*edge.shares, strict=True))
    normalises = learning.strategy.local_rule == "normalised"
    steps = edge.local_steps if normalises else 1.0
    terms: list[np.ndarray] = []
    for share, model, before, companions in zip(shares, edge.models, base, edge.companions, strict=True):
        if share > 0:
            change = difference(shared(manifest, model), shared(manifest, before))
            change = _unscaled(learning, manifest, change, 1 / steps)
            terms += [share * tensor for tensor in (*change, *companions)]
    return Total(tuple(terms), sum(shares), shares if len(shares) > 1 else (), steps)


def _unscaled(learning: Learning, manifest: Manifest, update: Sums, steps: float) -> Sums:
    """A normalised update times its steps; a running statistic never was divided by them."""
    if learning.strategy.local_rule != "normalised":
        return update
    return tuple(steps * tensor if p.trainable else tensor for tensor, p in zip(update, manifest.shared, strict=True))


def _added(before: Sums, more: Sums) -> Sums:
    return tuple(a + b for a, b in zip(before, more, strict=True)) if before else more
