"""The smallest model that a round can be about, and what a child of known weight gives to it."""

import numpy as np

from headwater.node.child import Assignment, Decline
from headwater.schemas.manifest import TRAIN_S, Example, Manifest, Parameter
from headwater.schemas.messages import Delta, Metric
from headwater.schemas.tensors import encode_tensors


def manifest(size: int) -> Manifest:
    """Of one parameter `w` with so many elements."""
    return Manifest(
        model="m",
        objective="mse",
        parameters=(Parameter(name="w", shape=(size,)),),
        x=Example(shape=(1,), dtype="float32"),
        y=Example(shape=(), dtype="float32"),
        metrics=("loss",),
    )


def untimed(found: Delta | Decline) -> Delta:
    """A delta without how long its device worked, which no two of them share."""
    assert isinstance(found, Delta), found
    return found.model_copy(update={"metrics": tuple(m for m in found.metrics if m.name != TRAIN_S)})


def adds_one(assignment: Assignment, node: str) -> Delta:
    """A delta of w·1 with w = 2**i for child `d<i>`, so that a sum names its contributors."""
    weight = 2.0 ** int(node[1:])
    size = assignment.bundle.manifest.parameters[0].shape[0]
    return Delta(
        key=assignment.plan.key,
        sender=node,
        task="train",
        weight=weight,
        examples=int(weight),
        devices=1,
        tensors=encode_tensors([np.full(size, weight, np.float32)]),
        metrics=(Metric(split="train", name="loss", total=weight, weight=weight),),
    )
