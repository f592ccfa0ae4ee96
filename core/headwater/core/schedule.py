"""Law: the learning rate of a round follows from its number alone, so a resumed run goes on where it was.

    round ≤ W:  rate = base·round / (W + 1)                                    W rounds of warm-up
    after it:   p = (round − W − 1) / (rounds − W), and
                rate = base                       constant
                rate = base·(1 − p)               linear
                rate = base·(1 + cos π·p) / 2     cosine, Loshchilov & Hutter 2017, without restarts

It falls towards 0 and is never 0: the last round still learns.
"""

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "linear"]


def learning_rate(base: float, schedule: Schedule, warmup_rounds: int, round_: int, rounds: int) -> float:
    """The rate of round 1 to `rounds`; rounds before and after, which do not train, have that of their neighbour."""
    number = min(max(round_, 1), rounds)
    if number <= warmup_rounds:
        return base * number / (warmup_rounds + 1)
    progress = (number - warmup_rounds - 1) / (rounds - warmup_rounds)
    match schedule:
        case "constant":
            return base
        case "linear":
            return base * (1 - progress)
        case "cosine":
            return base * (1 + math.cos(math.pi * progress)) / 2
