"""Law: a device's drift is corrected by the difference of two control variates, the fleet's and its own.

    y ← y − η·(g_i(y) − c_i + c)
    c_i⁺ ← c_i − c + (x − y) / (K·η)                 option II
    up: Δy = y − x,  Δc = c_i⁺ − c_i                 SCAFFOLD, Karimireddy et al. 2020, algorithm 1

x is what was received, K the number of steps. c comes beside the model, or is 0; c_i is kept, and becomes c_i⁺ only if
the delta is taken, so that c stays the mean of all c_i.
"""

from collections.abc import Sequence

import numpy as np

from headwater.core.local.method import Method, Outcome, Setting, Training, kept_of, train
from headwater.schemas.tensors import Array


def scaffold(setting: Setting) -> Method:
    """SCAFFOLD's device. Its graph is of the variant corrected."""
    controlled, rate = setting.controlled, setting.learning_rate
    own = setting.recalled_of("control")
    fleet = setting.companions or tuple(np.zeros_like(value) for value in own)
    correction = [c - c_i for c, c_i in zip(fleet, own, strict=True)]
    trained = yield from train(
        Training(setting.received, setting.epochs, rate, corrections=_of_the_trainable(setting, correction))
    )
    moved = setting.of(trained.parameters, controlled)
    begun = setting.of(setting.received, controlled)
    drift = [(x.astype(np.float64) - y) / (trained.steps * rate) for x, y in zip(begun, moved, strict=True)]
    change = tuple(d - c for d, c in zip(drift, fleet, strict=True))
    after = [c_i + more for c_i, more in zip(own, change, strict=True)]
    return Outcome(
        trained,
        (*setting.change(trained.parameters), *change),
        if_taken=kept_of("control", controlled, after),
    )


def _of_the_trainable(setting: Setting, correction: Sequence[Array]) -> tuple[Array, ...]:
    """With 0 for the personal parameters, which nobody else trains."""
    named = {p.name: value for p, value in zip(setting.controlled, correction, strict=True)}
    return tuple(named.get(p.name, np.zeros(p.shape, np.float32)) for p in setting.manifest.trainable)
