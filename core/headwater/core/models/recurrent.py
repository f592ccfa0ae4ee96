"""Law: a recurrent layer takes time first, so x is turned around once; its last state is what the head sees."""

import numpy as np

from headwater.core.models.builder import Builder
from headwater.core.models.initial import glorot, orthogonal


def gru(
    features: int,
    time: int,
    classes: int,
    hidden: int,
    layers: int,
    *,
    rng: np.random.Generator,
    normalise: bool = False,
) -> bytes:
    """Gated recurrent units (Cho et al. 2014): x `[batch, time, features]`, a dense layer on the last state.

    Input weights are Glorot's, a state's own orthogonal, biases 0; the reset gate acts on the product, as in cuDNN.
    """
    build = Builder("gru", [time, features], rng, normalise=normalise)
    value = build.node("Transpose", build.first, name="time_first", perm=[1, 0, 2])
    first, second = build.number("axis0", [0]), build.number("axis1", [1])
    for layer in range(1, layers + 1):
        name, width = f"gru{layer}", features if layer == 1 else hidden
        each = [glorot(rng, (hidden, width), width, hidden) for _ in range(3)]
        inputs = [
            value,
            build.weight(f"{name}.input_weight", np.concatenate(each)[None]),
            build.weight(f"{name}.state_weight", np.concatenate([orthogonal(rng, hidden) for _ in range(3)])[None]),
            build.weight(f"{name}.bias", np.zeros((1, 6 * hidden))),
        ]
        every = build.node(
            "GRU", *inputs, name=name, others=[f"{name}.last"], hidden_size=hidden, linear_before_reset=1
        )
        if layer < layers:
            value = build.node("Squeeze", every, second, name=f"{name}.states")
    last = build.node("Squeeze", f"gru{layers}.last", first, name="last_state")
    return build.finished(build.dense(last, hidden, classes, name="head"), [classes])
