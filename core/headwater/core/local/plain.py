"""Law: plain local steps; and with a proximal term, the same pulled towards the model that was received.

w ← w − η·∇F_i(w)                         FedAvg, McMahan et al. 2017, algorithm 1
w ← w − η·(∇F_i(w) + μ·(w − w_t))         FedProx, Li et al. 2020, equation 2
"""

from headwater.core.local.method import PULL, Method, Outcome, Setting, Training, train


def plain(setting: Setting) -> Method:
    """FedAvg's device."""
    trained = yield from train(Training(setting.received, setting.epochs, setting.learning_rate))
    return Outcome(trained, setting.change(trained.parameters))


def proximal(setting: Setting) -> Method:
    """FedProx's device. Its graph is of the variant proximal."""
    pull = {PULL: setting.learning.strategy.mu}
    trained = yield from train(Training(setting.received, setting.epochs, setting.learning_rate, hyperparameters=pull))
    return Outcome(trained, setting.change(trained.parameters))
