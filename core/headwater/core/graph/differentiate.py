"""Law: forward runs node by node as each row says; backward is one walk in reverse that adds where gradients meet."""

from collections.abc import Mapping, Sequence

import onnx

from headwater.core.graph.forward import depending
from headwater.core.graph.operators import OPERATORS, attributes_of
from headwater.core.graph.tape import Tape


def run_forward(tape: Tape, nodes: Sequence[onnx.NodeProto]) -> None:
    """Append what each node means in this tape's kind of graph."""
    for node in nodes:
        emit = OPERATORS[node.op_type].forward
        if emit is None:
            tape.nodes.append(node)
        else:
            emit(tape, node, attributes_of(node))


def gradients(tape: Tape, nodes: Sequence[onnx.NodeProto], seed: Mapping[str, str], wanted: set[str]) -> dict[str, str]:
    """Reverse-mode differentiation: the name of the gradient of each value of `wanted` that the seeds depend on."""
    depends = depending(nodes, wanted)
    arriving: dict[str, list[str]] = {name: [gradient] for name, gradient in seed.items()}
    for node in reversed(nodes):
        grads = [tape.total(arriving.pop(name)) if name in arriving else None for name in node.output]
        if not any(grads) or not depends.intersection(node.output):
            continue
        back = OPERATORS[node.op_type].backward(tape, node, attributes_of(node), *grads[: _outputs(node)])
        for name, grad in zip(node.input, back, strict=False):
            if grad is not None and name in depends:
                arriving.setdefault(name, []).append(grad)
    return {name: tape.total(terms) for name, terms in arriving.items() if name in wanted}


def _outputs(node: onnx.NodeProto) -> int:
    return min(len(node.output), OPERATORS[node.op_type].outputs)
