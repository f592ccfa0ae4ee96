"""Law: the head is learned first, on the shared body as it came; then the body, with the head as it is now.

    for τ epochs:  h ← h − η·∇_h F_i(h, φ)
    then:          φ ← φ − η·∇_φ F_i(h, φ)          FedRep, Collins et al. 2021, algorithm 1

The head are the personal parameters, by the model's patterns. FedPer (Arivazhagan et al. 2019) trains both at once,
which is FedAvg with those patterns, and needs nothing of its own.
"""

from headwater.core.local.method import PERSONAL_RATE, SHARED_RATE, Method, Outcome, Setting, Training, train


def alternating(setting: Setting) -> Method:
    """FedRep's device. Its graph is of the variant alternating."""
    personal = setting.learning.personal
    head = yield from train(
        Training(
            setting.received,
            personal.epochs,
            setting.personal_rate,
            hyperparameters={SHARED_RATE: 0.0, PERSONAL_RATE: 1.0},
        )
    )
    body = yield from train(
        Training(
            head.parameters,
            setting.epochs,
            setting.learning_rate,
            hyperparameters={SHARED_RATE: 1.0, PERSONAL_RATE: 0.0},
        )
    )
    return Outcome(body, setting.change(body.parameters))
