"""Law: what one update leaves out is in the next one; and if an update is not taken, all of it is.

    c = e + Δ,  send C(c),  e ← c − C(c) if it is taken, e ← c if it is not      EF-SGD, Karimireddy et al. 2019, alg. 2

With momentum (Deep Gradient Compression, Lin et al. 2018, §3.1): u ← m·u + Δ, c = e + u, and where a value was sent
u ← 0, so that it does not go on in an old direction (momentum factor masking, §3.2).

c and e are float32: e + C(c) is c to within half a unit in the last place of the larger of the three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.core.compress import bases, decode, encode
from headwater.core.compress.layouts import Update
from headwater.core.compress.lowrank import Bases
from headwater.core.compress.positions import Turn
from headwater.core.compress.values import narrowed
from headwater.schemas.learning import Compression
from headwater.schemas.tensors import Array, Specs


@dataclass(frozen=True, slots=True)
class Memory:
    """What a node keeps of a run between its updates; nothing at first.

    `residual` is e and `velocity` is u, in the shapes of the update; `bases` is where lowrank goes on from.
    """

    residual: Update = ()
    velocity: Update = ()
    bases: Bases = ()


@dataclass(frozen=True, slots=True)
class Coded:
    """A payload, and what is to be remembered if it is taken, and if it is not."""

    payload: bytes
    if_taken: Memory
    if_not: Memory


def code(
    memory: Memory,
    update: Sequence[Array],
    specs: Specs,
    compression: Compression,
    rng: np.random.Generator,
    turn: Turn,
) -> Coded:
    """One update, with what earlier ones left out where the codec's feedback is on.

    A memory of other shapes (the run's model is another one now) counts as none.
    """
    memory = _fitting(memory, specs)
    velocity = _velocity(memory.velocity, update, compression.momentum) if compression.corrects_momentum else ()
    compensated = _sum(memory.residual, velocity or update)
    payload = encode(compensated, specs, compression, rng, turn, memory.bases)
    start = bases(payload, specs) or memory.bases
    if not compression.keeps_what_is_left:
        kept = Memory(velocity=velocity, bases=start)
        return Coded(payload, kept, kept)
    decoded = decode(payload, specs)
    left = tuple(narrowed(c.astype(np.float64) - sent) for c, sent in zip(compensated, decoded, strict=True))
    masked = tuple(np.where(sent != 0, np.float32(0), u) for u, sent in zip(velocity, decoded, strict=bool(velocity)))
    return Coded(payload, Memory(left, masked, start), Memory(compensated, velocity, start))


def _fitting(memory: Memory, specs: Specs) -> Memory:
    shapes = [shape for _, shape, _ in specs]
    if any(kept and [value.shape for value in kept] != shapes for kept in (memory.residual, memory.velocity)):
        return Memory()
    return memory


def _velocity(velocity: Update, update: Sequence[Array], momentum: float) -> Update:
    if not velocity:
        return tuple(np.asarray(value, dtype=np.float32) for value in update)
    return tuple(narrowed(momentum * u.astype(np.float64) + value) for u, value in zip(velocity, update, strict=True))


def _sum(residual: Update, update: Sequence[Array]) -> Update:
    if not residual:
        return tuple(np.asarray(value, dtype=np.float32) for value in update)
    return tuple(narrowed(e.astype(np.float64) + value) for e, value in zip(residual, update, strict=True))
