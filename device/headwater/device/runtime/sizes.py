"""Law: before a graph runs, an upper bound of every value in it is known and allowed; here each operator has its rule.

A walk over the nodes with the shapes of the actual inputs, no element computed but those of small whole-number
tensors that shapes are made of. An operator that could blow up, and whose size follows from what is known only when
it runs, is refused. What this misses, the worker's memory limit catches.
"""

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.device.runtime.failures import GraphRefused
from headwater.device.runtime.onnx_reader import INT32, INT64, attributes, real_numbers, whole_numbers
from headwater.schemas.limits import MAX_RANK

MAX_CONTENT_ELEMENTS: Final = 1024
"""Larger whole-number tensors are data, not shapes."""

MAX_SCAN_STEPS: Final = 1_000_000
"""What one Scan may iterate, the steps of a plan included."""

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sized:
    """A bound of one value: at most `elements`, each axis at most `dims` (None: the rank is not known).

    `exact` says that the axes are just so; `content` holds the elements where they are few, whole and known, `factors`
    those of a small constant of other numbers.
    """

    elements: int
    dims: Dims | None = None
    exact: bool = False
    content: NDArray[np.int64] | None = None
    factors: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One node as its rule sees it."""

    node: Any
    inputs: Sequence[Sized | None]
    scope: Mapping[str, Sized]
    most: int
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def given(self, index: int) -> Sized:
        """An input that must be there."""
        value = self.inputs[index]
        if value is None:
            raise ValueError(f"input {index} is not there")
        return value

    def dims(self, index: int) -> Dims:
        """An input's axes, where its rule can do nothing without them."""
        dims = self.given(index).dims
        if dims is None:
            raise ValueError(f"the rank of {self.node.input[index]!r} is not known before it runs")
        return dims

    def content(self, index: int) -> NDArray[np.int64] | None:
        value = self.inputs[index] if index < len(self.inputs) else None
        return None if value is None else value.content

    def known(self, index: int) -> list[int]:
        """An input's elements, where they decide the size."""
        content = self.content(index)
        if content is None:
            raise ValueError(f"its size follows from {self.node.input[index]!r}, which is not known before it runs")
        return [int(number) for number in content.ravel()]

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None


Rule = Callable[[Call], Sequence[Sized]]


def check_sizes(model: Any, shapes: Mapping[str, Dims], most: int) -> None:
    """Bound every value of a guarded model.

    Args:
        shapes: of the inputs that it will get. most: elements that one value may have.

    Raises:
        GraphRefused: naming the node, and its size or why it is not known.
    """
    given = {name: sized(dims) for name, dims in shapes.items()}
    _walk(model.graph, {name: given[name] for name in given}, most)


def sized(dims: Sequence[int], exact: bool = True, content: NDArray[np.int64] | None = None) -> Sized:
    if len(dims) > 2 * MAX_RANK:
        raise ValueError(f"{len(dims)} axes; at most {2 * MAX_RANK}")
    dims = tuple(max(int(size), 0) for size in dims)
    kept = content if content is not None and content.size <= MAX_CONTENT_ELEMENTS else None
    return Sized(math.prod(dims), dims, exact, kept)


# ── the walk ────────────────────────────────────────────────────────────────────────────────────────────────────


def _walk(graph: Any, scope: MutableMapping[str, Sized], most: int) -> None:
    """Fill the scope with the bounds of a graph's values."""
    for tensor in graph.initializer:
        scope.setdefault(tensor.name, _constant(tensor))
    for node in graph.node:
        where = f"node {node.name or '?'!r} ({node.op_type})"
        try:
            call = Call(node, [scope[name] if name else None for name in node.input], scope, most, attributes(node))
            results = RULES[node.op_type](call)
        except KeyError as error:
            raise GraphRefused(f"{where}: no value {error}") from None
        except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, AttributeError) as error:
            raise GraphRefused(f"{where}: {error}; a graph whose sizes cannot be bounded is not run") from None
        if len(results) < len(node.output):
            raise GraphRefused(f"{where}: {len(node.output)} outputs where there are {len(results)}")
        for name, result in zip(node.output, results, strict=False):
            if result.elements > most:
                raise GraphRefused(
                    f"{where}: gives up to {result.elements} elements; at most {most} fit on this device"
                )
            scope[name] = result


def _constant(tensor: Any) -> Sized:
    known = sized(tuple(tensor.dims), content=whole_numbers(tensor, MAX_CONTENT_ELEMENTS))
    return replace(known, factors=real_numbers(tensor, MAX_RANK))


# ── rules: as many elements as came in ──────────────────────────────────────────────────────────────────────────


def _same(call: Call) -> Sequence[Sized]:
    given = call.given(0)
    return [Sized(given.elements, given.dims, given.exact)] * max(len(call.node.output), 1)


def _layer_normalised(call: Call) -> Sequence[Sized]:
    """And its statistics: one for all axes from `axis` on."""
    given, dims = call.given(0), call.dims(0)
    axis = _axis(call.attributes.get("axis", -1), len(dims))
    statistics = sized([*dims[:axis], *(1 for _ in dims[axis:])], given.exact)
    return [Sized(given.elements, given.dims, given.exact), statistics, statistics]


def _batch_normalised(call: Call) -> Sequence[Sized]:
    given, channels = call.given(0), call.given(1)
    statistics = Sized(channels.elements, channels.dims, channels.exact)
    return [Sized(given.elements, given.dims, given.exact), statistics, statistics]


def _kept(call: Call) -> Sequence[Sized]:
    return [call.given(0)]


def _cast(call: Call) -> Sequence[Sized]:
    """Whole numbers stay known only as whole numbers: a half, cut off here, could come back as a factor."""
    given = call.given(0)
    whole = call.attributes["to"] in (INT32, INT64)
    return [given if whole else Sized(given.elements, given.dims, given.exact)]


def _broadcast(call: Call) -> Sequence[Sized]:
    given = [value for value in call.inputs if value is not None]
    if any(value.dims is None for value in given):
        return [Sized(math.prod(max(value.elements, 1) for value in given))]
    result = sized(_joined([value.dims or () for value in given]), all(value.exact for value in given))
    return [Sized(result.elements, result.dims, result.exact, _computed(call))]


def _joined(shapes: Sequence[Dims]) -> Dims:
    """The broadcast of shapes. Bounds are joined by the larger; an exact 0 beside a 1 would be 0, which is smaller."""
    rank = max(len(dims) for dims in shapes)
    padded = [(1,) * (rank - len(dims)) + dims for dims in shapes]
    return tuple(max(axis) for axis in zip(*padded, strict=True))


_COMPUTED: Final[Mapping[str, Callable[..., Any]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
    "Equal": np.equal,
    "Greater": np.greater,
    "Less": np.less,
    "Where": np.where,
}


def _computed(call: Call) -> NDArray[np.int64] | None:
    """The content of arithmetic on known whole numbers."""
    contents = [call.content(index) for index in range(len(call.inputs))]
    if any(content is None for content in contents):
        return None
    if call.node.op_type == "Div":
        # Towards 0, as C does.
        a, b = (np.asarray(content) for content in contents)
        return np.trunc(a / b).astype(np.int64) if np.all(b != 0) and np.all(np.abs(a) < 2**52) else None
    compute = _COMPUTED.get(call.node.op_type)
    if compute is None or len(contents) != (3 if call.node.op_type == "Where" else 2):
        return None
    result = np.asarray(compute(*contents)).astype(np.int64)
    # Beyond, a graph's own int32 arithmetic would wrap around and this one would not.
    return result if np.all(np.abs(result) < 2**31) else None


# ── rules: fewer elements ───────────────────────────────────────────────────────────────────────────────────────

_REDUCED: Final[Mapping[str, Callable[..., Any]]] = {
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}


def _reduce(call: Call) -> Sequence[Sized]:
    given, keep = call.given(0), bool(call.attributes.get("keepdims", 1))
    axes = call.known(1) if call.content(1) is not None else list(call.attributes.get("axes", ()))
    if given.dims is None or (call.has(1) and call.content(1) is None):
        return [Sized(given.elements)]
    rank = len(given.dims)
    if not axes:
        if call.attributes.get("noop_with_empty_axes", 0):
            return [Sized(given.elements, given.dims, given.exact)]
        axes = list(range(rank))
    reduced = {_axis(axis, rank) for axis in axes}
    dims = [1 if axis in reduced else size for axis, size in enumerate(given.dims) if keep or axis not in reduced]
    compute = _REDUCED.get(call.node.op_type)
    content = None
    if compute and given.content is not None and given.content.size:
        content = np.asarray(compute(given.content, axis=tuple(reduced), keepdims=keep), dtype=np.int64)
    return [sized(dims, given.exact, content)]


def _arg(call: Call) -> Sequence[Sized]:
    given, keep = call.given(0), bool(call.attributes.get("keepdims", 1))
    dims = call.dims(0)
    at = _axis(call.attributes.get("axis", 0), len(dims))
    return [sized([1 if i == at else s for i, s in enumerate(dims) if keep or i != at], given.exact)]


def _slice(call: Call) -> Sequence[Sized]:
    given, dims = call.given(0), call.dims(0)
    parts = [call.content(index) if call.has(index) else None for index in range(1, 5)]
    if any(part is None for index, part in enumerate(parts, 1) if call.has(index)):
        return [sized(dims, exact=False)]
    starts, ends = call.known(1), call.known(2)
    axes = call.known(3) if call.has(3) else list(range(len(starts)))
    steps = call.known(4) if call.has(4) else [1] * len(starts)
    cut = [slice(None)] * len(dims)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # An end far below 0 means "to the front" when going backwards.
        cut[_axis(axis, len(dims))] = slice(start, None if step < 0 and end < -dims[axis] else end, step)
    sizes = [len(range(*part.indices(size))) for part, size in zip(cut, dims, strict=True)]
    return [sized(sizes if given.exact else dims, given.exact, _taken(given.content, tuple(cut)))]


def _taken(content: NDArray[np.int64] | None, cut: tuple[slice, ...]) -> NDArray[np.int64] | None:
    return None if content is None else content[cut]


def _split(call: Call) -> Sequence[Sized]:
    given, dims = call.given(0), call.dims(0)
    axis = _axis(call.attributes.get("axis", 0), len(dims))
    count = len(call.node.output)
    known = call.content(1)
    if call.has(1) and known is None:
        return [sized(dims, exact=False)] * count
    share = -(-dims[axis] // count)
    sizes = [int(size) for size in known] if known is not None else _shares(dims[axis], share, count)
    begins = np.cumsum([0, *sizes])
    before = (slice(None),) * axis
    return [
        sized(
            (*dims[:axis], min(size, dims[axis]), *dims[axis + 1 :]),
            given.exact,
            _taken(given.content, (*before, slice(int(begin), int(begin) + size))),
        )
        for begin, size in zip(begins, sizes, strict=False)
    ]


def _shares(total: int, share: int, count: int) -> list[int]:
    """Equal parts; the last may be smaller."""
    return [max(min(share, total - share * index), 0) for index in range(count)]


def _top_k(call: Call) -> Sequence[Sized]:
    dims = call.dims(0)
    axis = _axis(call.attributes.get("axis", -1), len(dims))
    known = call.content(1)
    size = dims[axis] if known is None else min(int(known.ravel()[0]), dims[axis])
    return [sized((*dims[:axis], size, *dims[axis + 1 :]), known is not None and call.given(0).exact)] * 2


# ── rules: the same elements in another shape ───────────────────────────────────────────────────────────────────


def _reshape(call: Call) -> Sequence[Sized]:
    given, target = call.given(0), call.content(1)
    if target is None:
        return [Sized(given.elements)]
    wanted = [int(size) for size in target.ravel()]
    dims = given.dims or ()
    zero_copies = not call.attributes.get("allowzero", 0)
    if zero_copies and any(size == 0 and index >= len(dims) for index, size in enumerate(wanted)):
        return [Sized(given.elements)]
    sizes = [dims[index] if size == 0 and zero_copies else size for index, size in enumerate(wanted)]
    if -1 in sizes:
        rest = math.prod(size for size in sizes if size != -1)
        # With a bound for elements the missing axis is bounded too, however small the others may turn out.
        missing = given.elements // rest if rest and given.exact else given.elements
        sizes = [missing if size == -1 else size for size in sizes]
    if not given.exact:
        return [Sized(given.elements, tuple(min(size, given.elements) for size in sizes))]
    content = given.content.reshape(sizes) if given.content is not None else None
    return [sized(sizes, content=content)]


def _flatten(call: Call) -> Sequence[Sized]:
    dims = call.dims(0)
    axis = call.attributes.get("axis", 1)
    axis = axis if axis >= 0 else axis + len(dims)
    return [sized((math.prod(dims[:axis]), math.prod(dims[axis:])), call.given(0).exact)]


def _transpose(call: Call) -> Sequence[Sized]:
    given, dims = call.given(0), call.dims(0)
    order = list(call.attributes.get("perm", ())) or list(range(len(dims)))[::-1]
    if sorted(order) != list(range(len(dims))):
        raise ValueError(f"perm {order} is no order of {len(dims)} axes")
    content = None if given.content is None else given.content.transpose(order)
    return [sized([dims[axis] for axis in order], given.exact, content)]


def _squeeze(call: Call) -> Sequence[Sized]:
    given, dims = call.given(0), call.dims(0)
    if call.has(1):
        gone = {_axis(axis, len(dims)) for axis in call.known(1)}
    elif given.exact:
        gone = {axis for axis, size in enumerate(dims) if size == 1}
    else:
        return [Sized(given.elements)]
    sizes = [size for axis, size in enumerate(dims) if axis not in gone]
    return [sized(sizes, given.exact, None if given.content is None else given.content.reshape(sizes))]


def _unsqueeze(call: Call) -> Sequence[Sized]:
    given, dims = call.given(0), call.dims(0)
    rank = len(dims) + len(call.known(1))
    new = {_axis(axis, rank) for axis in call.known(1)}
    old = iter(dims)
    sizes = [1 if axis in new else next(old) for axis in range(rank)]
    return [sized(sizes, given.exact, None if given.content is None else given.content.reshape(sizes))]


def _concat(call: Call) -> Sequence[Sized]:
    given = [call.given(index) for index in range(len(call.inputs))]
    shapes = [call.dims(index) for index in range(len(call.inputs))]
    axis = _axis(call.attributes["axis"], len(shapes[0]))
    sizes = list(_joined(shapes))
    sizes[axis] = sum(dims[axis] for dims in shapes)
    contents = [value.content for value in given if value.content is not None]
    content = np.concatenate(contents, axis=axis) if len(contents) == len(given) else None
    return [sized(sizes, all(value.exact for value in given), content)]


def _space(call: Call) -> Sequence[Sized]:
    return [Sized(call.given(0).elements)]


# ── rules: gathering ────────────────────────────────────────────────────────────────────────────────────────────


def _gather(call: Call) -> Sequence[Sized]:
    data, index = call.given(0), call.given(1)
    if data.dims is None or index.dims is None:
        return [Sized(data.elements * max(index.elements, 1))]
    axis = _axis(call.attributes.get("axis", 0), len(data.dims))
    content = None
    if data.content is not None and index.content is not None:
        content = np.asarray(np.take(data.content, index.content, axis=axis))
    sizes = (*data.dims[:axis], *index.dims, *data.dims[axis + 1 :])
    return [sized(sizes, data.exact and index.exact, content)]


def _gather_elements(call: Call) -> Sequence[Sized]:
    index = call.given(1)
    return [Sized(index.elements, index.dims, index.exact)]


def _gather_nd(call: Call) -> Sequence[Sized]:
    data, index, batch = call.dims(0), call.dims(1), int(call.attributes.get("batch_dims", 0))
    depth = index[-1]
    return [sized((*index[:-1], *data[batch + depth :]), call.given(0).exact and call.given(1).exact)]


# ── rules: what can blow up ─────────────────────────────────────────────────────────────────────────────────────


def _matmul(call: Call) -> Sequence[Sized]:
    a, b = call.given(0), call.given(1)
    if a.dims is None or b.dims is None:
        return [Sized(a.elements * b.elements)]
    left, right = (a.dims if len(a.dims) > 1 else (1, *a.dims)), (b.dims if len(b.dims) > 1 else (*b.dims, 1))
    sizes = list(_joined([left[:-2], right[:-2]]))
    sizes += [left[-2]] if len(a.dims) > 1 else []
    sizes += [right[-1]] if len(b.dims) > 1 else []
    return [sized(sizes, a.exact and b.exact)]


def _gemm(call: Call) -> Sequence[Sized]:
    a, b = call.dims(0), call.dims(1)
    rows = a[1] if call.attributes.get("transA", 0) else a[0]
    columns = b[0] if call.attributes.get("transB", 0) else b[1]
    return [sized((rows, columns), call.given(0).exact and call.given(1).exact)]


def _windows(call: Call, kernel: Sequence[int]) -> list[int]:
    """The spatial axes that a window moving over the input gives."""
    spatial, count = call.dims(0)[2:], len(kernel)
    strides = list(call.attributes.get("strides", ())) or [1] * count
    dilations = list(call.attributes.get("dilations", ())) or [1] * count
    pads = list(call.attributes.get("pads", ())) or [0] * (2 * count)
    same = call.attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    ceil = bool(call.attributes.get("ceil_mode", 0))
    sizes = []
    for i, (size, window) in enumerate(zip(spatial, kernel, strict=True)):
        moved = size + pads[i] + pads[i + count] - dilations[i] * (window - 1) - 1
        steps = -(-moved // strides[i]) + 1 if ceil else moved // strides[i] + 1
        # A last window that would begin in the padding is none.
        steps -= int(ceil and (steps - 1) * strides[i] >= size + pads[i])
        sizes.append(-(-size // strides[i]) if same else steps)
    return sizes


def _conv(call: Call) -> Sequence[Sized]:
    x, w = call.dims(0), call.dims(1)
    return [sized((x[0], w[0], *_windows(call, w[2:])), call.given(0).exact and call.given(1).exact)]


def _pool(call: Call) -> Sequence[Sized]:
    x, kernel = call.dims(0), list(call.attributes["kernel_shape"])
    return [sized((*x[:2], *_windows(call, kernel)), call.given(0).exact)] * 2


def _global_pool(call: Call) -> Sequence[Sized]:
    x = call.dims(0)
    return [sized((*x[:2], *(1 for _ in x[2:])), call.given(0).exact)]


def _conv_transpose(call: Call) -> Sequence[Sized]:
    x, w = call.dims(0), call.dims(1)
    count = len(w) - 2
    strides = list(call.attributes.get("strides", ())) or [1] * count
    dilations = list(call.attributes.get("dilations", ())) or [1] * count
    pads = list(call.attributes.get("pads", ())) or [0] * (2 * count)
    extra = list(call.attributes.get("output_padding", ())) or [0] * count
    wanted = list(call.attributes.get("output_shape", ()))
    same = call.attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    exact = call.given(0).exact and call.given(1).exact
    sizes = []
    for i in range(count):
        full = strides[i] * (x[2 + i] - 1) + extra[i] + dilations[i] * (w[2 + i] - 1) + 1
        # To be padded to the same size, it must be at least as large before.
        exact = exact and not (same and full < strides[i] * x[2 + i])
        sizes.append(strides[i] * x[2 + i] if same else full - pads[i] - pads[i + count])
    channels = w[1] * int(call.attributes.get("group", 1))
    spatial = wanted[-count:] if wanted else sizes
    return [sized((x[0], channels, *spatial), exact)]


def _shape(call: Call) -> Sequence[Sized]:
    given = call.given(0)
    if given.dims is None:
        return [sized((2 * MAX_RANK,), exact=False)]
    part = given.dims[call.attributes.get("start", 0) : call.attributes.get("end")]
    return [sized((len(part),), content=np.array(part, dtype=np.int64) if given.exact else None)]


def _size(call: Call) -> Sequence[Sized]:
    given = call.given(0)
    return [sized((), content=np.array(given.elements, dtype=np.int64) if given.exact else None)]


def _constant_node(call: Call) -> Sequence[Sized]:
    (name, value), *_ = call.attributes.items()
    match name:
        case "value":
            return [_constant(value)]
        case "value_int":
            return [sized((), content=np.array(value, dtype=np.int64))]
        case "value_ints":
            return [sized((len(value),), content=np.array(value, dtype=np.int64))]
        case "value_float":
            return [sized(())]
        case "value_floats":
            return [sized((len(value),))]
    raise ValueError(f"a constant of kind {name!r}")


def _constant_of_shape(call: Call) -> Sequence[Sized]:
    sizes = call.known(0)
    result = sized(sizes)
    value = call.attributes.get("value")
    fill = None if value is None else whole_numbers(value, 1)
    if fill is None or result.elements > MAX_CONTENT_ELEMENTS:
        return [result]
    return [sized(sizes, content=np.full(sizes, fill.ravel()[0], dtype=np.int64))]


def _expand(call: Call) -> Sequence[Sized]:
    given, target = call.given(0), tuple(call.known(1))
    sizes = _joined([call.dims(0), target])
    small = given.content is not None and math.prod(sizes) <= MAX_CONTENT_ELEMENTS
    content = np.broadcast_to(given.content, sizes) if small and given.content is not None else None
    return [sized(sizes, given.exact, content)]


def _tile(call: Call) -> Sequence[Sized]:
    return [sized([s * times for s, times in zip(call.dims(0), call.known(1), strict=True)], call.given(0).exact)]


def _range(call: Call) -> Sequence[Sized]:
    begin, end, step = (call.known(index)[0] for index in range(3))
    numbers = range(begin, end, step)
    few = len(numbers) <= MAX_CONTENT_ELEMENTS
    return [sized((len(numbers),), content=np.array(numbers, dtype=np.int64) if few else None)]


def _resize(call: Call) -> Sequence[Sized]:
    """To sizes, its fourth input, or by constant factors, its third."""
    given, dims = call.given(0), call.dims(0)
    if call.attributes.get("axes") or call.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise ValueError("only some of its axes are resized, or all in proportion")
    if call.has(3):
        return [sized(call.known(3), given.exact)]
    factors = call.given(2).factors
    if factors is None or len(factors) != len(dims) or not np.all((factors > 0) & (factors < 2**20)):
        raise ValueError("its factors are no constant, one for each axis")
    return [sized([math.floor(size * float(factor)) for size, factor in zip(dims, factors, strict=True)], given.exact)]


def _one_hot(call: Call) -> Sequence[Sized]:
    dims, depth = call.dims(0), call.known(1)[0]
    axis = _axis(call.attributes.get("axis", -1), len(dims) + 1)
    return [sized((*dims[:axis], depth, *dims[axis:]), call.given(0).exact)]


def _pad(call: Call) -> Sequence[Sized]:
    dims, pads = list(call.dims(0)), call.known(1)
    axes = call.known(3) if call.has(3) else list(range(len(dims)))
    for index, axis in enumerate(axes):
        dims[axis] += pads[index] + pads[index + len(axes)]
    return [sized(dims, call.given(0).exact)]


def _scan(call: Call) -> Sequence[Sized]:
    """The body once: its states may not grow, so one pass bounds them all."""
    body, scanned = call.attributes["body"], int(call.attributes["num_scan_inputs"])
    states = len(call.inputs) - scanned
    if states < 0 or scanned < 1 or len(body.input) != len(call.inputs):
        raise ValueError(f"{len(call.inputs)} inputs, {scanned} of them scanned, for a body of {len(body.input)}")
    axes = list(call.attributes.get("scan_input_axes", ())) or [0] * scanned
    inner: dict[str, Sized] = {}
    steps = 0
    for index, value in enumerate(body.input):
        given = call.given(index)
        if index >= states:
            dims = call.dims(index)
            axis = _axis(axes[index - states], len(dims))
            steps = max(steps, dims[axis])
            given = sized((*dims[:axis], *dims[axis + 1 :]), given.exact)
        inner[value.name] = Sized(given.elements, given.dims, given.exact)
    if steps > MAX_SCAN_STEPS:
        raise ValueError(f"{steps} iterations; at most {MAX_SCAN_STEPS}")
    scope: ChainMap[str, Sized] = ChainMap(inner, dict(call.scope))
    _walk(body, scope, call.most)
    return _scan_outputs(call, [scope[value.name] for value in body.output], states, steps)


def _scan_outputs(call: Call, results: Sequence[Sized], states: int, steps: int) -> Sequence[Sized]:
    for index in range(states):
        before, after = call.given(index), results[index]
        if after.elements > before.elements or (before.exact and after.exact and after.dims != before.dims):
            raise ValueError(
                f"state {index} goes in with {before.elements} elements and comes out with {after.elements}"
            )
    axes = list(call.attributes.get("scan_output_axes", ())) or [0] * (len(results) - states)
    stacked = []
    for value, axis in zip(results[states:], axes, strict=True):
        if value.dims is None:
            stacked.append(Sized(value.elements * steps))
            continue
        at = _axis(axis, len(value.dims) + 1)
        stacked.append(sized((*value.dims[:at], steps, *value.dims[at:]), value.exact))
    return [*(Sized(value.elements, value.dims, value.exact) for value in results[:states]), *stacked]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank}")
    return axis % rank


# ── the list ────────────────────────────────────────────────────────────────────────────────────────────────────

_ALIKE: Final = (
    "Abs Ceil Celu Clip Cos CumSum Elu Erf Exp EyeLike Floor Gelu HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log "
    "LogSoftmax Mish Neg Not PRelu Reciprocal Relu Round ScatterElements ScatterND Selu Sigmoid Sign Sin Softmax "
    "Softplus Softsign Sqrt Tanh ThresholdedRelu Trilu"
)
_BROADCAST: Final = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod "
    "Mul Or Pow Sub Where Xor"
)
_REDUCE: Final = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)

RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(_ALIKE.split(), _same),
    **dict.fromkeys(_BROADCAST.split(), _broadcast),
    **dict.fromkeys(_REDUCE.split(), _reduce),
    "ArgMax": _arg,
    "ArgMin": _arg,
    "AveragePool": _pool,
    "BatchNormalization": _batch_normalised,
    "BitwiseNot": _same,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant_node,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Identity": _kept,
    "LayerNormalization": _layer_normalised,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Scan": _scan,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

OPERATORS: Final = frozenset(RULES)
"""Every operator that a device runs: one without a rule here is refused by name."""
