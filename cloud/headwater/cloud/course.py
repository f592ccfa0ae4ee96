"""Law: what a closed round makes of the models follows from the models, the sum and the run's rules, and nothing else.

    synchronous, buffered   x' = x + step((Σ f_k·w_k·Δ_k) / (Σ w_k))    FedAvg; FedBuff, Nguyen et al. 2022, alg. 1
    asynchronous            x' = x + α·f·(b + Δ − x)                    FedAsync, Xie et al. 2019, algorithm 1

f discounts a late update (`core.staleness`), b is the model that it began from, and the step is the strategy's
(`core.optimise`; FedAvg's is the mean itself). Where the downlink is encoded the new model is what its readers make of
the step that they are sent, so that everyone holds the same bits, and what the step left out goes into the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from headwater.cloud import memory
from headwater.cloud.history import RunRecord
from headwater.core import optimise
from headwater.core.aggregate import Parameters, Sums, means, shared, with_shared
from headwater.core.compress.prune import by_magnitude, by_outputs, pruned, pruned_step, write_masks
from headwater.core.normalise import normalised
from headwater.core.optimise import Models
from headwater.core.optimise.relation import anchors_of
from headwater.core.sketch import FleetErrors, fleet_errors
from headwater.core.staleness import mixed
from headwater.node.hosting import RoundResult
from headwater.node.patching import Downlink, patch
from headwater.schemas.errors import RunFailed
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Model, ObjectRef, PatchRef
from headwater.schemas.run import RunDescription
from headwater.schemas.tensors import Array, encode_tensors, models_of
from headwater.schemas.wire import decode_object, encode, reference


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a run came: its newest version, the accuracy that was last measured and the loss of the last training."""

    round: int
    accuracy: float | None = None
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """A run under way: its newest models, by value and by name. `round` is their version.

    `residual` is what the downlink left out so far, `mask` what is left of a pruned model, `errors` how far off the
    newest measured models were, over the fleet; `patch` leads here from the version before. `outputs` is the axis of
    each shared parameter's outputs, where whole ones are to be pruned, and `encoded_mask` the mask as it travels.
    """

    run: RunRecord
    manifest: Manifest
    bundle: ObjectRef
    model: ObjectRef
    models: Models
    round: int
    accuracy: float | None = None
    loss: float | None = None
    residual: memory.Residual = ()
    mask: memory.Mask = ()
    errors: FleetErrors = field(default_factory=dict)
    patch: PatchRef | None = None
    outputs: tuple[int | None, ...] = ()
    encoded_mask: bytes | None = None

    def prunes_in(self, round_: int) -> bool:
        """Whether the model loses its weights with this round."""
        pruning = self.description.pruning
        return pruning.sparsity > 0 and not self.mask and round_ >= pruning.at_round

    @property
    def description(self) -> RunDescription:
        return self.run.description

    @property
    def reached(self) -> Reached:
        return Reached(self.round, self.accuracy, self.loss)

    @property
    def parameters(self) -> Parameters:
        """The first model's."""
        return self.models.parameters[0]


@dataclass(frozen=True, slots=True)
class Behind:
    """What a round led to: the course, and for the history the encoded models, their memory and the patch."""

    course: Course
    model: bytes | None = None
    memory: bytes | None = None
    patch: bytes | None = None


def begun(
    run: RunRecord, manifest: Manifest, bundle: ObjectRef, model: bytes, version: int, remembered: bytes | None
) -> Course:
    """The course at a version of a run's models, as the history has it."""
    message = decode_object(model, Model)
    parameters = parameters_of(manifest, model)
    learning = run.description.learning
    models = optimise.begin(learning, manifest, parameters, message.clusters)
    if remembered is None:
        return Course(run, manifest, bundle, reference(model), models, version)
    found = memory.read(remembered, len(parameters))
    return Course(
        run,
        manifest,
        bundle,
        reference(model),
        replace(models, states=found.states),
        version,
        residual=found.residual,
        mask=found.mask,
        errors=found.errors,
        encoded_mask=write_masks(found.mask) if found.mask else None,
    )


def parameters_of(manifest: Manifest, model: bytes) -> tuple[Parameters, ...]:
    """An encoded version's models, each in the manifest's order."""
    return models_of(manifest, decode_object(model, Model))


def encoded(run: RunRecord, manifest: Manifest, version: int, models: Models) -> bytes:
    """The models of a version as they travel."""
    companions: list[Array] = [control for state in models.states for control in state.get("control", ())]
    if run.description.personal.method == "mocha":
        companions = list(anchors_of(manifest, models.parameters))
    return encode(
        Model(
            run=run.id,
            version=version,
            tensors=encode_tensors(value for parameters in models.parameters for value in parameters),
            clusters=models.clusters,
            companions=encode_tensors(np.asarray(control, dtype=np.float32) for control in companions),
        )
    )


def with_places(course: Course, children: frozenset[str]) -> tuple[Course, bytes | None]:
    """The course with a model for each child of the cloud, where a run has one for each place; and the version anew."""
    if not course.description.learning.has_places:
        return course, None
    models = optimise.grown(course.description.learning, course.manifest, course.models, children)
    if models is course.models:
        return course, None
    model = encoded(course.run, course.manifest, course.round, models)
    residual = course.residual
    if residual:
        # Of a model that is new nothing was left out yet.
        residual += _nothing(course.manifest) * (len(models.clusters) - len(course.models.clusters))
    return replace(course, models=models, model=reference(model), residual=residual, patch=None), model


def _nothing(manifest: Manifest) -> memory.Residual:
    return tuple(np.zeros(parameter.shape, dtype=np.float32) for parameter in manifest.shared)


def with_patch(course: Course, before: ObjectRef, patch: ObjectRef) -> Course:
    """The course to whose models a patch leads from those before."""
    named = PatchRef(base=before, patch=patch, codec=course.description.downlink.codec)
    return replace(course, patch=named)


def based_on(course: Course, result: RoundResult) -> int | None:
    """The version of the model that a round's one update began from, where the rule of aggregation asks for it."""
    if result.plan.task != "train" or course.description.aggregation.mode != "asynchronous":
        return None
    (given,) = result.contributions
    return given.key.round - 1


NOBODY: Final[Mapping[str, float]] = {}


def after(
    course: Course, result: RoundResult, base: Parameters | None = None, fleet: Mapping[str, float] = NOBODY
) -> Behind:
    """The course behind a closed round.

    Args:
        base: the parameters of version `based_on`.
        fleet: the weight of all the devices below each child that the cloud knows of, taking part or not.

    Raises:
        RunFailed: a model is no longer finite.
    """
    told = {(mean.split, mean.name): mean.value for mean in means(result.sum.metrics)}
    course = replace(
        course,
        accuracy=told.get(("test", "correct"), course.accuracy),
        loss=told.get(("train", "loss"), course.loss),
    )
    match result.plan.task:
        case "train":
            return _trained(course, result, base, fleet)
        case "statistics":
            filled = tuple(
                normalised(course.manifest, parameters, result.sum.totals, result.sum.weight)
                for parameters in course.models.parameters
            )
            return _version(course, result.plan.key.round, replace(course.models, parameters=filled))
        case "evaluate":
            return Behind(course)


def _trained(course: Course, result: RoundResult, base: Parameters | None, fleet: Mapping[str, float]) -> Behind:
    learning, manifest, number = course.description.learning, course.manifest, result.plan.key.round
    fleet_weight = sum(fleet.values())
    course = replace(course, errors=_errors(course, result, fleet_weight))
    if base is None:
        of_places = [fleet.get(place, 0.0) for place in course.models.clusters] if learning.has_places else []
        seed, told = course.description.seed, optimise.heard(result.sum, learning, fleet_weight, of_places)
        models, steps = optimise.apply(learning, manifest, course.models, told, seed)
        models = optimise.counted(learning, models, told)
        anew = optimise.filled(learning, manifest, optimise.moved(manifest, models, steps), told, seed, number)
        if anew is not None:
            # What begins anew is no step either.
            return _version(replace(course, residual=()), number, anew)
    else:
        models, steps = course.models, (_mixed(course, result, base),)
    downlink = course.description.downlink
    if course.mask:
        steps = tuple(pruned_step(step, course.mask) for step in steps)
    elif course.prunes_in(number):
        # What is taken away is no step, so nobody comes here by a patch.
        return _pruned(course, number, optimise.moved(manifest, models, steps))
    if not downlink.is_on:
        return _version(course, number, optimise.moved(manifest, models, steps))
    ask = Downlink(course.run.id, number, downlink, course.description.seed, course.mask)
    payload, taken, residual = patch(ask, manifest, steps, course.residual)
    behind = _version(replace(course, residual=residual), number, optimise.moved(manifest, models, taken))
    return replace(behind, course=with_patch(behind.course, course.model, reference(payload)), patch=payload)


def _errors(course: Course, result: RoundResult, fleet_weight: float) -> FleetErrors:
    """The fleet's, behind a round that heard a part of it."""
    share = min(result.round.examples / fleet_weight, 1.0) if fleet_weight > 0 else 1.0
    return fleet_errors(course.errors, result.sum.tallies, share)


def _pruned(course: Course, number: int, models: Models) -> Behind:
    """The version with which a model loses its weights for good."""
    pruning, manifest = course.description.pruning, course.manifest
    own = shared(manifest, models.parameters[0])
    if pruning.structured:
        masks = by_outputs(own, pruning.sparsity, course.outputs)
    else:
        masks = by_magnitude(own, pruning.sparsity)
    parameters = with_shared(manifest, models.parameters[0], pruned(own, masks))
    course = replace(course, mask=masks, encoded_mask=write_masks(masks), residual=())
    return _version(course, number, replace(models, parameters=(parameters,)))


def _version(course: Course, number: int, models: Models) -> Behind:
    if not all(np.isfinite(value).all() for parameters in models.parameters for value in parameters):
        raise RunFailed(f"round {number}: the model is no longer finite; lower local.learning_rate")
    model = encoded(course.run, course.manifest, number, models)
    course = replace(course, models=models, model=reference(model), round=number, patch=None)
    kept = memory.Remembered(models.states, course.residual, course.mask, course.errors)
    return Behind(course, model, memory.written(kept))


def _mixed(course: Course, result: RoundResult, base: Parameters) -> Sums:
    (given,) = result.contributions
    return mixed(
        shared(course.manifest, course.parameters),
        shared(course.manifest, base),
        [term / given.factor for term in result.sum.mean()],
        course.description.aggregation.mixing * given.factor,
    )
