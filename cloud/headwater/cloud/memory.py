"""Law: what the cloud must know besides a model to go on from it is one file of named arrays, written with that model.

The optimisers' states by model, what the last downlink left out, and the mask of a pruned model.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from headwater.core import arrays
from headwater.core.optimise import State
from headwater.schemas.errors import HistoryError
from headwater.schemas.tensors import Array

Residual = tuple[Array, ...]
Mask = tuple[Array, ...]


def written(states: Sequence[State], residual: Residual = (), mask: Mask = ()) -> bytes | None:
    """For the history, or None where there is nothing to remember."""
    named = {
        f"{model}/{name}/{place}": value
        for model, state in enumerate(states)
        for name, values in state.items()
        for place, value in enumerate(values)
    }
    named |= {f"residual/{place}": value for place, value in enumerate(residual)}
    named |= {f"mask/{place}": np.asarray(value, dtype=bool) for place, value in enumerate(mask)}
    return arrays.written(named) if named else None


def read(payload: bytes | None, models: int) -> tuple[tuple[State, ...], Residual, Mask]:
    """What was written of so many models.

    Raises:
        HistoryError: it is damaged.
    """
    if payload is None:
        return tuple({} for _ in range(models)), (), ()
    try:
        named = arrays.read(payload)
        states = tuple(_state(named, f"{model}/") for model in range(models))
        return states, _listed(named, "residual/"), _listed(named, "mask/")
    except (ValueError, KeyError) as error:
        raise HistoryError(f"memory of the model: {error}; restore the database from a backup") from None


def _state(named: Mapping[str, Array], prefix: str) -> State:
    names = dict.fromkeys(name.split("/")[1] for name in named if name.startswith(prefix))
    return {name: _listed(named, f"{prefix}{name}/") for name in names}


def _listed(named: Mapping[str, Array], prefix: str) -> tuple[Array, ...]:
    count = sum(name.startswith(prefix) for name in named)
    return tuple(named[f"{prefix}{place}"] for place in range(count))
