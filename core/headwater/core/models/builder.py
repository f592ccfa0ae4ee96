"""Law: every model has one input x with the batch first, one output, and parameters named after their layer.

Numbers that are no parameters stand in Constant nodes, for what is an initializer can be trained.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from headwater.core.models.initial import glorot, he

NORMALISER: Final = ("normaliser.*",)
"""The parameters that a federated statistics pass fills and training leaves alone."""

NORMALISER_NAMES: Final = ("normaliser.mean", "normaliser.scale")


class Builder:
    """A forward model under construction.

    Args:
        shape: of one example.
        normalise: put x' = (x − mean)·scale in front, element by element, with mean 0 and scale 1 to begin with.
    """

    def __init__(self, name: str, shape: Sequence[int], rng: np.random.Generator, *, normalise: bool = False) -> None:
        self.rng = rng
        self.first = "x"
        self._name = name
        self._shape = list(shape)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, NDArray[Any]] = {}
        if normalise:
            mean, scale = NORMALISER_NAMES
            self.weight(mean, np.zeros(self._shape))
            self.weight(scale, np.ones(self._shape))
            self.node("Sub", "x", mean, name="centre", result="centred")
            self.first = self.node("Mul", "centred", scale, name="scale", result="normalised")

    def node(
        self,
        operator: str,
        *inputs: str,
        name: str,
        result: str | None = None,
        others: Sequence[str] = (),
        **attributes: Any,
    ) -> str:
        """One node; its output is called `<name>.out` unless told, `others` are further ones."""
        result = result or f"{name}.out"
        self._nodes.append(helper.make_node(operator, list(inputs), [result, *others], name, **attributes))
        return result

    def weight(self, name: str, value: NDArray[Any]) -> str:
        self._weights[name] = value
        return name

    def number(self, name: str, value: float | Sequence[int]) -> str:
        """A float32 scalar, or int64 sizes and axes."""
        array = np.array(value, np.float32) if isinstance(value, float) else np.array(value, np.int64)
        return self.node("Constant", name=name, value=numpy_helper.from_array(array))

    # ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def dense(self, value: str, fan_in: int, fan_out: int, *, name: str, result: str | None = None) -> str:
        """A fully connected layer of `[batch, fan_in]`, its weight as by He et al. 2015."""
        weight = self.weight(f"{name}.weight", he(self.rng, (fan_in, fan_out), fan_in))
        bias = self.weight(f"{name}.bias", np.zeros(fan_out))
        return self.node("Gemm", value, weight, bias, name=name, result=result)

    def linear(self, value: str, fan_in: int, fan_out: int, *, name: str) -> str:
        """The same over the last axis of any number of axes, its weight as by Glorot & Bengio 2010."""
        weight = self.weight(f"{name}.weight", glorot(self.rng, (fan_in, fan_out), fan_in, fan_out))
        bias = self.weight(f"{name}.bias", np.zeros(fan_out))
        return self.node("Add", self.node("MatMul", value, weight, name=f"{name}.product"), bias, name=name)

    def conv(
        self,
        value: str,
        channels: int,
        filters: int,
        kernel: Sequence[int],
        *,
        name: str,
        pads: Sequence[int],
        strides: Sequence[int] | None = None,
        group: int = 1,
        bias: bool = True,
    ) -> str:
        fan_in = channels // group * int(np.prod(kernel))
        inputs = [self.weight(f"{name}.weight", he(self.rng, (filters, channels // group, *kernel), fan_in))]
        if bias:
            inputs.append(self.weight(f"{name}.bias", np.zeros(filters)))
        return self.node(
            "Conv",
            value,
            *inputs,
            name=name,
            group=group,
            kernel_shape=list(kernel),
            pads=list(pads),
            strides=list(strides or [1] * len(kernel)),
        )

    def batch_norm(self, value: str, channels: int, *, name: str) -> str:
        """Ioffe & Szegedy 2015; the running statistics move by a tenth a step."""
        ones, zeros = np.ones(channels), np.zeros(channels)
        first = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        names = [self.weight(f"{name}.{part}", value_) for part, value_ in first.items()]
        return self.node("BatchNormalization", value, *names, name=name, momentum=0.9, epsilon=1e-5)

    def layer_norm(self, value: str, width: int, *, name: str) -> str:
        """Ba, Kiros & Hinton 2016, over the last axis."""
        weight, bias = self.weight(f"{name}.weight", np.ones(width)), self.weight(f"{name}.bias", np.zeros(width))
        return self.node("LayerNormalization", value, weight, bias, name=name, axis=-1, epsilon=1e-5)

    def dropout(self, value: str, ratio: float, *, name: str) -> str:
        """Srivastava et al. 2014; nothing where the ratio is 0."""
        if not ratio:
            return value
        return self.node("Dropout", value, self.number(f"{name}.ratio", float(ratio)), name=name)

    # ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────

    def finished(self, value: str, shape: Sequence[int]) -> bytes:
        """The model as bytes; its output is `value`, `[batch, *shape]`."""
        last = self._nodes[-1]
        if list(last.output) != [value]:
            raise ValueError(f"output: {value!r} is not what the last node, {last.name!r}, makes")
        last.output[:] = ["output"]
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", *self._shape])],
            [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", *shape])],
            [numpy_helper.from_array(array.astype(np.float32), name) for name, array in self._weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())
