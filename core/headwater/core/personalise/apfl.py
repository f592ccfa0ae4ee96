"""Law: the personal model is a mixture of a local one and the global one, in a proportion that is learned too.

    v̄ = α·v + (1 − α)·w
    α ← α − η·⟨v − w, ∇F_i(v̄)⟩          once a round, kept in 0 to 1
    w ← w − η·∇F_i(w),   v ← v − η·α·∇F_i(v̄)          on each batch          APFL, Deng et al. 2020, algorithm 1

A step of plain descent from v̄ shows η·∇F_i(v̄): that is how the graph is asked for a gradient.
"""

import math
from collections.abc import Generator

import numpy as np

from headwater.core.aggregate import Parameters, Sums, difference
from headwater.core.local.method import (
    Method,
    Outcome,
    Reply,
    Request,
    Setting,
    Trained,
    Training,
    kept_model,
    train,
)

MIXING = "mixing"
"""What α is kept as."""


def standing(setting: Setting) -> Parameters:
    """v̄ of the local model so far and the received one."""
    return mixed(setting, setting.recalled("local", setting.received), setting.received, alpha_of(setting))


def alpha_of(setting: Setting) -> float:
    """α so far."""
    return float(setting.memory.get(MIXING, np.array(setting.learning.personal.mixing)))


def mixture(setting: Setting) -> Method:
    """APFL's device."""
    w, v = setting.received, setting.recalled("local", setting.received)
    alpha, told = alpha_of(setting), None
    for batch in range(setting.epochs * setting.batches):
        step = yield from _step_from(setting, mixed(setting, v, w, alpha), batch)
        if batch == 0 and setting.learning.personal.adaptive:
            alpha = _learned(setting, alpha, v, w, step)
        trained = yield from train(Training(w, 1, setting.learning_rate, batch=batch))
        w, told = trained.parameters, told.with_more(trained) if told else trained
        v = _moved(setting, v, step, alpha, w)
    return _outcome(setting, told, v, alpha)


def _outcome(setting: Setting, told: Trained | None, v: Parameters, alpha: float) -> Outcome:
    if told is None:
        raise ValueError("epochs: a round has at least one batch")
    w, manifest = told.parameters, setting.manifest
    kept = {
        **kept_model(manifest, "local", v),
        **kept_model(manifest, "personal", mixed(setting, v, w, alpha)),
        MIXING: np.array(alpha),
    }
    return Outcome(told, setting.change(w), kept=kept)


def _step_from(setting: Setting, point: Parameters, batch: int) -> Generator[Request, Reply, Sums]:
    """−η·∇F_i at a point, on one batch."""
    trained = yield from train(Training(point, 1, setting.personal_rate, batch=batch))
    return difference(trained.parameters, point)


def _learned(setting: Setting, alpha: float, v: Parameters, w: Parameters, step: Sums) -> float:
    of = zip(setting.manifest.parameters, difference(v, w), step, strict=True)
    slope = math.fsum(float((gap * moved).sum()) for parameter, gap, moved in of if parameter.trainable)
    return min(max(alpha + slope, 0.0), 1.0)


def _moved(setting: Setting, v: Parameters, step: Sums, alpha: float, w: Parameters) -> Parameters:
    """v after its part of the step from v̄; running statistics are w's."""
    of = zip(setting.manifest.parameters, v, step, w, strict=True)
    return tuple(
        (value + alpha * moved).astype(np.float32) if parameter.trainable else other
        for parameter, value, moved, other in of
    )


def mixed(setting: Setting, v: Parameters, w: Parameters, alpha: float) -> Parameters:
    """α·v + (1 − α)·w of what trains; the rest is w's."""
    of = zip(setting.manifest.parameters, v, w, strict=True)
    return tuple(
        (alpha * one.astype(np.float64) + (1 - alpha) * other).astype(np.float32) if parameter.trainable else other
        for parameter, one, other in of
    )
