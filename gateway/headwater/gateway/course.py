"""Law: how far the edge rounds of a plan have come is a value that survives the gateway; a damaged one is none.

It is written before the next edge round is announced, for that announcement tells the cluster that the last is over.
"""

from dataclasses import dataclass, field
from typing import Annotated

import msgpack
from pydantic import Field, ValidationError

from headwater.core.aggregate import Parameters, WeightedSum
from headwater.node.hosting import RoundResult
from headwater.schemas import limits
from headwater.schemas.base import Count, Frozen, Weight
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Counts, Metric, Tensors
from headwater.schemas.tensors import TensorError, decode_tensors, encode_tensors, parameter_specs


class Told(Frozen):
    """What the edge rounds so far say beside the model. `weights` has the cluster's weight in each of them."""

    weights: Annotated[tuple[Weight, ...], Field(max_length=1000)] = ()
    examples: Count = 0
    devices: Count = 0
    metrics: tuple[Metric, ...] = ()
    tallies: tuple[Counts, ...] = ()

    def after(self, result: RoundResult) -> "Told":
        folded = WeightedSum(())
        folded.add((), 0.0, self.metrics, self.tallies)
        folded.add((), 0.0, result.sum.metrics, result.sum.tallies)
        return Told(
            weights=(*self.weights, result.sum.weight),
            examples=result.round.examples,
            devices=max(self.devices, result.round.devices),
            metrics=folded.metrics,
            tallies=folded.tallies,
        )


@dataclass(frozen=True, slots=True)
class Course:
    """The edge rounds of one plan so far, and the cluster's model behind them."""

    parameters: Parameters
    told: Told = field(default_factory=Told)

    @property
    def done(self) -> int:
        return len(self.told.weights)

    @property
    def weight(self) -> float:
        """The cluster's weight: the mean of its edge rounds."""
        return sum(self.told.weights) / len(self.told.weights)


class _Written(Frozen):
    told: Told
    tensors: Tensors


def written(course: Course) -> bytes:
    """For the disk."""
    body = _Written(told=course.told, tensors=encode_tensors(course.parameters))
    return bytes(msgpack.packb(body.model_dump(), use_bin_type=True))


def read(payload: bytes, manifest: Manifest) -> Course | None:
    """What was written, or None where it is damaged or of another model."""
    try:
        body = msgpack.unpackb(payload, use_list=False, max_bin_len=limits.MAX_OBJECT_SIZE_BYTES)
        found = _Written.model_validate(body)
        return Course(decode_tensors(found.tensors, parameter_specs(manifest.parameters)), found.told)
    except (ValueError, ValidationError, TensorError, msgpack.UnpackException):
        return None
