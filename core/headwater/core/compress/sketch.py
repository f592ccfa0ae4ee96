"""Law: tables of sums add up like any other sum, so a tree of any depth gives the sketch of the whole update.

    S[i, h_i(j)] += s_i(j)·v_j,   v_j ≈ median_i s_i(j)·S[i, h_i(j)]              Charikar, Chen & Farach-Colton 2002

FetchSGD (Rothchild et al. 2020, algorithm 1) keeps momentum and error as sketches, at the cloud alone:

    u ← ρ·u + S̄,   e ← e + u,   Δ = top-k(unsketch(e)),   e ← 0 and u ← 0 in the cells of Δ's values

The algorithm as printed subtracts sketch(Δ) from e instead; its authors' code empties the cells, and so do we: what was
taken for heavy and was only a collision would be subtracted from where it is not, and e would grow without bound.
The hashes follow from the run's seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from headwater.core.compress.positions import kept_of
from headwater.schemas.tensors import Array, Specs

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Hashes:
    """Where each of `count` values goes in each of the table's rows, and with which sign."""

    rows: int
    columns: int
    seed: int

    def of(self, row: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Columns and signs of values 0 … count − 1 in one row, from bits that are the same on every machine."""
        mixed = _mixed(np.arange(count, dtype=np.uint64) + _salt(self.seed, row))
        return (mixed >> np.uint64(1)).astype(np.int64) % self.columns, np.where(mixed & np.uint64(1), 1.0, -1.0)


def _salt(seed: int, row: int) -> np.uint64:
    return np.uint64(((seed * 1_000_003 + row) * 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al. 2014)."""
    z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sketch(update: Sequence[Array], hashes: Hashes) -> Table:
    """The table `[rows, columns]` of an update's values, all tensors one behind the other."""
    flat = np.concatenate([np.asarray(tensor, dtype=np.float64).ravel() for tensor in update])
    return _sketch(flat, hashes)


def _sketch(flat: NDArray[np.float64], hashes: Hashes) -> Table:
    table = np.empty((hashes.rows, hashes.columns))
    for row in range(hashes.rows):
        columns, signs = hashes.of(row, len(flat))
        table[row] = np.bincount(columns, weights=signs * flat, minlength=hashes.columns)
    return table


def unsketch(table: Array, count: int, hashes: Hashes) -> NDArray[np.float64]:
    """An estimate of each of `count` values."""
    estimates = np.empty((hashes.rows, count))
    for row in range(hashes.rows):
        columns, signs = hashes.of(row, count)
        estimates[row] = signs * table[row][columns]
    return np.median(estimates, axis=0)


@dataclass(frozen=True, slots=True)
class State:
    """FetchSGD's momentum and error, `[rows, columns]` each."""

    momentum: Table
    error: Table


def init(hashes: Hashes) -> State:
    empty = np.zeros((hashes.rows, hashes.columns))
    return State(empty, empty.copy())


def apply(
    state: State, mean: Array, specs: Specs, hashes: Hashes, *, fraction: float, momentum: float
) -> tuple[State, tuple[NDArray[np.float64], ...]]:
    """One round at the cloud: the next state, and the step in the specs' shapes, `fraction` of it not 0."""
    shapes = [shape for _, shape, _ in specs]
    sizes = [prod(shape) for shape in shapes]
    moved = momentum * state.momentum + np.asarray(mean, dtype=np.float64)
    owed = state.error + moved
    step = _heaviest(unsketch(owed, sum(sizes), hashes), fraction)
    taken = _cells(np.flatnonzero(step), len(step), hashes)
    next_state = State(np.where(taken, 0.0, moved), np.where(taken, 0.0, owed))
    parts = np.split(step, np.cumsum(sizes)[:-1])
    return next_state, tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))


def _cells(places: NDArray[np.int64], count: int, hashes: Hashes) -> NDArray[np.bool_]:
    """Which cells of the table the values at these places are in."""
    taken = np.zeros((hashes.rows, hashes.columns), dtype=bool)
    for row in range(hashes.rows):
        taken[row, hashes.of(row, count)[0][places]] = True
    return taken


def _heaviest(values: NDArray[np.float64], fraction: float) -> NDArray[np.float64]:
    kept, sizes = kept_of(len(values), fraction), np.abs(values)
    step = np.zeros_like(values)
    chosen = np.argpartition(sizes, len(sizes) - kept)[len(sizes) - kept :]
    step[chosen] = values[chosen]
    return step
