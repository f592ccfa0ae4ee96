"""Law: a mask says which weights are left; it travels once, and from then on nothing that it took away does.

    magnitude    the share of smallest |w| of all matrices together                            Han et al. 2015, §3
    structured   in each layer the outputs whose weights have the smallest norm                     Li et al. 2017, §3.1

Only matrices and kernels are pruned: a bias or a scale is one value for a whole output. An output is the first axis of
a kernel and of a matrix that is applied transposed, the last one of others; `outputs` says which.
"""

from collections.abc import Sequence
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from headwater.core.aggregate import Parameters
from headwater.schemas import packing
from headwater.schemas.tensors import Array, Specs, TensorError

Mask = NDArray[np.bool_]


def by_magnitude(parameters: Sequence[Array], sparsity: float) -> tuple[Mask, ...]:
    """Masks of the same shapes, true for what is left; `sparsity` of all matrices' values is gone."""
    sizes = [np.abs(value).ravel() for value in parameters if value.ndim > 1]
    everything = np.concatenate([*sizes, np.zeros(0)])
    gone = int(sparsity * len(everything))
    left = np.ones(len(everything), dtype=bool)
    left[np.argsort(everything, kind="stable")[:gone]] = False
    cuts = iter(np.split(left, np.cumsum([len(size) for size in sizes])[:-1]))
    return tuple(
        next(cuts).reshape(value.shape) if value.ndim > 1 else np.ones(value.shape, dtype=bool) for value in parameters
    )


def by_outputs(parameters: Sequence[Array], sparsity: float, outputs: Sequence[int | None]) -> tuple[Mask, ...]:
    """Masks that take whole outputs. `outputs`: the axis of each tensor's outputs, None where it is not pruned.

    At least one output of each layer is left, and a layer that nothing follows must not be pruned: say None for it.
    """
    return tuple(
        np.ones(value.shape, dtype=bool) if axis is None else _outputs_left(value, sparsity, axis)
        for value, axis in zip(parameters, outputs, strict=True)
    )


def _outputs_left(value: Array, sparsity: float, axis: int) -> Mask:
    by_output = np.moveaxis(np.asarray(value, dtype=np.float64), axis, 0).reshape(value.shape[axis], -1)
    norms = np.sqrt(np.square(by_output).sum(axis=1))
    left = np.ones(len(norms), dtype=bool)
    left[np.argsort(norms, kind="stable")[: min(int(sparsity * len(norms)), len(norms) - 1)]] = False
    along = [1] * value.ndim
    along[axis] = len(norms)
    return np.broadcast_to(left.reshape(along), value.shape).copy()


def pruned(parameters: Sequence[Array], masks: Sequence[Mask]) -> Parameters:
    """What was taken away is 0."""
    return tuple(np.where(mask, value, 0).astype(np.float32) for value, mask in zip(parameters, masks, strict=True))


def pruned_step(step: Sequence[Array], masks: Sequence[Mask]) -> tuple[NDArray[np.float64], ...]:
    """A step of what is left alone, whatever an optimiser still remembers."""
    return tuple(np.where(mask, tensor, 0.0) for tensor, mask in zip(step, masks, strict=True))


def narrowed_specs(specs: Specs, masks: Sequence[Mask]) -> Specs:
    """Of an update's values that are left: a smaller tensor where whole outputs are gone, else a vector."""
    return tuple((name, _shape_left(mask), dtype) for (name, _, dtype), mask in zip(specs, masks, strict=True))


def _shape_left(mask: Mask) -> tuple[int, ...]:
    others = (tuple(other for other in range(mask.ndim) if other != axis) for axis in range(mask.ndim))
    shape, left = tuple(int(mask.any(axis=axes).sum()) for axes in others), int(mask.sum())
    return shape if prod(shape) == left else (left,)


def narrowed(update: Sequence[Array], masks: Sequence[Mask]) -> tuple[Array, ...]:
    """An update as `narrowed_specs` has it."""
    return tuple(value[mask].reshape(_shape_left(mask)) for value, mask in zip(update, masks, strict=True))


def widened(update: Sequence[Array], masks: Sequence[Mask]) -> tuple[Array, ...]:
    """What `narrowed` took from, with 0 where the masks do."""
    wide = []
    for value, mask in zip(update, masks, strict=True):
        full = np.zeros(mask.shape, dtype=value.dtype)
        full[mask] = value.ravel()
        wide.append(full)
    return tuple(wide)


def write_masks(masks: Sequence[Mask]) -> bytes:
    """Bits in one frame."""
    bits = np.concatenate([mask.ravel() for mask in masks]) if masks else np.zeros(0, dtype=bool)
    return packing.pack(np.packbits(bits).tobytes())


def read_masks(data: bytes, specs: Specs) -> tuple[Mask, ...]:
    """The masks of the specs' shapes.

    Raises:
        TensorError: bytes that are none.
    """
    shapes = [shape for _, shape, _ in specs]
    sizes = [prod(shape) for shape in shapes]
    try:
        raw = packing.unpack(data, ceil(sum(sizes) / 8))
    except packing.PackingError as error:
        raise TensorError("oversized" if error.is_oversized else "malformed", f"mask: {error}") from None
    if len(raw) != ceil(sum(sizes) / 8):
        raise TensorError("wrong_shape", f"mask: {len(raw)} bytes for {sum(sizes)} parameters")
    bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), count=sum(sizes)).astype(bool)
    cuts = np.split(bits, np.cumsum(sizes)[:-1]) if sizes else []
    return tuple(cut.reshape(shape) for cut, shape in zip(cuts, shapes, strict=True))
