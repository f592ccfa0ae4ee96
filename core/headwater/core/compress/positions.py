"""Law: which values travel is the sender's choice, or follows from the plan alone; then nobody writes it down.

    topk    the fraction of largest |v|, of all or of each tensor          Aji & Heafield 2017; Lin et al. 2018, §3.1
    randk   a uniform draw that everyone under the plan repeats            Konečný et al. 2016, §3 ("random mask")
    layers  some of the tensors each round, in turns; after a turn all have been sent alike often

Uniformly drawn values times n/k have the expectation of the update; with feedback the rest comes later instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.schemas.messages import Plan
from headwater.schemas.tensors import Array

Whole = NDArray[np.int64]

SEED_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """What all nodes under a plan have in common: the run's seed, and the number of the round among its rounds."""

    seed: int
    number: int

    @property
    def draw(self) -> bytes:
        """Names this turn's random positions."""
        return sha256(f"randk {self.seed} {self.number}".encode()).digest()[:SEED_BYTES]


def turn_of(plan: Plan) -> Turn:
    """Edge rounds are turns as well; a retried attempt is the same turn."""
    return Turn(plan.seed, plan.key.round * plan.edge_rounds + plan.key.step)


def largest(tensors: Sequence[Array], fraction: float, *, per_layer: bool) -> list[Whole]:
    """Flat positions in each tensor of the values that are largest; at least one, and none that are 0."""
    if per_layer:
        return [_largest(np.abs(tensor).ravel(), fraction) for tensor in tensors]
    if not tensors:
        return []
    chosen = _largest(np.concatenate([np.abs(tensor).ravel() for tensor in tensors]), fraction)
    return split_positions(chosen, [tensor.size for tensor in tensors])


def _largest(sizes: NDArray[np.floating], fraction: float) -> Whole:
    if not len(sizes):
        return np.zeros(0, dtype=np.int64)
    kept = kept_of(len(sizes), fraction)
    chosen = np.argpartition(sizes, len(sizes) - kept)[len(sizes) - kept :]
    return np.sort(chosen[sizes[chosen] > 0])


def kept_of(count: int, fraction: float) -> int:
    """How many of `count` values are kept."""
    return min(count, max(1, ceil(fraction * count - 1e-9))) if count else 0


def split_positions(positions: Whole, sizes: Sequence[int]) -> list[Whole]:
    """Ascending positions in tensors that lie one behind the other, as positions in each."""
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    cuts = np.searchsorted(positions, starts)
    return [positions[cuts[i] : cuts[i + 1]] - starts[i] for i in range(len(sizes))]


def drawn(draw: bytes, count: int, kept: int) -> Whole:
    """`kept` of `count` positions, uniform, ascending; the same from the same `draw` on every machine."""
    # PCG64 and its integers are the same wherever numpy runs; its choice is not promised to stay.
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(draw, "big")))
    keys = rng.integers(0, 2**63, size=count, dtype=np.int64)
    return np.sort(np.argsort(keys, kind="stable")[:kept])


def in_turn(turn: Turn, tensors: int, fraction: float) -> tuple[bool, ...]:
    """Which tensors travel in a turn: the next of a ring whose order the seed shuffles."""
    taken = kept_of(tensors, fraction)
    keys = [sha256(f"layers {turn.seed} {place}".encode()).digest() for place in range(tensors)]
    ring = sorted(range(tensors), key=keys.__getitem__)
    start = turn.number * taken
    chosen = {ring[(start + step) % tensors] for step in range(taken)}
    return tuple(place in chosen for place in range(tensors))
