"""Law: an update goes up in as few bytes as its run asks for, and its sender knows what was left out of it.

What is left out is kept as named arrays, whose future is the update's (`core.local.memory`).
Devices and gateways encode alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from headwater.core import arrays
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
    """A delta as it goes up, and what is kept of it once it is taken, and once it is not."""

    delta: Delta
    if_taken: Arrays = field(default_factory=dict)
    if_refused: Arrays = field(default_factory=dict)


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
    models = [model for model, share in enumerate(delta.shares) if share > 0] or [0]
    specs: Specs = delta_specs("train", link.manifest, plan.learning, len(models))
    if compression.codec == "sketch" and [np.shape(term) for term in terms] != [shape for _, shape, _ in specs]:
        terms = (sketch(terms, Hashes(compression.rows, compression.columns, plan.seed)),)
    specs, terms = _left(specs, terms, link.masks)
    before = _read(memory, models, [np.shape(term) for term in terms[: len(terms) // len(models)]])
    coded = feedback.code(before, terms, specs, compression, rng, turn_of(plan))
    delta = delta.model_copy(update={"coded": coded.payload, "applied": (*delta.applied, compression.codec)})
    return Going(delta, _named(coded.if_taken, models), _named(coded.if_not, models))


def _left(specs: Specs, terms: Sequence[Array], masks: tuple[Mask, ...]) -> tuple[Specs, Sequence[Array]]:
    return (narrowed_specs(specs, masks), narrowed(terms, masks)) if masks else (specs, terms)


def _named(memory: feedback.Memory, models: Sequence[int]) -> Arrays:
    """By kind, and the model that it is of: an update may be about others each time."""
    kinds = {"residual": memory.residual, "velocity": memory.velocity, "bases": memory.bases}
    named: dict[str, Array] = {}
    for kind, values in kinds.items():
        each = len(values) // len(models)
        for place, model in enumerate(models):
            named |= arrays.numbered(f"left {kind} {model} ", values[place * each : (place + 1) * each])
    return named


def _read(memory: Arrays, models: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> feedback.Memory:
    """`shapes`: of one model's tensors. Of a model that nothing was left of yet that is 0."""

    def listed(kind: str) -> list[tuple[Array, ...]]:
        return [arrays.listed(memory, f"left {kind} {model} ") for model in models]

    def filled(kind: str) -> tuple[Array, ...]:
        found = listed(kind)
        nothing = tuple(np.zeros(shape, dtype=np.float32) for shape in shapes) if any(found) else ()
        return tuple(value for of_model in found for value in of_model or nothing)

    bases = listed("bases")
    return feedback.Memory(filled("residual"), filled("velocity"), sum(bases, ()) if all(bases) else ())
