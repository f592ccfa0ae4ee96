"""An ONNX model run by PyTorch: each operator is the PyTorch function of that meaning, and autograd does the rest.

No formula of the compiler is repeated here. The one exception is a GRU that resets before its product
(linear_before_reset = 0), which PyTorch does not have: it is written out step by step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

DTYPES = {1: torch.float64, 7: torch.int64, 9: torch.bool, 11: torch.float64}
"""Floats are computed in double precision, so that an error is the graph's own."""


@dataclass
class Run:
    """What a run needs beside the values: Dropout's masks by node name, the parameters that stand still; `moved`
    collects running statistics."""

    masks: Mapping[str, Tensor] = field(default_factory=dict)
    still: frozenset[str] = frozenset()
    moved: dict[str, Tensor] = field(default_factory=dict)


Operator = Callable[..., Any]


class TorchModel:
    """A model as written, in training mode."""

    def __init__(self, payload: bytes) -> None:
        self._graph = onnx.load_from_string(payload).graph
        self.weights = {tensor.name: tensor_of(numpy_helper.to_array(tensor)) for tensor in self._graph.initializer}
        self._x = next(value.name for value in self._graph.input if value.name not in self.weights)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, run: Run | None = None) -> Tensor:
        """The output; `parameters` take the place of initializers of their names."""
        values: dict[str, Any] = {**self.weights, **parameters, self._x: x, "": None}
        run = run or Run()
        for node in self._graph.node:
            given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            attributes = {name: v.decode() if isinstance(v, bytes) else v for name, v in given.items()}
            inputs = [values[name] for name in node.input]
            if node.op_type in IN_CONTEXT:
                found = IN_CONTEXT[node.op_type](run, node, inputs, **attributes)
            else:
                found = OPERATORS[node.op_type](*inputs, **attributes)
            values.update(zip(node.output, found if isinstance(found, (tuple, list)) else (found,), strict=False))
        return values[self._graph.output[0].name]


def tensor_of(array: Any) -> Tensor:
    array = np.asarray(array)
    return torch.tensor(array.astype(np.float64) if array.dtype == np.float32 else array)


def ints(value: Tensor | None) -> list[int]:
    return [] if value is None else [int(v) for v in value.reshape(-1)]


# ── products and elements ───────────────────────────────────────────────────────────────────────────────────────


def gemm(a: Tensor, b: Tensor, c: Tensor | None = None, alpha=1.0, beta=1.0, transA=0, transB=0) -> Tensor:  # noqa: N803
    a, b = a.t() if transA else a, b.t() if transB else b
    return alpha * (a @ b) if c is None else torch.addmm(c, a, b, alpha=alpha, beta=beta)


def constant(**attributes: Any) -> Tensor:
    ((name, value),) = attributes.items()
    return tensor_of(numpy_helper.to_array(value)) if name == "value" else tensor_of(np.float32(value))


def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return torch.clamp(x, low, high)


# ── sums, means, maxima ─────────────────────────────────────────────────────────────────────────────────────────


def reduced(function: Operator) -> Operator:
    def run(x: Tensor, axes: Tensor | None = None, keepdims: int = 1) -> Tensor:
        return function(x, dim=ints(axes) or list(range(x.dim())), keepdim=bool(keepdims))

    return run


def layer_norm(x, scale, bias=None, axis=-1, epsilon=1e-5):  # type: ignore[no-untyped-def]
    return functional.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def batch_norm(run: Run, node: onnx.NodeProto, inputs: Sequence[Tensor], epsilon=1e-5, momentum=0.9) -> Tensor:
    x, scale, bias, mean, variance = inputs
    if {*node.input[3:5]} <= run.still:
        return functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)
    mean, variance = mean.detach().clone(), variance.detach().clone()
    y = functional.batch_norm(x, mean, variance, scale, bias, training=True, momentum=1 - momentum, eps=epsilon)
    run.moved |= {node.input[3]: mean, node.input[4]: variance}
    return y


def dropout(run: Run, node: onnx.NodeProto, inputs: Sequence[Tensor], **_: Any) -> Tensor:
    return inputs[0] * run.masks[node.name]


# ── convolutions and pools ──────────────────────────────────────────────────────────────────────────────────────


def paddings(x: Tensor, kernel: Sequence[int], attributes: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Before and after, by spatial axis, as the ONNX specification has auto_pad."""
    rank = len(kernel)
    mode = attributes.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        pads = list(attributes.get("pads") or [0] * 2 * rank) if mode == "NOTSET" else [0] * 2 * rank
        return pads[:rank], pads[rank:]
    strides, dilations = attributes.get("strides") or [1] * rank, attributes.get("dilations") or [1] * rank
    before, after = [], []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


def wide(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    amounts = [amount for pair in zip(before[::-1], after[::-1], strict=True) for amount in pair]
    return functional.pad(x, amounts, value=value)


def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    rank = x.dim() - 2
    x = wide(x, *paddings(x, weight.shape[2:], attributes))
    function = functional.conv1d if rank == 1 else functional.conv2d
    one = [1] * rank
    return function(
        x,
        weight,
        bias,
        stride=attributes.get("strides", one),
        dilation=attributes.get("dilations", one),
        groups=attributes.get("group", 1),
    )


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    """Without padding, then cut: PyTorch pads both ends alike."""
    rank = x.dim() - 2
    one, none = [1] * rank, [0] * rank
    function = functional.conv_transpose1d if rank == 1 else functional.conv_transpose2d
    y = function(
        x,
        weight,
        bias,
        stride=attributes.get("strides", one),
        dilation=attributes.get("dilations", one),
        groups=attributes.get("group", 1),
        output_padding=attributes.get("output_padding", none),
    )
    before, after = cuts(x, y, attributes)
    for axis in range(rank):
        y = y.narrow(axis + 2, before[axis], y.shape[axis + 2] - before[axis] - after[axis])
    return y


def cuts(x: Tensor, full: Tensor, attributes: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """What a ConvTranspose leaves out before and after, as the ONNX specification has auto_pad and output_shape."""
    rank, mode = x.dim() - 2, attributes.get("auto_pad", "NOTSET")
    strides = attributes.get("strides", [1] * rank)
    sizes = attributes.get("output_shape") or [size * s for size, s in zip(x.shape[2:], strides, strict=True)]
    if mode == "NOTSET" and "output_shape" not in attributes:
        pads = attributes.get("pads") or [0] * 2 * rank
        return pads[:rank], pads[rank:]
    totals = [whole - size for whole, size in zip(full.shape[2:], sizes, strict=True)]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def max_pool(x: Tensor, kernel_shape: Sequence[int], ceil_mode: int = 0, **attributes: Any) -> Tensor:
    rank = len(kernel_shape)
    x = wide(x, *paddings(x, kernel_shape, attributes), value=-torch.inf)
    function = functional.max_pool1d if rank == 1 else functional.max_pool2d
    one = [1] * rank
    strides, dilations = attributes.get("strides", one), attributes.get("dilations", one)
    return function(x, kernel_shape, strides, 0, dilations, ceil_mode=bool(ceil_mode))


def average_pool(
    x: Tensor, kernel_shape: Sequence[int], ceil_mode: int = 0, count_include_pad: int = 0, **attributes: Any
) -> Tensor:
    rank = len(kernel_shape)
    function = functional.avg_pool1d if rank == 1 else functional.avg_pool2d
    strides, (before, after) = attributes.get("strides", [1] * rank), paddings(x, kernel_shape, attributes)
    if before == after:
        return function(x, kernel_shape, strides, before, bool(ceil_mode), bool(count_include_pad))
    # Padding that differs at the ends: the mean of what is inside is a mean over a share of it.
    inside = function(wide(torch.ones_like(x), before, after), kernel_shape, strides)
    return function(wide(x, before, after), kernel_shape, strides) / inside


# ── moving elements ─────────────────────────────────────────────────────────────────────────────────────────────


def reshape(x: Tensor, sizes: Tensor) -> Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(ints(sizes))])


def transpose(x: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(perm or list(range(x.dim()))[::-1])


def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(ints(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor) -> Tensor:
    return x.squeeze(ints(axes))


def split(x: Tensor, sizes: Tensor | None = None, axis: int = 0, num_outputs: int = 0) -> tuple[Tensor, ...]:
    return x.split(ints(sizes) if sizes is not None else -(-x.shape[axis] // num_outputs), axis)


def slice_(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    first, last = ints(starts), ints(ends)
    for place, axis in enumerate(ints(axes) or range(len(first))):
        step, size = ints(steps)[place] if steps is not None else 1, x.shape[axis]
        end = None if step < 0 and last[place] < -size else last[place]
        x = x.index_select(
            axis, torch.arange(size)[torch.from_numpy(np.arange(size)[first[place] : end : step].copy())]
        )
    return x


def pad(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    amounts, places = ints(pads), ints(axes) or list(range(x.dim()))
    by = {axis % x.dim(): (amounts[i], amounts[i + len(places)]) for i, axis in enumerate(places)}
    flat = [amount for axis in reversed(range(x.dim())) for amount in by.get(axis, (0, 0))]
    return functional.pad(x, flat, value=float(value) if value is not None else 0.0)


def gather(x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    axis %= x.dim()
    places = torch.where(indices < 0, indices + x.shape[axis], indices)
    taken = x.index_select(axis, places.reshape(-1))
    return taken.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def shape(x: Tensor, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end])


def expand(x: Tensor, sizes: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, ints(sizes)))


# ── recurrence ──────────────────────────────────────────────────────────────────────────────────────────────────

# ONNX has the gates of a GRU as update, reset, new and those of an LSTM as input, output, forget, cell.
GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}
MODULES = {"RNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}


def recurrent(kind: str) -> Operator:
    def run(x, w, r, b=None, lengths=None, h0=None, c0=None, direction="forward", linear_before_reset=1, **attributes):  # type: ignore[no-untyped-def]
        assert lengths is None
        if kind == "GRU" and not linear_before_reset:
            return gru_reset_first(x, w, r, b, h0, direction)
        directions, hidden = r.shape[0], r.shape[2]
        extra = {}
        if kind == "RNN":
            extra["nonlinearity"] = _lower(attributes.get("activations", ["tanh"])[0])
        module = MODULES[kind](
            x.shape[2], hidden, bias=b is not None, bidirectional=directions == 2, dtype=torch.float64, **extra
        )
        weights = {}
        for place in range(directions):
            suffix = "l0_reverse" if place else "l0"
            weights |= {f"weight_ih_{suffix}": _gates(kind, w[place], hidden)}
            weights |= {f"weight_hh_{suffix}": _gates(kind, r[place], hidden)}
            if b is not None:
                half = b.shape[1] // 2
                weights |= {f"bias_ih_{suffix}": _gates(kind, b[place, :half], hidden)}
                weights |= {f"bias_hh_{suffix}": _gates(kind, b[place, half:], hidden)}
        zeros = torch.zeros(directions, x.shape[1], hidden, dtype=torch.float64)
        states = [zeros if first is None else first for first in (h0, c0)]
        first = tuple(states) if kind == "LSTM" else states[0]
        x = x.flip(0) if direction == "reverse" else x
        y, last = torch.func.functional_call(module, weights, (x, first))
        y = y.flip(0) if direction == "reverse" else y
        y = y.reshape(*y.shape[:2], directions, hidden).permute(0, 2, 1, 3)
        return (y, *last) if kind == "LSTM" else (y, last)

    return run


def _lower(value: Any) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).lower()


def _gates(kind: str, rows: Tensor, hidden: int) -> Tensor:
    return torch.cat([rows[place * hidden : (place + 1) * hidden] for place in GATES[kind]])


def gru_reset_first(x, w, r, b, h0, direction):  # type: ignore[no-untyped-def]
    """One direction, in words of the ONNX specification."""
    hidden = r.shape[2]
    bias = b[0].chunk(2) if b is not None else [torch.zeros(3 * hidden, dtype=torch.float64)] * 2
    state = torch.zeros(x.shape[1], hidden, dtype=torch.float64) if h0 is None else h0[0]
    states = []
    for row in x.flip(0) if direction == "reverse" else x:
        xz, xr, xn = functional.linear(row, w[0], bias[0]).chunk(3, 1)
        z = torch.sigmoid(xz + functional.linear(state, r[0, :hidden], bias[1][:hidden]))
        reset = torch.sigmoid(xr + functional.linear(state, r[0, hidden : 2 * hidden], bias[1][hidden : 2 * hidden]))
        n = torch.tanh(xn + functional.linear(reset * state, r[0, 2 * hidden :], bias[1][2 * hidden :]))
        state = (1 - z) * n + z * state
        states.append(state)
    y = torch.stack(states)
    return (y.flip(0) if direction == "reverse" else y)[:, None], state[None]


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────

IN_CONTEXT: dict[str, Operator] = {"BatchNormalization": batch_norm, "Dropout": dropout}

OPERATORS: dict[str, Operator] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "ArgMax": lambda x, axis=0, keepdims=1: torch.argmax(x, axis, bool(keepdims)),
    "AveragePool": average_pool,
    "Cast": lambda x, to, **_: x.to(DTYPES[to]),
    "Clip": clip,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Constant": constant,
    "ConstantOfShape": lambda sizes, value: tensor_of(numpy_helper.to_array(value)).expand(ints(sizes)),
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Cos": torch.cos,
    "Div": torch.div,
    "Elu": lambda x, alpha=1.0: functional.elu(x, alpha),
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": expand,
    "Flatten": lambda x, axis=1: x.flatten(axis),
    "Floor": torch.floor,
    "GRU": recurrent("GRU"),
    "Gather": gather,
    "Gelu": lambda x, approximate="none": functional.gelu(x, approximate=approximate),
    "Gemm": gemm,
    "GlobalAveragePool": lambda x: (functional.adaptive_avg_pool1d if x.dim() == 3 else functional.adaptive_avg_pool2d)(
        x, 1
    ),
    "GlobalMaxPool": lambda x: (functional.adaptive_max_pool1d if x.dim() == 3 else functional.adaptive_max_pool2d)(
        x, 1
    ),
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "GroupNormalization": lambda x, scale, bias, num_groups, epsilon=1e-5: functional.group_norm(
        x, num_groups, scale, bias, epsilon
    ),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
    "HardSwish": functional.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": lambda x, scale, bias, epsilon=1e-5: functional.instance_norm(
        x, weight=scale, bias=bias, eps=epsilon
    ),
    "LSTM": recurrent("LSTM"),
    "LayerNormalization": layer_norm,
    "LeakyRelu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": lambda x, axis=-1: functional.log_softmax(x, axis),
    "MatMul": torch.matmul,
    "Max": torch.maximum,
    "MaxPool": max_pool,
    "Min": torch.minimum,
    "Mod": torch.remainder,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": functional.prelu,
    "Pad": pad,
    "Pow": torch.pow,
    "RNN": recurrent("RNN"),
    "Range": lambda start, end, by: torch.arange(int(start), int(end), int(by)),
    "Reciprocal": torch.reciprocal,
    "ReduceMax": reduced(torch.amax),
    "ReduceMean": reduced(torch.mean),
    "ReduceL1": reduced(lambda x, dim, keepdim: torch.linalg.vector_norm(x, 1, dim, keepdim)),
    "ReduceL2": reduced(lambda x, dim, keepdim: torch.linalg.vector_norm(x, 2, dim, keepdim)),
    "ReduceMin": reduced(torch.amin),
    "ReduceSumSquare": reduced(lambda x, dim, keepdim: (x * x).sum(dim, keepdim)),
    "ReduceSum": reduced(torch.sum),
    "Relu": torch.relu,
    "Reshape": reshape,
    "Shape": shape,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Size": lambda x: torch.tensor(x.numel()),
    "Slice": slice_,
    "Softmax": lambda x, axis=-1: functional.softmax(x, axis),
    "Softplus": functional.softplus,
    "Split": split,
    "Sqrt": torch.sqrt,
    "Squeeze": squeeze,
    "Sub": torch.sub,
    "Sum": lambda *terms: sum(terms[1:], terms[0]),
    "Tanh": torch.tanh,
    "Transpose": transpose,
    "Trilu": lambda x, upper=1: torch.triu(x) if upper else torch.tril(x),
    "Unsqueeze": unsqueeze,
    "Where": torch.where,
}
