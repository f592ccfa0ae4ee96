"""Law: the order and the shape of everything that enters or leaves a graph is said here, never guessed.

A model is data: forward ONNX compiled into graphs, and this manifest, which names what they take
and give. Initializer order, exporter names and file order carry no meaning.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from headwater.schemas import limits
from headwater.schemas.base import Dtype, Frozen, Name, Shape

Objective = Literal["cross_entropy", "mse"]
GraphName = Literal["train", "evaluate"]


class Parameter(Frozen):
    """One tensor of the model. Parameters that do not train stay as the model version has them."""

    name: Name
    shape: Shape
    trainable: bool = True


class Example(Frozen):
    """One example's tensor, without the batch axis. `classes` is 0 where the target is not a label."""

    shape: Shape
    dtype: Dtype
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Manifest(Frozen):
    """What the graphs of a model take and give.

    The graph `train` is one or more local epochs: it takes every parameter in this order, then `x`
    `[n, *x.shape]`, `y` `[n, *y.shape]`, `order` int64 `[steps, batch]` (row indices into x and y), `mask` float32
    `[steps, batch]` (0 marks the filler of a ragged last batch) and the scalar `learning_rate`; it gives the new
    value of every *trainable* parameter in this order, then a float32 scalar for each name in `metrics`.
    The graph `evaluate` takes every parameter, `x` and `y`, and gives the metrics.
    Metrics are sums over examples (`loss`, `correct`, `squared_error`, …): they add up along the tree, and the
    divisor is the number of examples. All parameters are float32.
    """

    model: Name
    objective: Objective
    parameters: Annotated[tuple[Parameter, ...], Field(min_length=1, max_length=limits.MAX_TENSORS)]
    x: Example
    y: Example
    metrics: Annotated[tuple[Name, ...], Field(max_length=limits.MAX_METRICS)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Manifest":
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) != len(names):
            raise ValueError("parameters: two parameters have the same name")
        return self

    @property
    def trainable(self) -> tuple[Parameter, ...]:
        return tuple(parameter for parameter in self.parameters if parameter.trainable)
