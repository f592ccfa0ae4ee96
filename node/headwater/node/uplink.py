"""Law: an update goes up in as few bytes as its run asks for, and its sender knows what was left out of it.

What is left out is kept as named arrays with two futures (`core.local.memory`): the parent may take the update, or not.
Devices and gateways encode alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headwater.core.compress import feedback
from headwater.core.compress.positions import turn_of
from headwater.core.compress.prune import Mask, narrowed, narrowed_specs
from headwater.core.compress.sketch import Hashes, sketch
from headwater.schemas.learning import Compression
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Delta, Plan
from headwater.schemas.tensors import Array, Specs, delta_specs, encode_tensors

Arrays = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Link:
    """How a plan's updates go up from one node. `masks` are what is left of each shared parameter of a pruned model."""

    plan: Plan
    manifest: Manifest
    compression: Compression
    masks: tuple[Mask, ...] = ()

    @property
    def is_on(self) -> bool:
        """Whether updates are written otherwise than as they are."""
        return self.plan.task == "train" and (self.compression.is_on or bool(self.masks))


@dataclass(frozen=True, slots=True)
class Going:
    """A delta as it goes up, and what is kept of it: always, and otherwise once it is taken."""

    delta: Delta
    kept: Arrays = field(default_factory=dict)
    if_taken: Arrays = field(default_factory=dict)


def going(delta: Delta, terms: Sequence[Array], link: Link, memory: Arrays, rng: np.random.Generator) -> Going:
    """A delta with its terms, in the form that the link asks for.

    Args:
        delta: without tensors.
        terms: w·Δ and what follows it, as `delta_specs` has them; where sketches travel, still the update itself or a
            sum of sketches.
        memory: what is kept so far.
        rng: for what is rounded by chance.
    """
    plan, compression = link.plan, link.compression
    if not link.is_on:
        return Going(delta.model_copy(update={"tensors": encode_tensors(terms)}))
    specs: Specs = delta_specs("train", link.manifest, plan.learning, max(sum(s > 0 for s in delta.shares), 1))
    if compression.codec == "sketch" and [np.shape(term) for term in terms] != [shape for _, shape, _ in specs]:
        terms = (sketch(terms, Hashes(compression.rows, compression.columns, plan.seed)),)
    specs, terms = _left(specs, terms, link.masks)
    place = "".join("1" if share > 0 else "0" for share in delta.shares)
    coded = feedback.code(_read(memory, place), terms, specs, compression, rng, turn_of(plan))
    delta = delta.model_copy(update={"coded": coded.payload, "applied": (*delta.applied, compression.codec)})
    return Going(delta, _named(coded.if_not, place), _named(coded.if_taken, place))


def _left(specs: Specs, terms: Sequence[Array], masks: tuple[Mask, ...]) -> tuple[Specs, Sequence[Array]]:
    return (narrowed_specs(specs, masks), narrowed(terms, masks)) if masks else (specs, terms)


def _named(memory: feedback.Memory, place: str) -> Arrays:
    """By kind and place; of several models those that the update is about are part of the name."""
    kinds = {"residual": memory.residual, "velocity": memory.velocity, "bases": memory.bases}
    return {f"left {kind} {place} {i}": value for kind, values in kinds.items() for i, value in enumerate(values)}


def _read(memory: Arrays, place: str) -> feedback.Memory:
    def listed(kind: str) -> tuple[Array, ...]:
        prefix = f"left {kind} {place} "
        return tuple(memory[f"{prefix}{i}"] for i in range(sum(name.startswith(prefix) for name in memory)))

    return feedback.Memory(listed("residual"), listed("velocity"), listed("bases"))
