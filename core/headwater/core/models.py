"""Law: a model is made of plain ONNX nodes, from a description and a seeded generator, and nothing else."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

NORMALISER: Final = ("normaliser.*",)
"""The parameters that a federated statistics pass fills and training leaves alone."""

NORMALISER_NAMES: Final = ("normaliser.mean", "normaliser.scale")

_ACTIVATIONS: Final = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def mlp(
    features: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    rng: np.random.Generator,
    activation: str = "relu",
    normalise: bool = False,
) -> bytes:
    """A multilayer perceptron as forward ONNX: x float32 `[batch, features]` to `[batch, outputs]` (logits or values).

    Weights are drawn as by He et al. 2015 (normal, variance 2/fan-in), biases are 0; without hidden layers it is a
    linear model. With `normalise`, x' = (x − mean)·scale stands in front, with mean 0 and scale 1 to begin with.
    """
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.float64]] = {}
    value = "x"
    if normalise:
        mean, scale = NORMALISER_NAMES
        weights |= {mean: np.zeros(features), scale: np.ones(features)}
        nodes.append(helper.make_node("Sub", [value, mean], ["centred"], "centre"))
        nodes.append(helper.make_node("Mul", ["centred", scale], ["normalised"], "scale"))
        value = "normalised"
    widths = [features, *hidden, outputs]
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
        weight, bias = f"layer{layer}.weight", f"layer{layer}.bias"
        weights[weight] = rng.normal(0.0, math.sqrt(2.0 / fan_in), (fan_in, fan_out))
        weights[bias] = np.zeros(fan_out)
        last = layer == len(widths) - 1
        result = "output" if last else f"layer{layer}.sum"
        nodes.append(helper.make_node("Gemm", [value, weight, bias], [result], f"layer{layer}"))
        if not last:
            value = f"layer{layer}.out"
            nodes.append(helper.make_node(_ACTIVATIONS[activation], [result], [value], f"layer{layer}.{activation}"))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
