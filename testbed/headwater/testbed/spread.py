"""Law: whatever models are compared, it is device by device: their mean, and the tenth of them where it is worst.

Each device's model is judged twice, on its own test part and on everyone's. A tenth of seven devices is seven tenths of
the worst.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headwater.core.figures import DECILE
from headwater.schemas.tensors import Array
from headwater.testbed.judging import Judge, Measure, Test


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over devices, each counting alike."""

    mean: float
    worst_decile: float


@dataclass(frozen=True, slots=True)
class Compared:
    """What the devices' models reach on each one's own test part, and on everyone's."""

    own: Spread
    everyone: Spread


def spread_of(values: Iterable[float], *, low_is_worst: bool) -> Spread:
    """Raises ValueError where there are no values."""
    ranked = np.sort(np.fromiter(values, dtype=np.float64))
    if not len(ranked):
        raise ValueError("values: there are none")
    ranked = ranked if low_is_worst else ranked[::-1]
    weights = np.clip(DECILE * len(ranked) - np.arange(len(ranked)), 0.0, 1.0)
    return Spread(float(ranked.mean()), float(weights @ ranked / weights.sum()))


def compared(
    judge: Judge, models: Mapping[str, Sequence[Array]], own: Mapping[str, Test], everyone: Test, measure: Measure
) -> Compared:
    """Args: models: by device; own: each device's test."""
    low_is_worst = measure.name == "accuracy"
    on_own = [judge.reached(model, own[device])[measure.name] for device, model in models.items()]
    on_everyones = [judge.reached(model, everyone)[measure.name] for model in models.values()]
    return Compared(
        spread_of(on_own, low_is_worst=low_is_worst),
        spread_of(on_everyones, low_is_worst=low_is_worst),
    )
