"""Law: an operator is one row: what of it is accepted, and its backward rule beside it.

A backward rule takes the gradients of the node's outputs and gives that of each input by position (None: not
differentiable or not needed). Rules are those of reverse-mode differentiation, Griewank & Walther 2008, chapter 3.

elementwise.py  linear.py  shaping.py  reducing.py  convolution.py  batch_norm.py  recurrent.py     rows by kind
window.py  depthwise.py  cells.py                                            what the larger of them are made of
composite.py                                             operators that are rewritten into those before anything else
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import onnx

from headwater.core.graph.operators.batch_norm import BATCH_NORM
from headwater.core.graph.operators.composite import COMPOSITES
from headwater.core.graph.operators.convolution import CONVOLUTION
from headwater.core.graph.operators.elementwise import ELEMENTWISE
from headwater.core.graph.operators.linear import LINEAR
from headwater.core.graph.operators.recurrent import RECURRENT
from headwater.core.graph.operators.reducing import REDUCING
from headwater.core.graph.operators.row import Operator, given, refuse, where
from headwater.core.graph.operators.shaping import SHAPING
from headwater.core.graph.refusal import UnsupportedModel
from headwater.core.graph.tape import Shape

OPERATORS: Final[dict[str, Operator]] = {
    **ELEMENTWISE,
    **LINEAR,
    **SHAPING,
    **REDUCING,
    **CONVOLUTION,
    **BATCH_NORM,
    **RECURRENT,
}

SUPPORTED: Final = tuple(sorted({*OPERATORS, *COMPOSITES}))

MENDS: Final = {
    "Einsum": "write it with Transpose, Reshape and MatMul",
    "If": "export the branch that is taken",
    "LRN": "use BatchNormalization or GroupNormalization",
    "Loop": "use GRU, LSTM or RNN, or unroll it",
    "LpPool": "use AveragePool",
    "RandomNormalLike": "use Dropout, whose draws follow from the plan's seed",
    "RandomUniformLike": "use Dropout, whose draws follow from the plan's seed",
    "Resize": "use ConvTranspose, or Reshape and Expand",
    "Scan": "use GRU, LSTM or RNN",
    "Selu": "use Elu and Mul",
    "Upsample": "use ConvTranspose, or Reshape and Expand",
}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes over the operator's defaults.

    Raises:
        UnsupportedModel: an operator, a domain or an attribute that has no rule.
    """
    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedModel(f"{where(node)}: domain {node.domain!r}; export with standard ONNX operators only")
    row = OPERATORS.get(node.op_type)
    if row is None:
        mend = MENDS.get(node.op_type)
        raise UnsupportedModel(
            f"{where(node)}: operator {node.op_type} cannot be trained yet; "
            + (f"{mend}; " if mend else "")
            + f"supported are {', '.join(SUPPORTED)}"
        )
    named = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    unknown = sorted(named.keys() - row.attributes.keys())
    if unknown:
        raise UnsupportedModel(
            f"{where(node)}: {node.op_type} with {', '.join(unknown)}; leave it out, supported are "
            f"{', '.join(sorted(row.attributes)) or 'none'}"
        )
    return {**row.attributes, **named}


def check_at_sight(node: onnx.NodeProto) -> None:
    """Raises UnsupportedModel for what a node's own text forbids."""
    attributes, row = attributes_of(node), OPERATORS[node.op_type]
    if row.at_sight is not None:
        row.at_sight(node, attributes)


def check_node(node: onnx.NodeProto, shapes: Mapping[str, Shape], used: set[str], constants: Iterable[str]) -> None:
    """Raises UnsupportedModel where shapes forbid a node, an extra output is used, or a fixed input is computed."""
    row = OPERATORS[node.op_type]
    computed = [place for place in row.fixed if given(node, place) and node.input[place] not in constants]
    if computed:
        raise refuse(
            node,
            f"whose input {computed[0]} {node.input[computed[0]]!r} is computed or trains; no gradient goes through "
            "it, make it a constant",
        )
    extra = [name for name in node.output[row.outputs :] if name in used]
    if extra:
        raise refuse(node, f"whose output {extra[0]!r} is used; only the first {row.outputs} can be")
    if row.check is not None:
        row.check(node, attributes_of(node), shapes)
