"""Law: a model is judged on data that no device trained on, by figures that its objective has.

A classifier by its accuracy, a forecast by its mean absolute error in its own unit. Where a part has judged examples,
an error above the threshold is an alarm, and the alarms are judged too:

    recall       = alarms among anomalies
    false alarms = alarms among sound examples
    precision    = anomalies among alarms
    AUC          = the chance that an anomaly's error is above a sound example's
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.figures import QUANTILES
from headwater.core.sketch import NAME, quantile
from headwater.device.runtime.trainer import Trainer
from headwater.device.sources.dataset import Dataset
from headwater.schemas.manifest import Objective
from headwater.schemas.tensors import Array, decode_tensor
from headwater.testbed.baselines import LIMIT_S

ALARM: Final = "p99"
"""The quantile of sound errors above which an error is an alarm."""

INFERRED_ROWS: Final = 4096
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure as people read it: times `scale`, with so many decimals."""

    name: str
    title: str
    decimals: int = 3
    scale: float = 1.0

    def told(self, value: float) -> str:
        return f"{value * self.scale:.{self.decimals}f}"


AUC: Final = Measure("auc", "Area under the ROC curve")
FALSE_ALARMS: Final = Measure("false_alarms", "false alarms")
LOSS: Final = Measure("loss", "Loss", 4)
ALARMS: Final = (Measure("recall", "recall"), FALSE_ALARMS, Measure("precision", "precision"))


def measure_of(objective: Objective, unit: str = "", scale: float = 1.0) -> Measure:
    """What a model of that objective is judged by first."""
    if objective == "reconstruction":
        return AUC
    if objective in ("cross_entropy", "binary_cross_entropy"):
        return Measure("accuracy", "Accuracy")
    return Measure("absolute_error", f"Mean absolute error{f' in {unit}' if unit else ''}", 1 if unit else 4, scale)


@dataclass(frozen=True, slots=True)
class Judged:
    """Examples whose anomalies are known. x and y as in a `Dataset`, `anomaly` bool `[n]`."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    anomaly: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Test:
    """What a model is judged on: the test part of `data`, and the judged examples where there are some."""

    data: Dataset
    judged: Judged | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges models on named tests."""

    trainer: Trainer
    tests: Mapping[str, Test]

    def figures(self, parameters: Sequence[Array], threshold: float | None) -> dict[str, Figures]:
        """By test; `threshold` is that of the alarm."""
        return {name: self._of_test(parameters, test, threshold) for name, test in self.tests.items()}

    def threshold(self, parameters: Sequence[Array], data: Dataset) -> float | None:
        """The alarm's on the test part of one data set alone, or None where the objective has no sketch."""
        told = self.trainer.evaluate(parameters, data.test_x, data.test_y, time_limit_s=LIMIT_S)
        sketches = [decode_tensor(tally.values) for tally in told.tallies if tally.name == NAME]
        return quantile(sketches[0], QUANTILES[ALARM]) if sketches else None

    def reached(self, parameters: Sequence[Array], test: Test) -> Figures:
        """The objective's own figures on a test part."""
        told = self.trainer.evaluate(parameters, test.data.test_x, test.data.test_y, time_limit_s=LIMIT_S)
        names = {"correct": "accuracy"}
        return {names.get(m.name, m.name): m.total / m.weight for m in told.metrics if m.weight > 0}

    def _of_test(self, parameters: Sequence[Array], test: Test, threshold: float | None) -> Figures:
        figures = self.reached(parameters, test)
        if test.judged is None or threshold is None:
            return figures
        errors = self._errors(parameters, test.judged)
        return figures | {"auc": auc(errors, test.judged.anomaly)} | alarms(errors, test.judged.anomaly, threshold)

    def _errors(self, parameters: Sequence[Array], judged: Judged) -> NDArray[np.float64]:
        """`[n]`: the mean square over an example's outputs, which is what the sketch counts."""
        wanted = judged.x if self.trainer.manifest.objective == "reconstruction" else judged.y
        rows = [slice(begin, begin + INFERRED_ROWS) for begin in range(0, len(judged.x), INFERRED_ROWS)]
        said = [self.trainer.infer(parameters, judged.x[some], slot="judge", time_limit_s=LIMIT_S) for some in rows]
        squares = np.square(np.concatenate(said).astype(np.float64) - wanted)
        return np.asarray(squares.reshape(len(squares), -1).mean(axis=1))


def auc(errors: NDArray[np.float64], anomaly: NDArray[np.bool_]) -> float:
    """The statistic of Mann & Whitney 1947 as a share, a tie counting half; some are anomalies `[n]`, and not all."""
    _, rank, count = np.unique(errors, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2
    of_anomalies = middle[rank][anomaly].sum()
    many, few = int((~anomaly).sum()), int(anomaly.sum())
    return float((of_anomalies - few * (few + 1) / 2) / (few * many))


def alarms(errors: NDArray[np.float64], anomaly: NDArray[np.bool_], threshold: float) -> Figures:
    """How the alarms at a threshold fare. Without any alarm the precision is 0."""
    alarm = errors > threshold
    return {
        "recall": float(alarm[anomaly].mean()),
        "false_alarms": float(alarm[~anomaly].mean()),
        "precision": float(anomaly[alarm].mean()) if alarm.any() else 0.0,
    }
