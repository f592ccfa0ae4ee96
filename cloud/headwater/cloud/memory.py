"""Law: what the cloud must know besides a model to go on from it is one file of named arrays, written with that model.

The optimisers' states by model, what the last downlink left out, the mask of a pruned model, and the fleet's errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from headwater.core import arrays
from headwater.core.optimise import State
from headwater.core.sketch import TOLD, FleetErrors
from headwater.schemas.errors import HistoryError
from headwater.schemas.tensors import Array

Residual = tuple[Array, ...]
Mask = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Remembered:
    """All of it. `states` are the models', in their order; `errors` are the fleet's, as devices are told them."""

    states: tuple[State, ...]
    residual: Residual = ()
    mask: Mask = ()
    errors: FleetErrors = field(default_factory=dict)


def written(memory: Remembered) -> bytes | None:
    """For the history, or None where there is nothing to remember."""
    named = arrays.numbered("residual/", memory.residual)
    named |= arrays.numbered("mask/", (np.asarray(value, dtype=bool) for value in memory.mask))
    for model, state in enumerate(memory.states):
        for name, values in state.items():
            named |= arrays.numbered(f"{model}/{name}/", values)
    named |= {f"errors/{split}": counts for split, counts in memory.errors.items()}
    return arrays.written(named) if named else None


def read(payload: bytes | None, models: int) -> Remembered:
    """What was written of so many models.

    Raises:
        HistoryError: it is damaged.
    """
    if payload is None:
        return Remembered(tuple({} for _ in range(models)))
    try:
        named = arrays.read(payload)
        states = tuple(_state(named, f"{model}/") for model in range(models))
        errors = {split: named[f"errors/{split}"] for split in TOLD if f"errors/{split}" in named}
        return Remembered(states, arrays.listed(named, "residual/"), arrays.listed(named, "mask/"), errors)
    except (ValueError, KeyError) as error:
        raise HistoryError(f"memory of the model: {error}; restore the database from a backup") from None


def _state(named: Mapping[str, Array], prefix: str) -> State:
    names = dict.fromkeys(name.split("/")[1] for name in named if name.startswith(prefix))
    return {name: arrays.listed(named, f"{prefix}{name}/") for name in names}
