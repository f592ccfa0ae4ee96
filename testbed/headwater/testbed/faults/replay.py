"""Law: a run's model follows from what its history keeps: version 0, and what each child gave to each closed round.

    version n = version n-1 + (Σ f_k·(w_k·Δ_k)) / (Σ w_k)        f discounts a late update; FedAvg, as `core.aggregate`

Computed here anew from SQL, in numpy and from the stored bytes alone. For runs whose rounds wait for their cohort.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.node.envelope import opened
from headwater.schemas.messages import Delta, Model
from headwater.schemas.tensors import decode_tensor
from headwater.schemas.wire import decode_object
from headwater.testbed.faults.ledger import Sql

Parameters = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """The largest difference of an element between a model of the run and its replay: at the end, and at its worst."""

    versions: int
    final_error: float
    worst_error: float


def replayed(sql: Sql, run: str) -> Replayed:
    """Compute all versions of a run again, from version 0. Blocks.

    Raises:
        ValueError: a contribution was not kept (the run needs `keep_deltas`), or a version is missing.
    """
    models = _models(sql, run)
    parameters, errors = models[0], [0.0]
    for version in range(1, max(models) + 1):
        step = _step(sql, run, version)
        parameters = [(p + s).astype(np.float32) for p, s in zip(parameters, step, strict=True)]
        if version not in models:
            raise ValueError(f"version {version}: missing in models")
        errors.append(max(float(np.abs(a - b).max()) for a, b in zip(parameters, models[version], strict=True)))
    return Replayed(len(models) - 1, errors[-1], max(errors))


def _models(sql: Sql, run: str) -> dict[int, Parameters]:
    joined = "SELECT m.version, o.payload FROM models m JOIN objects o ON o.sha256 = m.sha256 WHERE m.run = ?"
    return {
        version: [np.array(decode_tensor(tensor)) for tensor in decode_object(bytes(payload), Model).tensors]
        for version, payload in sql.rows(joined, run)
    }


def _step(sql: Sql, run: str, version: int) -> list[NDArray[np.float64]]:
    """The mean step of the round that made this version."""
    given = sql.rows(
        "SELECT c.factor, o.payload FROM contributions c JOIN rounds r ON r.run = c.run AND r.round = c.round"
        " AND r.attempt = c.attempt AND r.task = c.task LEFT JOIN objects o ON o.sha256 = c.sha256"
        " WHERE c.run = ? AND c.round = ? AND c.task = 'train' AND r.state = 'closed'",
        run,
        version,
    )
    if not given or any(payload is None for _, payload in given):
        raise ValueError(f"round {version}: its {len(given)} contributions were not all kept; set keep_deltas = true")
    deltas = [(factor, decode_object(opened(bytes(payload)), Delta)) for factor, payload in given]
    weight = sum(delta.weight for _, delta in deltas)
    terms = [[factor * np.asarray(decode_tensor(t), np.float64) for t in delta.tensors] for factor, delta in deltas]
    return [sum(of_one) / weight for of_one in zip(*terms, strict=True)]
