"""Law: the order in which a device sees its examples follows from the plan's seed, its round and its name alone."""

import zlib

import numpy as np
from numpy.typing import NDArray

from headwater.schemas.messages import RoundKey


def shuffling(seed: int, key: RoundKey, node: str) -> np.random.Generator:
    """The generator of one device's shuffles in one round; a retried attempt sees the same order again."""
    return np.random.default_rng([seed, key.round, key.step, zlib.crc32(node.encode())])


def minibatches(
    examples: int, batch_size: int, epochs: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The rows of each step of `epochs` shuffled passes.

    Returns:
        order: int64 `[epochs * ceil(examples / batch_size), batch_size]`, row indices; filler repeats row 0.
        mask: float32 of the same shape, 0 on the filler of each pass's ragged last batch.

    Raises:
        ValueError: no examples.
    """
    if examples < 1:
        raise ValueError("examples: there are none to make batches of")
    batch = min(batch_size, examples)
    steps = -(-examples // batch)
    order = np.zeros((epochs, steps * batch), dtype=np.int64)
    mask = np.zeros((epochs, steps * batch), dtype=np.float32)
    mask[:, :examples] = 1.0
    for row in order:
        row[:examples] = rng.permutation(examples)
    return order.reshape(-1, batch), mask.reshape(-1, batch)
