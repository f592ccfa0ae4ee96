"""Law: a patch leads from one version of the models to the next, bit by bit: who applies it holds what its maker holds.

v = step + e          what the last patches left out goes along (error feedback)
x' = x + decode(encode(v))     in float32, in one order of operations, on either side
e' = v − decode(encode(v))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.core.aggregate import Sums, stepped
from headwater.core.compress import decode, feedback
from headwater.core.compress.positions import Turn
from headwater.core.compress.prune import Mask, narrowed, narrowed_specs, widened
from headwater.schemas.learning import Compression
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Model, Patch
from headwater.schemas.tensors import Array, Specs, TensorError, encode_tensors, models_of, parameter_specs
from headwater.schemas.wire import encode as encode_message
from headwater.schemas.wire import encode_object


@dataclass(frozen=True, slots=True)
class Downlink:
    """Which patch is to be made: to `version`, for those who hold the one before. `masks`: of a pruned model."""

    run: str
    version: int
    compression: Compression
    seed: int
    masks: tuple[Mask, ...] = ()


def patch(
    downlink: Downlink, manifest: Manifest, steps: Sequence[Sums], residual: tuple[Array, ...]
) -> tuple[bytes, tuple[Sums, ...], tuple[Array, ...]]:
    """The encoded patch, the steps as its readers make them, and what it leaves out.

    Args:
        steps: of each model, its shared parameters.
        residual: what the last one left out, or nothing.
    """
    specs, masks = _specs(manifest, len(steps), downlink.masks), downlink.masks * len(steps)
    wanted = [tensor for step in steps for tensor in step]
    coded = feedback.code(
        feedback.Memory(residual),
        narrowed(wanted, masks) if masks else wanted,
        specs,
        downlink.compression,
        np.random.default_rng([downlink.seed, downlink.version]),
        Turn(downlink.seed, downlink.version),
    )
    payload = encode_object(Patch(run=downlink.run, version=downlink.version, update=coded.payload))
    return payload, _steps(coded.payload, manifest, len(steps), downlink.masks), coded.if_taken.residual


def patched(manifest: Manifest, model: Model, patch: Patch, masks: tuple[Mask, ...] = ()) -> bytes:
    """The encoded model behind a patch.

    Raises:
        TensorError: the patch is not of this model.
    """
    if model.companions:
        raise TensorError("malformed", "patch: of a model whose strategy sends companions, which a patch has not")
    models = models_of(manifest, model)
    steps = _steps(patch.update, manifest, len(models), masks)
    moved = [value for one, step in zip(models, steps, strict=True) for value in stepped(manifest, one, step)]
    return encode_message(model.model_copy(update={"version": patch.version, "tensors": encode_tensors(moved)}))


def _specs(manifest: Manifest, models: int, masks: tuple[Mask, ...]) -> Specs:
    specs: Specs = models * parameter_specs(manifest.shared)
    return narrowed_specs(specs, masks * models) if masks else specs


def _steps(update: bytes, manifest: Manifest, models: int, masks: tuple[Mask, ...]) -> tuple[Sums, ...]:
    """Of each model the step that an update means. Raises TensorError."""
    taken = decode(update, _specs(manifest, models, masks))
    whole = widened(taken, masks * models) if masks else taken
    each = len(manifest.shared)
    return tuple(
        tuple(np.asarray(tensor, dtype=np.float64) for tensor in whole[begin : begin + each])
        for begin in range(0, len(whole), each)
    )
