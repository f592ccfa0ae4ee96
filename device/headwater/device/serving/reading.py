"""Law: what a model gives is read by its objective: probabilities and a label, values, or an error and its bound."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from headwater.core.sketch import NAME, quantile
from headwater.device.runtime.onnx_reader import model_class
from headwater.device.serving.decision import Score, Standing
from headwater.schemas.base import Split
from headwater.schemas.limits import MAX_TALLY_LENGTH
from headwater.schemas.manifest import Manifest, Objective
from headwater.schemas.messages import Counts, Errors, Metric
from headwater.schemas.statuses import ModelName, Prediction
from headwater.schemas.tensors import Array, decode_tensor

_SETTLED: Final = ("Softmax", "Sigmoid")
"""Operators that give probabilities, so that none need be made of what a model ends with."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """How the outputs of one model are read. `settled` outputs are probabilities already."""

    objective: Objective
    settled: bool
    labels: tuple[str, ...] = ()
    threshold: float | None = None
    alert_labels: tuple[str, ...] = ()

    @property
    def foretells(self) -> bool:
        """Whether its values are numbers that may come."""
        return self.objective in ("mse", "mae", "huber")

    def prediction(
        self, output: NDArray[Any], x: NDArray[Any], *, node: str, data: str, at_s: float, standing: Standing
    ) -> Prediction:
        """What the model says of x, one example.

        Raises:
            ValueError: it says nothing finite.
        """
        if not np.isfinite(output).all():
            raise ValueError(f"prediction: {standing} gives NaN or infinity")
        said = Prediction(node=node, data=data, time=at_s, model=ModelName(run=standing.run, round=standing.round))
        return said.model_copy(update=self._read(np.asarray(output, np.float64), x))

    def _read(self, output: NDArray[np.float64], x: NDArray[Any]) -> dict[str, Any]:
        flat = output.ravel()
        match self.objective:
            case "cross_entropy":
                return self._classified(flat if self.settled else softmax(flat))
            case "binary_cross_entropy":
                shares = flat if self.settled else 1 / (1 + np.exp(-np.clip(flat, -60, 60)))
                if shares.size == 1:
                    return self._classified(np.array([1 - shares[0], shares[0]]))
                return {"probabilities": _told(shares)}
            case "reconstruction":
                error = float(np.mean(np.square(output - x)))
                beyond = self.threshold is not None and error > self.threshold
                return {"error": error, "threshold": self.threshold, "alert": beyond}
            case _:
                return {"value": _told(flat), "threshold": self.threshold}

    def _classified(self, shares: NDArray[np.float64]) -> dict[str, Any]:
        best = int(np.argmax(shares))
        label = self.labels[best] if best < len(self.labels) else str(best)
        return {"label": label, "probabilities": _told(shares), "alert": label in self.alert_labels}


def meaning_of(
    manifest: Manifest, infer: bytes, *, labels: Sequence[str], threshold: float | None, alert_labels: Sequence[str]
) -> Meaning:
    """How a model is read whose infer graph this is."""
    return Meaning(manifest.objective, _ends_settled(infer), tuple(labels), threshold, tuple(alert_labels))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(scores - scores.max())
    return np.asarray(raised / raised.sum())


def score_of(metrics: Sequence[Metric]) -> Score | None:
    """What a model is judged by: its accuracy where it has one, else its loss."""
    means = {metric.name: metric.total / metric.weight for metric in metrics if metric.weight > 0}
    if "correct" in means:
        return Score("accuracy", means["correct"])
    return Score("loss", means["loss"]) if "loss" in means else None


def threshold_of(tallies: Sequence[Counts], share: float) -> float | None:
    """The squared error that `share` of a device's own test part stays below, or None where nothing was counted."""
    for tally in tallies:
        counts = decode_tensor(tally.values, tally.name)
        if tally.name == NAME and counts.sum() > 0:
            return quantile(counts, share)
    return None


def level_of(errors: Sequence[Errors], kept: Mapping[str, Array]) -> Errors | None:
    """The fleet's errors of the kind of model that this device uses, by what it keeps: a personal one, or the fleet's;
    None where nothing was told of it."""
    split: Split = "personal" if any(name.startswith("personal ") for name in kept) else "test"
    return next((one for one in errors if one.split == split), None)


def _told(values: NDArray[np.float64]) -> tuple[float, ...] | None:
    if values.size > MAX_TALLY_LENGTH:
        return None
    return tuple(0.0 if math.isclose(value, 0.0, abs_tol=1e-12) else float(value) for value in values)


def _ends_settled(infer: bytes) -> bool:
    try:
        graph = model_class().FromString(infer).graph
    except DecodeError:
        return False
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get("prediction")
    while node is not None and node.op_type == "Identity":
        node = makers.get(node.input[0])
    return node is not None and node.op_type in _SETTLED
