"""Small forward models for the compiler's tests."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, np.ndarray]


def weight(*shape: int, seed: int = 0, scale: float = 0.5) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


def forward(
    nodes: Sequence[onnx.NodeProto],
    weights: Weights,
    *,
    features: Sequence[int | str] = (6,),
    outputs: Sequence[int | str] = (3,),
    opset: int = 18,
    domains: Sequence[str] = (),
    batch: int | str = "batch",
    extra_inputs: Sequence[str] = (),
    extra_outputs: Sequence[str] = (),
) -> bytes:
    """A model from `x` to `y`, unchecked: refusals are tested with wrong ones."""

    def values(name: str, shape: Sequence[int | str], more: Sequence[str]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, *shape]) for n in (name, *more)]

    graph = helper.make_graph(
        list(nodes),
        "g",
        values("x", features, extra_inputs),
        values("y", outputs, extra_outputs),
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()


def node(operator: str, *inputs: str, out: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [out], name=f"{operator}_{out}", **attributes)


def dense(x: str, out: str, name: str = "w") -> onnx.NodeProto:
    return node("Gemm", x, name, f"{name}_bias", out=out)


def dense_weights(fan_in: int, fan_out: int, name: str = "w") -> dict[str, np.ndarray]:
    return {name: weight(fan_in, fan_out), f"{name}_bias": weight(fan_out, seed=1)}
