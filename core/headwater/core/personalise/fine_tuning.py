"""Law: the personal model is the global one, trained on for some epochs on the device's own data.

v_i ← w_t − η·Σ ∇F_i          as in Wang et al. 2019 (arXiv 1910.10252), section 3
"""

from collections.abc import Generator

from headwater.core.aggregate import Parameters
from headwater.core.local.method import Arrays, Outcome, Reply, Request, Setting, Training, kept_model, measure, train


def tuned(setting: Setting) -> Generator[Request, Reply, Parameters]:
    """The received model, trained on."""
    trained = yield from train(Training(setting.received, setting.learning.personal.epochs, setting.personal_rate))
    return trained.parameters


def after(setting: Setting, outcome: Outcome) -> Generator[Request, Reply, Arrays]:
    """What is kept: the tuned model, which the round's own training already is where it is as long."""
    if _is_done(setting):
        parameters = outcome.trained.parameters
    else:
        parameters = yield from tuned(setting)
    yield from measure(parameters, "personal")
    return kept_model(setting.manifest, "personal", parameters)


def _is_done(setting: Setting) -> bool:
    plainly = setting.learning.strategy.local_rule in ("plain", "normalised")
    own = setting.learning.personal.epochs, setting.personal_rate
    return plainly and own == (setting.epochs, setting.learning_rate)
