"""Law: a model that nobody chooses any more begins anew beside the one that most train, a little apart from it.

IFCA (Ghosh et al. 2020) needs models that begin near their clusters (its theorem 1), and from random ones several
groups of devices often choose the same one, for good: whatever was trained fits better than what never was. But where
a model is the mean of groups that want different things, their gradients there add up to about 0, so a step that is
good for one is bad for another: of two copies a little apart each fits other groups better, and they part. Empty
clusters of k-means are filled so as well.

A model counts as chosen by nobody once updates of `EMPTY_AFTER` whole fleets came and none was of it; with a part of
the fleet in each round that takes as many rounds more. Of groups of very different sizes the largest is split, be it
one or several.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from headwater.core.aggregate import Parameters
from headwater.core.optimise.models import Heard, Models, common
from headwater.core.optimise.server import State
from headwater.schemas.learning import Learning
from headwater.schemas.manifest import Manifest
from headwater.schemas.tensors import Array

EMPTY_AFTER: Final = 2.0
APART: Final = 0.02
"""Of a tensor's root mean square: so small that the gradient decides who fits better, and not the curvature."""

IDLE: Final = "idle"
"""The part of a model's state that says how many fleets' updates came since one was of it."""


def counted(learning: Learning, models: Models, told: Sequence[Heard | None]) -> Models:
    """The models with one more round in which some of them were heard of."""
    fleet_share = next((one.update.fleet_share for one in told if one is not None), None)
    if learning.clusters.by != "likeness" or fleet_share is None:
        return models
    states = [
        {**state, IDLE: (np.array(0.0 if one else _idle(state) + fleet_share),)}
        for state, one in zip(models.states, told, strict=True)
    ]
    return replace(models, states=tuple(states))


def filled(
    learning: Learning, manifest: Manifest, models: Models, told: Sequence[Heard | None], seed: int, round_: int
) -> Models | None:
    """The models with those that are empty begun anew, or None where none is.

    Args:
        models: counted, and behind their steps.
        told: what the round heard of each.
        seed: the run's.
    """
    empty = [place for place, state in enumerate(models.states) if _idle(state) >= EMPTY_AFTER]
    shares = [one.share if one else 0.0 for one in told]
    if not empty or not any(shares):
        return None
    parameters, states = list(models.parameters), list(models.states)
    for place in empty:
        largest = int(np.argmax(shares))
        rng = np.random.default_rng([seed, round_, place])
        parameters[place] = _apart(learning, manifest, parameters[largest], rng)
        states[place] = states[largest]
        shares[place] = shares[largest] = shares[largest] / 2
    return replace(models, parameters=tuple(parameters), states=tuple(states))


def _idle(state: State) -> float:
    return float(state[IDLE][0]) if IDLE in state else 0.0


def _apart(learning: Learning, manifest: Manifest, parameters: Parameters, rng: np.random.Generator) -> Parameters:
    """A copy with noise on what trains and is the cluster's own; running statistics stay."""
    own = {
        parameter.name
        for parameter, is_common in zip(manifest.shared, common(learning, manifest), strict=True)
        if parameter.trainable and not is_common
    }
    pairs = zip(manifest.parameters, parameters, strict=True)
    return tuple(_noisy(value, rng) if parameter.name in own else value for parameter, value in pairs)


def _noisy(value: Array, rng: np.random.Generator) -> Array:
    spread = float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))
    return np.asarray(value + APART * spread * rng.standard_normal(value.shape), dtype=np.float32)
