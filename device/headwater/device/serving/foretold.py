"""Law: what a model foretold is judged once, when it has come; what never comes, for a gap was in between, is let go.

error = mean over the foretold values of (foretold − came)²          as the fleet's sketch counts it
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.live.feed import Following
from headwater.schemas.statuses import Prediction

MAX_WAITING: Final = 64
"""Forecasts of one source that wait for what they are about; the oldest are let go beyond that."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """A prediction, and all of its values, flat."""

    prediction: Prediction
    values: NDArray[np.float64]


Waiting = tuple[Foretold, ...]
"""In the order of their times."""


def foretold(waiting: Waiting, prediction: Prediction, values: NDArray[Any]) -> Waiting:
    """With one more that waits."""
    return (*waiting, Foretold(prediction, np.asarray(values, np.float64).ravel()))[-MAX_WAITING:]


def came(waiting: Waiting, following: Following) -> tuple[Waiting, Prediction | None]:
    """What waits on, and the prediction that can now be judged, if there is one.

    Windows are followed in their order, so those before this one's will never be.

    Raises:
        ValueError: another number of values came than was foretold.
    """
    later = tuple(one for one in waiting if one.prediction.time > following.at_s)
    mine = next((one for one in waiting if one.prediction.time == following.at_s), None)
    return later, _judged(mine, following) if mine is not None else None


def _judged(mine: Foretold, following: Following) -> Prediction:
    if mine.values.shape != following.values.shape:
        raise ValueError(f"forecast: {mine.values.size} values foretold, {following.values.size} came")
    error = float(np.mean(np.square(mine.values - following.values)))
    threshold = mine.prediction.threshold
    return mine.prediction.model_copy(update={"error": error, "alert": threshold is not None and error > threshold})
