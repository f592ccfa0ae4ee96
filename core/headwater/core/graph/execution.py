"""Law: stock onnxruntime runs a graph here as it does on a device; what it cannot run is refused in its own words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from headwater.core.graph.refusal import UnsupportedModel


class Runnable:
    """A graph in a session of one thread.

    Raises:
        UnsupportedModel: onnxruntime cannot load it.
    """

    def __init__(self, payload: bytes, *, as_written: bool = False) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if as_written:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refused(error) from None
        self.inputs = {value.name: value.type for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """The outputs by name (all by default); what the graph does not take of the feed is left out."""
        names = list(outputs or self.outputs)
        taken = {name: value for name, value in feed.items() if name in self.inputs}
        try:
            return dict(zip(names, self._session.run(names, taken), strict=True))
        except Exception as error:
            raise _refused(error) from None


def run_all(model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Every value of a model by name, as written, inputs included."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = Runnable(shown.SerializeToString(), as_written=True).run(feed)
    return {**{name: np.asarray(value) for name, value in values.items()}, **feed}


def _refused(error: Exception) -> UnsupportedModel:
    # onnxruntime's exceptions have no base of their own.
    return UnsupportedModel(f"model: onnxruntime cannot run its graphs ({str(error).strip().splitlines()[0][:300]})")
