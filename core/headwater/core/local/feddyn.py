"""Law: each device's objective is regularised so that its minimum is the fleet's.

    w_i ← argmin L_i(w) − ⟨h_i, w⟩ + α/2·‖w − w_t‖²
    h_i ← h_i − α·(w_i − w_t)                        FedDyn, Acar et al. 2021, algorithm 1

The gradient of the two terms is α·(w − (w_t + h_i/α)): a proximal term whose anchor is moved by h_i/α. h_i, which the
paper calls ∇L_i(w_i), is kept, and follows only if the delta is taken, so that the cloud's h stays the mean of them.
"""

import numpy as np

from headwater.core.local.method import PULL, Method, Outcome, Setting, Training, kept_of, train


def dynamic(setting: Setting) -> Method:
    """FedDyn's device. Its graph is of the variant proximal."""
    alpha, controlled = setting.learning.strategy.alpha, setting.controlled
    own = setting.recalled_of("dynamic")
    begun = setting.of(setting.received, controlled)
    anchors = [w.astype(np.float64) + h / alpha for w, h in zip(begun, own, strict=True)]
    trained = yield from train(
        Training(
            setting.received,
            setting.epochs,
            setting.learning_rate,
            anchors=setting.put(setting.received, controlled, anchors),
            hyperparameters={PULL: alpha},
        )
    )
    moved = setting.of(trained.parameters, controlled)
    after = [h - alpha * (w.astype(np.float64) - x) for h, w, x in zip(own, moved, begun, strict=True)]
    return Outcome(trained, setting.change(trained.parameters), if_taken=kept_of("dynamic", controlled, after))
