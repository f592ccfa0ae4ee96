"""An agent at work on a plan, without a parent."""

import time
from pathlib import Path

import numpy as np

from headwater.device.agent import Agent, Means
from headwater.device.coach import Beside
from headwater.device.runtime.client import Worker
from headwater.device.sources import Fixed
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.node.child import Assignment
from headwater.schemas.messages import Bundle, Model, Plan, RoundKey
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode, reference


def assignment(made: Bundle, parameters: tuple, **changes: object) -> Assignment:  # type: ignore[type-arg]
    model = Model(run="r", version=0, tensors=encode_tensors(parameters))
    plan = Plan(
        key=RoundKey(run="r", round=1),
        task="train",
        data="d",
        model=reference(encode(model)),
        bundle=reference(encode(made)),
        learning_rate=0.01,
    )
    return Assignment(plan.model_copy(update=changes), model, made, time.monotonic())


def agent(worker: Worker, folder: Path, data: Dataset, beside: Beside | None = None, limit_s: float = 30.0) -> Agent:
    means = Means(worker=worker, state=LocalState(folder), beside=beside or Beside())
    return Agent("d", {"d": Fixed(data)}, time_limit_s=limit_s, means=means)


def classes(n: int = 60) -> Dataset:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, n)
    x = (np.eye(4)[y] * 3 + rng.normal(0, 0.3, (n, 4))).astype(np.float32)
    return Dataset(x, y, x, y)
