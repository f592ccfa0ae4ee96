"""Law: what the cloud makes of a round's mean is a pair of functions, `init` and `apply(state, mean) -> (state, step)`.

server.py      the optimisers: FedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi
strategy.py    what SCAFFOLD, FedNova and FedDyn do around them
models.py      the same for several models that coexist
split.py       IFCA: a model that nobody chooses begins anew
cluster.py     what a gateway makes of its edge rounds
relation.py    MOCHA: tasks that are related

A state is named tensors in float64, beside the model that it belongs to.
"""

from headwater.core.optimise.models import Heard, Models, apply, begin, grown, heard, moved
from headwater.core.optimise.server import State
from headwater.core.optimise.split import counted, filled
from headwater.core.optimise.strategy import Update, with_steps

__all__ = [
    "Heard",
    "Models",
    "State",
    "Update",
    "apply",
    "begin",
    "counted",
    "filled",
    "grown",
    "heard",
    "moved",
    "with_steps",
]
