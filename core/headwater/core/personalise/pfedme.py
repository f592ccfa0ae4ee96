"""Law: the global model learns from how far each personal one goes from it, batch by batch.

    θ ≈ argmin F_i(θ; batch) + λ/2·‖θ − w_i‖²          by K steps
    w_i ← w_i − η·λ·(w_i − θ)                           pFedMe, T. Dinh et al. 2020, algorithm 1

θ of the last batch is the personal model. η·λ below 1 makes w_i a mean of itself and θ. The graph is of the variant
proximal, and its steps are plain descent.
"""

import numpy as np

from headwater.core.aggregate import Parameters
from headwater.core.local.method import PULL, Method, Outcome, Setting, Trained, Training, kept_model, train


def standing(setting: Setting) -> Parameters:
    """The personal model so far."""
    return setting.recalled("personal", setting.received)


def envelopes(setting: Setting) -> Method:
    """pFedMe's device."""
    personal, w = setting.learning.personal, setting.received
    step = setting.learning_rate * personal.strength
    told: Trained | None = None
    for batch in range(setting.epochs * setting.batches):
        solved = yield from train(
            Training(
                w,
                personal.steps,
                setting.personal_rate,
                anchors=w,
                hyperparameters={PULL: personal.strength},
                batch=batch,
            )
        )
        w = _towards(setting, w, solved.parameters, step)
        told = told.with_more(solved) if told else solved
    if told is None:
        raise ValueError("epochs: a round has at least one batch")
    return Outcome(told, setting.change(w), kept=kept_model(setting.manifest, "personal", told.parameters))


def _towards(setting: Setting, w: Parameters, theta: Parameters, step: float) -> Parameters:
    """w − step·(w − θ) of what trains; running statistics are θ's."""
    triples = zip(setting.manifest.parameters, w, theta, strict=True)
    return tuple(
        (old - step * (old.astype(np.float64) - new)).astype(np.float32) if parameter.trainable else new
        for parameter, old, new in triples
    )
