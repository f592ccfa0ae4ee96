"""Law: a model is data. A forward ONNX graph goes in, training graphs of standard operators come out, or a refusal.

forward.py        the owner's model: read once, rewritten, checked, known by its shapes
tape.py           the graph under construction, and the shapes of its values
operators/        one row for each operator: what is accepted, and its backward rule beside it
objective.py      one row for each loss: examples' losses, metrics and the gradient that the walk starts from
update.py         one row for each local optimiser
differentiate.py  the walk, forward and back
step.py           what one step computes, in its variants
compiler.py       the graphs, and the bundle that they make
execution.py      stock onnxruntime, as a device has it
exact.py          the same in float64, for the gate
gate.py           no bundle is published before finite differences agree with it
"""

from headwater.core.graph.compiler import Compiled, compile_bundle, export_inference
from headwater.core.graph.refusal import UnsupportedModel

__all__ = ["Compiled", "UnsupportedModel", "compile_bundle", "export_inference"]
