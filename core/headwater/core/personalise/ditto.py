"""Law: a model of the device's own is trained on beside the global one, and pulled towards it.

    v_i ← v_i − η·(∇F_i(v_i) + λ·(v_i − w_t))          Ditto, Li et al. 2021, algorithm 1

Its graph is of the variant proximal; the global model is trained by the same graph, without a pull.
"""

from collections.abc import Generator

from headwater.core.aggregate import Parameters
from headwater.core.local.method import PULL, Arrays, Outcome, Reply, Request, Setting, Training, kept_model, train


def standing(setting: Setting) -> Parameters:
    """The model so far."""
    return setting.recalled("personal", setting.received)


def after(setting: Setting, _: Outcome) -> Generator[Request, Reply, Arrays]:
    """What is kept: v_i after this round's steps."""
    personal = setting.learning.personal
    trained = yield from train(
        Training(
            standing(setting),
            personal.epochs,
            setting.personal_rate,
            anchors=setting.received,
            hyperparameters={PULL: personal.strength},
        )
    )
    return kept_model(setting.manifest, "personal", trained.parameters)
