"""Law: what a closed round makes of the model follows from the model, the sum and the run's rule of aggregation.

    synchronous, buffered   x' = x + (Σ f_k·w_k·Δ_k) / (Σ w_k)       FedAvg; FedBuff, Nguyen et al. 2022, algorithm 1
    asynchronous            x' = x + α·f·(b + Δ − x)                 FedAsync, Xie et al. 2019, algorithm 1

f discounts a late update (`core.staleness`), and b is the model that it began from.
"""

from dataclasses import dataclass, replace

import numpy as np

from headwater.cloud.history import RunRecord
from headwater.core.aggregate import Parameters, Sums, means, shared, stepped
from headwater.core.normalise import normalised
from headwater.core.staleness import mixed
from headwater.node.hosting import RoundResult
from headwater.schemas.errors import RunFailed
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Model, ObjectRef
from headwater.schemas.tensors import decode_tensors, encode_tensors, parameter_specs
from headwater.schemas.wire import decode_object, encode, reference


@dataclass(frozen=True, slots=True)
class Course:
    """A run under way: its newest model, by value and by name. `round` is the version of that model."""

    run: RunRecord
    manifest: Manifest
    bundle: ObjectRef
    model: ObjectRef
    parameters: Parameters
    round: int
    accuracy: float | None = None
    loss: float | None = None


def parameters_of(manifest: Manifest, model: bytes) -> Parameters:
    """An encoded model's parameters, in the manifest's order."""
    return decode_tensors(decode_object(model, Model).tensors, parameter_specs(manifest.parameters))


def based_on(course: Course, result: RoundResult) -> int | None:
    """The version of the model that a round's one update began from, where the rule of aggregation asks for it."""
    if result.plan.task != "train" or course.run.description.aggregation.mode != "asynchronous":
        return None
    (given,) = result.contributions
    return given.key.round - 1


def after(course: Course, result: RoundResult, base: Parameters | None = None) -> tuple[Course, bytes | None]:
    """The course behind a closed round, and the encoded new model if there is one.

    Args:
        base: the parameters of version `based_on`.

    Raises:
        RunFailed: the model is no longer finite.
    """
    told = {(mean.split, mean.name): mean.value for mean in means(result.sum.metrics)}
    course = replace(
        course,
        accuracy=told.get(("test", "correct"), course.accuracy),
        loss=told.get(("train", "loss"), course.loss),
    )
    number = result.plan.key.round
    match result.plan.task:
        case "train":
            parameters = stepped(course.manifest, course.parameters, _step(course, result, base))
        case "statistics":
            parameters = normalised(course.manifest, course.parameters, result.sum.totals, result.sum.weight)
        case "evaluate":
            return course, None
    if not all(np.isfinite(value).all() for value in parameters):
        raise RunFailed(f"round {number}: the model is no longer finite; lower local.learning_rate")
    model = encode(Model(run=course.run.id, version=number, tensors=encode_tensors(parameters)))
    return replace(course, parameters=parameters, model=reference(model), round=number), model


def _step(course: Course, result: RoundResult, base: Parameters | None) -> Sums:
    mean = result.sum.mean()
    if base is None:
        return mean
    (given,) = result.contributions
    return mixed(
        shared(course.manifest, course.parameters),
        shared(course.manifest, base),
        [term / given.factor for term in mean],
        course.run.description.aggregation.mixing * given.factor,
    )
