"""Law: an update is told by the plain step, so that who made more of them does not count for more.

    d_i = (w_i − w_t) / ‖a_i‖₁          FedNova, Wang et al. 2020, equation 5

a_i is how much each gradient counts in what τ local steps move: 1 each for plain descent, and with momentum ρ
a_i = [1 − ρ^τ, …, 1 − ρ²,  1 − ρ] / (1 − ρ) (section 4.1), so ‖a_i‖₁ = (τ − ρ·(1 − ρ^τ)/(1 − ρ)) / (1 − ρ). The cloud
multiplies the mean of d_i by the mean of ‖a_i‖₁. A running statistic is no gradient, and is told as it is.
"""

from headwater.core.local.method import Method, Outcome, Setting, Training, train


def normalised(setting: Setting) -> Method:
    """FedNova's device."""
    trained = yield from train(Training(setting.received, setting.epochs, setting.learning_rate))
    length = plain_steps(trained.steps, setting.manifest.hyperparameters.get("momentum", 0.0))
    pairs = zip(setting.manifest.shared, setting.change(trained.parameters), strict=True)
    terms = tuple(change / length if parameter.trainable else change for parameter, change in pairs)
    return Outcome(trained, terms, local_steps=length)


def plain_steps(steps: int, momentum: float) -> float:
    """‖a_i‖₁: how many plain steps go as far as `steps` with momentum do."""
    forgotten = momentum * (1 - momentum**steps) / (1 - momentum)
    return (steps - forgotten) / (1 - momentum)
