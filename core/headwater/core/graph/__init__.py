"""Law: a model is data. A forward ONNX graph goes in, training graphs of standard operators come out, or a refusal.

tape.py       the graph under construction, and the shapes of its values
operators.py  one row for each operator: what is accepted, and its backward rule beside it
objective.py  one row for each loss: examples' losses, metrics and the gradient that the walk starts from
compiler.py   the walk, and the bundle that it makes
gate.py       no bundle is published before finite differences agree with it
"""

from headwater.core.graph.compiler import Compiled, compile_bundle, export_inference
from headwater.core.graph.refusal import UnsupportedModel

__all__ = ["Compiled", "UnsupportedModel", "compile_bundle", "export_inference"]
