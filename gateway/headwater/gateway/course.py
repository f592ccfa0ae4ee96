"""Law: how far the edge rounds of a plan have come is a value that survives the gateway; a damaged one is none.

It is written before the next edge round is announced, for that announcement tells the cluster that the last is over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgpack
from pydantic import Field, ValidationError

from headwater.core.aggregate import Sums, WeightedSum
from headwater.core.optimise.cluster import Edge, after
from headwater.node.hosting import RoundResult
from headwater.schemas import limits
from headwater.schemas.base import Count, Frozen, Weight
from headwater.schemas.learning import Learning
from headwater.schemas.manifest import SPENT, WAIT_S, Manifest
from headwater.schemas.messages import Counts, Metric, Tensor, Tensors
from headwater.schemas.tensors import (
    TensorError,
    companion_specs,
    decode_tensors,
    encode_tensors,
    parameter_specs,
)


class Told(Frozen):
    """What the edge rounds so far say beside the models."""

    examples: Count = 0
    devices: Count = 0
    metrics: tuple[Metric, ...] = ()
    tallies: tuple[Counts, ...] = ()

    def after(self, result: RoundResult) -> "Told":
        folded = WeightedSum(())
        folded.add((), 0.0, self.metrics, self.tallies)
        folded.add((), 0.0, _with_wait(result), result.sum.tallies)
        return Told(
            examples=result.round.examples,
            devices=max(self.devices, result.round.devices),
            metrics=folded.metrics,
            tallies=folded.tallies,
        )

    def of_one_round(self, edge_rounds: int) -> "Told":
        """As the parent counts, to whom all the edge rounds are one: a device's seconds are those of all of them."""
        metrics = tuple(
            metric.model_copy(update={"weight": metric.weight / edge_rounds}) if metric.name in SPENT else metric
            for metric in self.metrics
        )
        return self.model_copy(update={"metrics": metrics})


def _with_wait(result: RoundResult) -> tuple[Metric, ...]:
    """What a round measured, with how long its devices' updates waited, here and below."""
    if result.times is None:
        return result.sum.metrics
    devices = float(result.round.devices)
    waited = Metric(split="train", name=WAIT_S, total=result.times.wait_s * devices, weight=devices)
    return (*(metric for metric in result.sum.metrics if metric.name != WAIT_S), waited)


@dataclass(frozen=True, slots=True)
class Course:
    """The edge rounds of one plan so far, and the cluster's models behind them."""

    edge: Edge
    told: Told = field(default_factory=Told)

    def after(self, learning: Learning, manifest: Manifest, result: RoundResult) -> "Course":
        return Course(after(learning, manifest, self.edge, result.sum), self.told.after(result))


class _Written(Frozen):
    told: Told
    shares: Annotated[tuple[Annotated[tuple[Weight, ...], Field(max_length=limits.MAX_CLUSTERS)], ...], Field()]
    local_steps: Weight
    models: tuple[Tensors, ...]
    companions: tuple[Tensors, ...]


def written(course: Course) -> bytes:
    """For the disk."""
    edge = course.edge
    body = _Written(
        told=course.told,
        shares=edge.shares,
        local_steps=edge.local_steps,
        models=tuple(encode_tensors(parameters) for parameters in edge.models),
        companions=tuple(encode_tensors(tensors) for tensors in edge.companions),
    )
    return bytes(msgpack.packb(body.model_dump(), use_bin_type=True))


def read(payload: bytes, learning: Learning, manifest: Manifest) -> Course | None:
    """What was written, or None where it is damaged or of another model."""
    try:
        body = msgpack.unpackb(payload, use_list=False, max_bin_len=limits.MAX_OBJECT_SIZE_BYTES)
        found = _Written.model_validate(body)
        specs = parameter_specs(manifest.parameters)
        edge = Edge(
            tuple(decode_tensors(tensors, specs) for tensors in found.models),
            tuple(_companions(found.companions, learning, manifest)),
            found.shares,
            found.local_steps,
        )
        return Course(edge, found.told)
    except (ValueError, ValidationError, TensorError, msgpack.UnpackException):
        return None


def _companions(found: Sequence[tuple[Tensor, ...]], learning: Learning, manifest: Manifest) -> Iterator[Sums]:
    """In float64, as sums are kept; of a model that nobody trained yet there are none."""
    specs = [(name, shape, "float64") for name, shape, _ in companion_specs(manifest, learning)]
    for tensors in found:
        yield decode_tensors(tensors, specs) if tensors else ()
