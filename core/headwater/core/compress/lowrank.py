"""Law: a matrix travels as two thin ones, and what they miss is left to feedback.

    P = M·Q,  P̂ = orthonormal(P),  Q = Mᵀ·P̂,  M ≈ P̂·Qᵀ                       PowerSGD, Vogels et al. 2019, algorithm 1

A convolution's kernel is a matrix of its outputs against all else. Q is where the next round starts (§4.2); without one
it starts from a fixed draw. A tensor that two thin matrices would not make shorter stays as it is.
"""

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.compress.sparse import as_matrix
from headwater.core.compress.values import Values, narrowed
from headwater.schemas.tensors import Array

Bases = tuple[Values, ...]
"""Q of each matrix that has one, `[columns, rank]`."""

POWER_STEPS: Final = 2
"""PowerSGD takes one a step of SGD; a round of local steps affords another."""


MAX_PRODUCTS: Final = 2**30
"""Of numbers, that a reader makes of one update: some 2 s. A few bytes may ask for the highest rank of all."""

BLOCK: Final = 2**15
"""Of numbers that are added up at once: they stay in a cache."""


def highest_rank(shapes: Sequence[tuple[int, ...]]) -> int:
    """That a reader takes; the first is always taken."""
    return max(1, MAX_PRODUCTS // max(1, sum(prod(shape) for shape in shapes)))


def is_thinned(shape: tuple[int, ...], rank: int) -> bool:
    rows, columns = as_matrix(shape)
    return len(shape) > 1 and rank * (rows + columns) < rows * columns


def factors(matrix: Array, rank: int, start: Array | None = None) -> tuple[Values, Values]:
    """P̂ `[rows, rank]` and Q `[columns, rank]` of a tensor; `start` is the last round's Q."""
    flat = np.asarray(matrix, dtype=np.float64).reshape(as_matrix(matrix.shape))
    # Norms of huge values would overflow, of tiny ones vanish.
    unit = max(float(np.abs(flat).max()), 1e-300)
    flat = flat / unit
    q = _drawn(flat.shape[1], rank) if start is None else np.asarray(start, dtype=np.float64)
    if not np.abs(q).max(axis=0).all():
        q = _drawn(flat.shape[1], rank)
    p = np.zeros((flat.shape[0], rank))
    for _ in range(POWER_STEPS):
        p = np.linalg.qr(flat @ q)[0]
        q = flat.T @ p
    return p.astype(np.float32), narrowed(q * unit)


def product(p: Array, q: Array, shape: tuple[int, ...]) -> Values:
    """P̂·Qᵀ in a tensor's shape, summed in one order: a library's product would differ from machine to machine."""
    total, rows = np.zeros((len(p), len(q))), max(1, BLOCK // len(q))
    columns = np.ascontiguousarray(q.T, dtype=np.float64)
    for begin in range(0, len(p), rows):
        for left, right in zip(p[begin : begin + rows].T.astype(np.float64), columns, strict=True):
            total[begin : begin + rows] += np.multiply.outer(left, right)
    return narrowed(total.reshape(shape))


def factor_lengths(shapes: Sequence[tuple[int, ...]], rank: int) -> list[int]:
    """How many values P̂, Q, or the tensor itself have, in the order in which they travel."""
    lengths: list[int] = []
    for shape in shapes:
        rows, columns = as_matrix(shape)
        lengths += [rows * rank, columns * rank] if is_thinned(shape, rank) else [prod(shape)]
    return lengths


def _drawn(rows: int, rank: int) -> NDArray[np.float64]:
    return np.random.default_rng(rows).standard_normal((rows, rank))
