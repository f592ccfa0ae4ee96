"""Law: a task learns on its own data, pulled towards what the tasks related to it say.

    w ← w − η·(∇F_i(w) + λ·(w − a_i))          after MOCHA, Smith et al. 2017, equations 3 and 4, in the primal

The cloud knows the relation of the tasks and sends the anchor a_i beside the task's model; without one that is the
model itself.
"""

from headwater.core.local.method import PULL, Method, Outcome, Setting, Training, train


def anchored(setting: Setting) -> Method:
    """MOCHA's device. Its graph is of the variant proximal."""
    received = setting.received
    anchors = setting.put(received, setting.controlled, setting.companions) if setting.companions else received
    trained = yield from train(
        Training(
            received,
            setting.epochs,
            setting.learning_rate,
            anchors=anchors,
            hyperparameters={PULL: setting.learning.personal.strength},
        )
    )
    return Outcome(trained, setting.change(trained.parameters))
