"""A small run that three unequal devices can learn in a moment, below a gateway and below the cloud."""

from typing import Any

import numpy as np

from headwater.device.sources.dataset import Dataset
from headwater.schemas.run import RunDescription

DEVICES = ("d0", "d1", "d2")
TREE = {"gw1": ("d0", "d1"), "": ("d2",)}


def described(rounds: int = 3, **sections: Any) -> RunDescription:
    base = {
        "name": "n",
        "data": "d",
        "rounds": rounds,
        "model": {"kind": "mlp", "features": 4, "classes": 3, "hidden": (6,)},
        "local": {"batch_size": 8, "learning_rate": 0.2},
        "cohort": {"quorum": 1.0, "deadline_s": 8.0},
    }
    return RunDescription.model_validate(base | sections)


def people(unequal: bool = True) -> dict[str, Dataset]:
    """Each device has mostly one of three classes, and its own number of examples."""
    found = {}
    for place, node in enumerate(DEVICES):
        rng = np.random.default_rng(place)
        y = np.where(rng.random(20 + 8 * place) < 0.7, place if unequal else 0, rng.integers(0, 3, 20 + 8 * place))
        x = (np.eye(4)[y] * 2 + rng.normal(0, 0.6, (len(y), 4))).astype(np.float32)
        found[node] = Dataset(x[6:], y[6:], x[:6], y[:6])
    return found
