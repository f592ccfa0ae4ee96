"""Law: tasks that are related pull each other, as strongly as their models say that they are; others are left alone.

    V = W − w̄                              each task's model, less the mean of all of them
    Σ = (V·Vᵀ)^(1/2) / tr((V·Vᵀ)^(1/2))    the relation, learned from the models         Smith et al. 2017, section 3.1;
                                           Zhang & Yeung 2010, equation 12
    P = (Σ + ε·I)^(−1)
    a_t = w̄ − Σ_{s≠t} P_ts·v_s / P_tt      where the others expect task t: what its proximal term pulls towards

MOCHA minimises Σ_t f_t(w_t) + λ/2·tr(Wᵀ·P·W) over W and Σ in turns. With Σ fixed the gradient of the second part by
w_t is λ·P_tt·(w_t − a_t): a pull to an anchor, which any device can follow in the primal, whatever its model. Of
MOCHA's assumptions these hold: stragglers and those who drop out only leave their task where it was, and the relation
is learned at the cloud from the models alone. These do not: losses need not be convex (so there is no rate, and no
dual to solve), blocks are not updated exactly, and one strength λ stands in for the pull of each task. And a task's
model, unlike other personal ones, is known to the cloud.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.aggregate import Parameters
from headwater.schemas.manifest import Manifest

RIDGE: Final = 0.1
"""ε, of the mean of Σ's diagonal: how far a relation is believed that few tasks say."""


def relation(models: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ of tasks, a row of `models` each; `[n, n]`, symmetric, of trace 1."""
    deviation = models - models.mean(axis=0)
    values, vectors = np.linalg.eigh(deviation @ deviation.T)
    # What rounding leaves of a 0 has a root that is far larger.
    values = np.where(values > 1e-12 * max(values[-1], 0.0), values, 0.0)
    roots = np.sqrt(values)
    total = roots.sum()
    if not total > 0:
        return np.eye(len(models)) / len(models)
    return np.asarray((vectors * (roots / total)) @ vectors.T)


def anchors(models: NDArray[np.float64], related: NDArray[np.float64]) -> NDArray[np.float64]:
    """a_t of each task, in the shape of `models`."""
    count, mean = len(models), models.mean(axis=0)
    precision = np.linalg.inv(related + RIDGE / count * np.eye(count))
    pull = precision / np.diag(precision)[:, None]
    np.fill_diagonal(pull, 0.0)
    return np.asarray(mean - pull @ (models - mean))


def anchors_of(manifest: Manifest, models: Sequence[Parameters]) -> tuple[NDArray[np.float32], ...]:
    """The anchors of the shared trainable parameters, of one model behind the other."""
    pulled = {parameter.name for parameter in manifest.shared if parameter.trainable}
    names = [parameter.name for parameter in manifest.parameters]
    chosen = [[v for n, v in zip(names, model, strict=True) if n in pulled] for model in models]
    flat = np.array([np.concatenate([v.ravel() for v in of_one]) for of_one in chosen], dtype=np.float64)
    rows = anchors(flat, relation(flat)).astype(np.float32)
    cuts = np.cumsum([value.size for value in chosen[0]])[:-1]
    return tuple(
        part.reshape(value.shape) for row in rows for part, value in zip(np.split(row, cuts), chosen[0], strict=True)
    )
