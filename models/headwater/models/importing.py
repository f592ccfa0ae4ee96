"""Law: a file that comes in is written anew as the compiler reads it, predicts the same, and what changed is said."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from headwater.core.graph import UnsupportedModel
from headwater.core.graph.execution import Runnable
from headwater.core.graph.forward import Forward, read_forward

_SAME: Final = 1e-4
_EXAMPLES: Final = 4


@dataclass(frozen=True, slots=True)
class Imported:
    """The model as a run takes it, and a sentence for each thing that is not as it was."""

    model: bytes
    changes: tuple[str, ...]


def imported(payload: bytes) -> Imported:
    """Write a forward ONNX model anew.

    Raises:
        UnsupportedModel: it cannot be trained, or predicts otherwise when written anew.
    """
    freed, batch = _with_free_batch(payload)
    forward = read_forward(freed)
    model = onnx.ModelProto()
    model.CopyFrom(forward.model)
    kept = [tensor for tensor in model.graph.initializer if _is_used(tensor.name, model)]
    dropped = sorted({tensor.name for tensor in model.graph.initializer} - {tensor.name for tensor in kept})
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    written = bytes(model.SerializeToString())
    changes = [batch] if batch else []
    changes += _differences(onnx.load_from_string(payload), model)
    if dropped:
        changes.append(f"left out, for nothing uses them: {', '.join(dropped)}")
    _check_same(freed, written, forward)
    return Imported(written, tuple(changes))


def shared_parameters(forward: Forward) -> dict[str, list[str]]:
    """Parameters that several nodes take, with these: meant so, or joined by an exporter because they were equal."""
    names = {parameter.name for parameter in forward.parameters}
    takers: dict[str, list[str]] = {}
    for node in forward.nodes:
        for name in sorted(names.intersection(node.input)):
            takers.setdefault(name, []).append(node.name or node.output[0])
    return {name: nodes for name, nodes in takers.items() if len(nodes) > 1}


def _with_free_batch(payload: bytes) -> tuple[bytes, str | None]:
    """The first axis of the input and the output without a size."""
    try:
        model = onnx.load_from_string(payload)
    except DecodeError:
        return payload, None  # The reader says what is wrong with it.
    weights = {tensor.name for tensor in model.graph.initializer}
    ends = [value for value in (*model.graph.input, *model.graph.output) if value.name not in weights]
    fixed = [value for value in ends if value.type.tensor_type.shape.dim[:1] and _size(value)]
    if not fixed:
        return payload, None
    size = _size(fixed[0])
    for value in fixed:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.ClearField("value_info")
    return bytes(model.SerializeToString()), f"the batch was fixed at {size}, and may now be of any size"


def _size(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.shape.dim[0].dim_value)


def _is_used(name: str, model: onnx.ModelProto) -> bool:
    return any(name in node.input for node in model.graph.node) or any(name == o.name for o in model.graph.output)


def _differences(old: onnx.ModelProto, new: onnx.ModelProto) -> list[str]:
    changes = []
    before, after = (max((e.version for e in m.opset_import if not e.domain), default=0) for m in (old, new))
    if before != after:
        changes.append(f"opset {before} became {after}")
    if old.ir_version != new.ir_version:
        changes.append(f"IR version {old.ir_version} became {new.ir_version}")
    counts = Counter(node.op_type for node in old.graph.node)
    gone = counts - Counter(node.op_type for node in new.graph.node)
    if gone:
        each = ", ".join(f"{count} {operator}" for operator, count in sorted(gone.items()))
        changes.append(f"said with other operators: {each}")
    modes = sum(attribute.name == "training_mode" for node in old.graph.node for attribute in node.attribute)
    if modes:
        changes.append(f"{modes} nodes were in training mode, and are now as for inference")
    return changes


def _check_same(before: bytes, after: bytes, forward: Forward) -> None:
    x = np.random.default_rng(0).normal(0, 1, [size or _EXAMPLES for size in forward.shapes[forward.x]])
    feed = {forward.x: x.astype(np.float32)}
    one, other = (Runnable(payload, as_written=True).run(feed)[forward.output] for payload in (before, after))
    if not np.abs(one - other).max(initial=0.0) <= _SAME * max(1.0, float(np.abs(one).max(initial=0.0))):
        raise UnsupportedModel(
            f"output {forward.output!r}: written anew, the model predicts otherwise; please report it with the file"
        )
