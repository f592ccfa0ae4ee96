"""Law: a strategy's cloud undoes what its devices did to their updates, and keeps what is the whole fleet's.

    SCAFFOLD   c ← c + (|S|/N)·mean Δc_i            Karimireddy et al. 2020, algorithm 1, line 17
    FedDyn     h ← h − α·(|S|/N)·mean Δ_i           Acar et al. 2021, algorithm 1
               x ← x + mean Δ_i − h/α
    FetchSGD   x ← x + η·top-k of the sketches' sum    Rothchild et al. 2020, algorithm 1, in `core.compress.sketch`
    FedNova    x ← x + τ_eff·Σ p_i·(Δ_i/a_i)        Wang et al. 2020, equation 7 with τ_eff = Σ p_i·a_i

|S|/N is the share of the fleet that a round heard, and as everything else here it counts devices by their weights, so
that c and h are the fleet's weighted means. A running statistic is no gradient: it is averaged, whatever the strategy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from headwater.core.aggregate import Sums
from headwater.core.optimise import server
from headwater.core.optimise.server import State
from headwater.schemas.learning import Strategy
from headwater.schemas.manifest import LOCAL_STEPS, Manifest
from headwater.schemas.messages import Metric


@dataclass(frozen=True, slots=True)
class Update:
    """The mean of a round.

    `mean` has a tensor for each shared parameter, and behind them what the strategy adds up besides. `local_steps` is
    the mean number of plain steps behind it, where devices normalise. `fleet_share` is the weight of those who gave it,
    of that of the whole fleet.
    """

    mean: Sums
    local_steps: float = 1.0
    fleet_share: float = 1.0


def init(strategy: Strategy, manifest: Manifest) -> State:
    """The state before a run's first round. `control` is what travels beside the model."""
    shapes = [parameter.shape for parameter in manifest.shared if parameter.trainable]
    state = dict(server.init(strategy, shapes))
    if strategy.local_rule == "scaffold":
        state["control"] = tuple(np.zeros(shape) for shape in shapes)
    if strategy.local_rule == "dynamic":
        state["drift"] = tuple(np.zeros(shape) for shape in shapes)
    return state


def apply(strategy: Strategy, manifest: Manifest, state: State, update: Update) -> tuple[State, Sums]:
    """The state behind a round, and the step of the shared parameters, float64."""
    shared = manifest.shared
    delta, companions = update.mean[: len(shared)], update.mean[len(shared) :]
    gradients = [tensor for tensor, p in zip(delta, shared, strict=True) if p.trainable]
    kept = {name: value for name, value in state.items() if name in ("control", "drift")}
    if strategy.local_rule == "normalised":
        gradients = [update.local_steps * tensor for tensor in gradients]
    if strategy.local_rule == "scaffold":
        kept["control"] = _added(state["control"], update.fleet_share, companions)
    if strategy.local_rule == "dynamic":
        drift = kept["drift"] = _added(state["drift"], -strategy.alpha * update.fleet_share, gradients)
        gradients = [tensor - h / strategy.alpha for tensor, h in zip(gradients, drift, strict=True)]
    moved, step = server.apply(strategy, state, gradients)
    stepped = iter(step)
    return {**moved, **kept}, tuple(
        next(stepped) if p.trainable else tensor for tensor, p in zip(delta, shared, strict=True)
    )


def _added(state: Sums, factor: float, tensors: Iterable[np.ndarray]) -> Sums:
    return tuple(value + factor * tensor for value, tensor in zip(state, tensors, strict=True))


# ── in a cluster ────────────────────────────────────────────────────────────────────────────────────────────────


def with_steps(metrics: Sequence[Metric], local_steps: float, weight: float) -> tuple[Metric, ...]:
    """The metrics of a cluster that went so many steps in all its edge rounds."""
    told = [metric for metric in metrics if metric.name != LOCAL_STEPS]
    return (*told, Metric(split="train", name=LOCAL_STEPS, total=local_steps * weight, weight=weight))
