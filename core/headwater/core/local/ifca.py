"""Law: a device belongs to the cluster whose model fits its data best, and says so again in each round.

    j ← argmin_k F_i(w_k)          then as ever, from w_j          IFCA, Ghosh et al. 2020, algorithm 1, lines 6 to 12

With model averaging, which is what a delta is for.
"""

import math
from collections.abc import Generator

from headwater.core.local.method import Reply, Request, Setting, measure


def likeliest(setting: Setting) -> Generator[Request, Reply, int]:
    """Which of the models it is, judged by the training part, which stays here."""
    losses = []
    for model in setting.models:
        measured = yield from measure(model, "train")
        losses.append(measured.means.get("loss", math.inf))
    return losses.index(min(losses))
