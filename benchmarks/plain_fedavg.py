"""Law: the yardstick is plain numpy, in one process, from the paper's pseudocode; it shares data and order, no code.

FedAvg (McMahan et al. 2017, algorithm 1) with an MLP 64-32-10 on the same shards, from the same first model, seeing the
same minibatches as the fleet.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headwater.core.batches import minibatches, shuffling
from headwater.device.sources.dataset import Dataset
from headwater.schemas.messages import RoundKey

Weights = list[NDArray[np.float32]]


def fedavg(
    initial: Sequence[NDArray[np.float32]],
    shards: dict[str, Dataset],
    *,
    run: str,
    rounds: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Weights:
    """The model after `rounds` rounds. `shards` maps each device's name to its data."""
    model = [np.array(value) for value in initial]
    for number in range(1, rounds + 1):
        sums = [np.zeros(value.shape) for value in model]
        for name, data in shards.items():
            rng = shuffling(seed, RoundKey(run=run, round=number), name)
            order, mask = minibatches(len(data.train_x), batch_size, 1, rng)
            local = epoch(model, data.train_x, np.asarray(data.train_y), order, mask, learning_rate)
            for total, value in zip(sums, local, strict=True):
                total += len(data.train_x) * value.astype(np.float64)
        examples = sum(len(data.train_x) for data in shards.values())
        model = [(total / examples).astype(np.float32) for total in sums]
    return model


def epoch(
    model: Sequence[NDArray[np.float32]],
    x: NDArray[np.float32],
    y: NDArray[np.generic],
    order: NDArray[np.int64],
    mask: NDArray[np.float32],
    learning_rate: float,
) -> Weights:
    """One pass of SGD on softmax cross-entropy, by the chain rule written out."""
    w1, b1, w2, b2 = (np.array(value) for value in model)
    rate = np.float32(learning_rate)
    for rows, keep in zip(order, mask, strict=True):
        batch, labels = x[rows[keep > 0]], y[rows[keep > 0]]
        hidden = np.maximum(batch @ w1 + b1, 0)
        error = softmax(hidden @ w2 + b2)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        back = (error @ w2.T) * (hidden > 0)
        w2 -= rate * (hidden.T @ error)
        b2 -= rate * error.sum(0)
        w1 -= rate * (batch.T @ back)
        b1 -= rate * back.sum(0)
    return [w1, b1, w2, b2]


def accuracy(model: Sequence[NDArray[np.float32]], x: NDArray[np.float32], y: NDArray[np.generic]) -> float:
    w1, b1, w2, b2 = model
    return float(((np.maximum(x @ w1 + b1, 0) @ w2 + b2).argmax(1) == y).mean())


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
