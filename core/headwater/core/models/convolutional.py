"""Law: a convolution sees zeros around the edge, so that only strides and pools make things smaller.

Where batch normalisation follows, a convolution has no bias, for the normalisation would take it away.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from headwater.core.models.builder import Builder


def cnn1d(
    channels: int,
    window: int,
    classes: int,
    filters: Sequence[int],
    kernel: int,
    *,
    rng: np.random.Generator,
    batch_norm: bool = False,
    normalise: bool = False,
) -> bytes:
    """For windows of sensors: x `[batch, channels, window]`; each block convolves, rectifies and halves the window.

    The mean over what is left of the window goes into a dense layer (Lin, Chen & Yan 2014).
    """
    build = Builder("cnn1d", [channels, window], rng, normalise=normalise)
    value = build.first
    for block, (before, after) in enumerate(pairwise([channels, *filters]), 1):
        value = _block(build, value, before, after, [kernel], name=f"block{block}", batch_norm=batch_norm)
        value = build.node("MaxPool", value, name=f"block{block}.pool", kernel_shape=[2], strides=[2])
    return _pooled(build, value, filters[-1], classes)


def cnn2d(
    channels: int,
    height: int,
    width: int,
    classes: int,
    filters: Sequence[int],
    hidden: int,
    *,
    rng: np.random.Generator,
    batch_norm: bool = False,
    normalise: bool = False,
) -> bytes:
    """For small images (LeCun et al. 1998): x `[batch, channels, height, width]`; 3×3 blocks halve it, then dense."""
    build = Builder("cnn2d", [channels, height, width], rng, normalise=normalise)
    value = build.first
    for block, (before, after) in enumerate(pairwise([channels, *filters]), 1):
        value = _block(build, value, before, after, [3, 3], name=f"block{block}", batch_norm=batch_norm)
        value = build.node("MaxPool", value, name=f"block{block}.pool", kernel_shape=[2, 2], strides=[2, 2])
    flat = build.node("Flatten", value, name="flat", axis=1)
    places = filters[-1] * (height >> len(filters)) * (width >> len(filters))
    inner = build.node("Relu", build.dense(flat, places, hidden, name="hidden"), name="hidden.relu")
    return build.finished(build.dense(inner, hidden, classes, name="head"), [classes])


def ds_cnn(
    height: int,
    width: int,
    classes: int,
    filters: int,
    blocks: int,
    *,
    rng: np.random.Generator,
    batch_norm: bool = True,
    normalise: bool = False,
) -> bytes:
    """For keywords, DS-CNN of Zhang et al. 2017 ("Hello Edge"): x `[batch, 1, height, width]`, time by MFCC.

    One 10×4 convolution of stride 2, then depthwise-separable blocks (Howard et al. 2017), then the mean.
    """
    build = Builder("ds_cnn", [1, height, width], rng, normalise=normalise)
    pads = _same((height, width), (10, 4), (2, 2))
    value = build.conv(build.first, 1, filters, (10, 4), name="stem", pads=pads, strides=(2, 2), bias=not batch_norm)
    value = _rectified(build, value, filters, name="stem", batch_norm=batch_norm)
    for block in range(1, blocks + 1):
        name = f"block{block}.depthwise"
        value = build.conv(value, filters, filters, (3, 3), name=name, pads=[1] * 4, group=filters, bias=not batch_norm)
        value = _rectified(build, value, filters, name=name, batch_norm=batch_norm)
        value = _block(build, value, filters, filters, [1, 1], name=f"block{block}.pointwise", batch_norm=batch_norm)
    return _pooled(build, value, filters, classes)


def autoencoder1d(channels: int, window: int, filters: Sequence[int], *, rng: np.random.Generator) -> bytes:
    """Masci et al. 2011, for windows: x `[batch, channels, window]` halved layer by layer and doubled again."""
    build = Builder("autoencoder1d", [channels, window], rng)
    widths, value = [channels, *filters], build.first
    for layer, (before, after) in enumerate(pairwise(widths), 1):
        value = build.conv(value, before, after, [4], name=f"encode{layer}", pads=[1, 1], strides=[2])
        value = build.node("Relu", value, name=f"encode{layer}.relu")
    for layer, (before, after) in enumerate(pairwise(widths[::-1]), 1):
        value = _doubled(build, value, before, after, name=f"decode{layer}")
        if layer < len(filters):
            value = build.node("Relu", value, name=f"decode{layer}.relu")
    return build.finished(value, [channels, window])


def _doubled(build: Builder, value: str, before: int, after: int, *, name: str) -> str:
    # Each place of the result is reached by half of the kernel's four.
    kernel = build.rng.normal(0.0, np.sqrt(1.0 / before), (before, after, 4))
    weight, bias = build.weight(f"{name}.weight", kernel), build.weight(f"{name}.bias", np.zeros(after))
    return build.node("ConvTranspose", value, weight, bias, name=name, kernel_shape=[4], pads=[1, 1], strides=[2])


def _block(
    build: Builder, value: str, before: int, after: int, kernel: Sequence[int], *, name: str, batch_norm: bool
) -> str:
    pads = [*((size - 1) // 2 for size in kernel), *(size // 2 for size in kernel)]
    value = build.conv(value, before, after, kernel, name=name, pads=pads, bias=not batch_norm)
    return _rectified(build, value, after, name=name, batch_norm=batch_norm)


def _rectified(build: Builder, value: str, channels: int, *, name: str, batch_norm: bool) -> str:
    if batch_norm:
        value = build.batch_norm(value, channels, name=f"{name}.norm")
    return build.node("Relu", value, name=f"{name}.relu")


def _pooled(build: Builder, value: str, channels: int, classes: int) -> bytes:
    """The mean over all places, and a dense layer."""
    mean = build.node("GlobalAveragePool", value, name="mean")
    flat = build.node("Flatten", mean, name="flat", axis=1)
    return build.finished(build.dense(flat, channels, classes, name="head"), [classes])


def _same(sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Zeros around the edge, so that a stride of s makes ⌈size/s⌉ places."""
    totals = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(sizes, kernel, strides, strict=True)]
    return [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]
