"""Law: what the cloud must know besides a model to go on from it is one file of named arrays, written with that model.

The optimisers' states by model, what the last downlink left out, and the mask of a pruned model. Nothing in it can run.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from headwater.core.optimise import State
from headwater.schemas.errors import HistoryError
from headwater.schemas.tensors import Array

Residual = tuple[Array, ...]
Mask = tuple[Array, ...]


def written(states: Sequence[State], residual: Residual = (), mask: Mask = ()) -> bytes | None:
    """For the history, or None where there is nothing to remember."""
    arrays = {
        f"{model}/{name}/{place}": value
        for model, state in enumerate(states)
        for name, values in state.items()
        for place, value in enumerate(values)
    }
    arrays |= {f"residual/{place}": value for place, value in enumerate(residual)}
    arrays |= {f"mask/{place}": np.asarray(value, dtype=bool) for place, value in enumerate(mask)}
    if not arrays:
        return None
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read(payload: bytes | None, models: int) -> tuple[tuple[State, ...], Residual, Mask]:
    """What was written of so many models.

    Raises:
        HistoryError: it is damaged.
    """
    if payload is None:
        return tuple({} for _ in range(models)), (), ()
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        states = tuple(_state(arrays, f"{model}/") for model in range(models))
        return states, _listed(arrays, "residual/"), _listed(arrays, "mask/")
    except (OSError, ValueError, KeyError) as error:
        raise HistoryError(
            f"the state beside the model is damaged: {error}; restore the database from a backup"
        ) from None


def _state(arrays: Mapping[str, Array], prefix: str) -> State:
    names = dict.fromkeys(name.split("/")[1] for name in arrays if name.startswith(prefix))
    return {name: _listed(arrays, f"{prefix}{name}/") for name in names}


def _listed(arrays: Mapping[str, Array], prefix: str) -> tuple[Array, ...]:
    count = sum(name.startswith(prefix) for name in arrays)
    return tuple(arrays[f"{prefix}{place}"] for place in range(count))
