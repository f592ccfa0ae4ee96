"""Law: a patch leads from one version of the models to the next, bit by bit: who applies it holds what its maker holds.

v = step + e          what the last patches left out goes along (error feedback)
x' = x + decode(encode(v))     in float32, in one order of operations, on either side
e' = v − decode(encode(v))
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headwater.core.aggregate import Sums, stepped
from headwater.core.compress import decode, encode
from headwater.schemas.learning import Compression
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Model, Patch
from headwater.schemas.tensors import Array, TensorError, decode_tensors, encode_tensors, model_specs, parameter_specs
from headwater.schemas.wire import encode as encode_message


@dataclass(frozen=True, slots=True)
class Downlink:
    """Which patch is to be made: to `version`, for those who hold the one before."""

    run: str
    version: int
    compression: Compression
    seed: int


def patch(
    downlink: Downlink, manifest: Manifest, steps: Sequence[Sums], residual: Sequence[Array]
) -> tuple[bytes, tuple[Sums, ...], tuple[Array, ...]]:
    """The encoded patch, the steps as its readers make them, and what it leaves out.

    Args:
        steps: of each model, its shared parameters.
        residual: what the last one left out, or nothing.
    """
    wanted = [tensor for step in steps for tensor in step]
    if residual:
        wanted = [tensor + left for tensor, left in zip(wanted, residual, strict=True)]
    values = tuple(np.asarray(tensor, dtype=np.float32) for tensor in wanted)
    specs = len(steps) * parameter_specs(manifest.shared)
    draw = np.random.default_rng([downlink.seed, downlink.version])
    update = encode(values, specs, downlink.compression, draw)
    taken = decode(update, specs)
    payload = encode_message(Patch(run=downlink.run, version=downlink.version, update=update))
    left = tuple(np.asarray(tensor - sent, dtype=np.float32) for tensor, sent in zip(wanted, taken, strict=True))
    each = len(manifest.shared)
    made = tuple(
        tuple(np.asarray(tensor, dtype=np.float64) for tensor in taken[begin : begin + each])
        for begin in range(0, len(taken), each)
    )
    return payload, made, left if downlink.compression.keeps_what_is_left else ()


def patched(manifest: Manifest, model: Model, patch: Patch) -> bytes:
    """The encoded model behind a patch.

    Raises:
        TensorError: the patch is not of this model.
    """
    if model.companions:
        raise TensorError("malformed", "patch: of a model whose strategy sends companions, which a patch has not")
    count, each = len(model.clusters) or 1, len(manifest.parameters)
    flat = decode_tensors(model.tensors, model_specs(manifest, count))
    steps = decode(patch.update, count * parameter_specs(manifest.shared))
    of_each = len(manifest.shared)
    moved = [
        value
        for number in range(count)
        for value in stepped(manifest, flat[number * each :][:each], steps[number * of_each :][:of_each])
    ]
    changed = {"version": patch.version, "tensors": encode_tensors(moved)}
    return encode_message(model.model_copy(update=changed))
