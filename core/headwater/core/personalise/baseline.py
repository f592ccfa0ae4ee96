"""Law: what a device would reach alone is trained by the same graph, for as many epochs, on its data and no other.

It begins with the first model that this device sees of the run.
"""

from collections.abc import Generator

from headwater.core.aggregate import Parameters
from headwater.core.local.method import Arrays, Reply, Request, Setting, Training, kept_model, train


def standing(setting: Setting) -> Parameters:
    """The model so far."""
    return setting.recalled("alone", setting.received)


def after(setting: Setting) -> Generator[Request, Reply, Arrays]:
    """What is kept: the model after as many epochs as this round's."""
    trained = yield from train(Training(standing(setting), setting.epochs, setting.learning_rate))
    return kept_model(setting.manifest, "alone", trained.parameters)
