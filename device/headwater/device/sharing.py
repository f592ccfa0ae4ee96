"""Law: of its labels a device tells what its owner allows, with noise drawn once for each state of its data and kept.

    told_c = round(count_c + Lap(1/ε))        for each label c: Dwork et al. 2006, section 3

One example more or less changes one count by one, so that is ε-differentially private for a single telling. Asking
again, and a restart, give the same numbers, for means of many draws would wash the noise out. Data that grow are told
anew only when `TOLD_AGAIN` of them changed; each such telling costs another ε, and their costs add up.

How many labels there are is a fact of the source's description, never of the data, for a label that one example alone
has would show. Of data without classes nothing is told: a feature's histogram would need bounds that nobody gave.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources import Dataset, Source
from headwater.device.state import LocalState
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import SharingSettings
from headwater.schemas.sources import (
    DigitsSource,
    FileSource,
    PreparedSource,
    PythonSource,
    SensorSource,
    SourceSpec,
    WatchSource,
)
from headwater.schemas.statuses import MAX_HISTOGRAM, DataStatus

TOLD_AGAIN: Final = 0.1
"""Relative change of the examples' labels that is worth another telling."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Told:
    """What was told, of which data, with how much noise. `counts` never leave the device."""

    counts: Counts
    epsilon: float
    histogram: tuple[float, ...]


def counted(data: Dataset, classes: int) -> Counts:
    """Training examples by label, int64 `[classes]`; labels beyond are left out."""
    if data.train_y.dtype != np.int64 or data.train_y.ndim != 1:
        return np.zeros(classes, np.int64)
    known = data.train_y[(data.train_y >= 0) & (data.train_y < classes)]
    return np.bincount(known, minlength=classes).astype(np.int64)


def with_noise(counts: Counts, epsilon: float, rng: np.random.Generator) -> tuple[float, ...]:
    """The counts with Laplace noise of scale 1/ε: whole numbers, for the last bits of others would tell of the counts
    (Mironov 2012), and of any sign."""
    return tuple(float(value) for value in np.rint(counts + rng.laplace(scale=1 / epsilon, size=len(counts))) + 0.0)


def is_new(told: Told | None, counts: Counts, epsilon: float) -> bool:
    """Whether these data are to be told of anew."""
    if told is None or told.epsilon != epsilon or len(told.counts) != len(counts):
        return True
    return bool(np.abs(counts - told.counts).sum() > TOLD_AGAIN * told.counts.sum())


def classes_of(settings: SharingSettings, specs: Mapping[str, SourceSpec]) -> dict[str, int]:
    """How many labels there are, by data key; without the keys whose data have no classes.

    Raises:
        ConfigError: it is not said, or they are more than are told.
    """
    unknown = settings.classes.keys() - specs.keys()
    if unknown:
        raise ConfigError(f"sharing.classes.{sorted(unknown)[0]}: this device has no such data; take it out")
    found: dict[str, int] = {}
    for key, spec in specs.items():
        classes = settings.classes.get(key, _described(spec))
        if classes is None:
            raise ConfigError(
                f"sharing.classes.{key}: how many labels there are is not said; give their number, 0 for none"
            )
        if classes > MAX_HISTOGRAM:
            raise ConfigError(f"sharing.histogram: {key} has {classes} labels; at most {MAX_HISTOGRAM} are told")
        if classes:
            found[key] = classes
    return found


def _described(spec: SourceSpec) -> int | None:
    match spec:
        case WatchSource():
            return 7
        case DigitsSource():
            return 10
        case FileSource():
            return len(spec.labels) or spec.classes
        case SensorSource():
            return len(spec.label.labels) or spec.label.classes if spec.label else 0
        case PythonSource() | PreparedSource():
            return None


class Sharing:
    """What one device tells of its labels.

    Args:
        classes: as `classes_of` gives them; empty where nothing is shared.
        entropy: gives a generator that nobody else can follow.
    """

    def __init__(
        self,
        classes: Mapping[str, int],
        epsilon: float,
        state: LocalState,
        entropy: Callable[[], np.random.Generator] = np.random.default_rng,
    ) -> None:
        self._classes = classes
        self._epsilon = epsilon
        self._state = state
        self._entropy = entropy
        self._examples: dict[str, int] = {}
        self._told: dict[str, Told] = {}
        self._one_at_a_time = threading.Lock()

    def with_histogram(self, key: str, status: DataStatus) -> DataStatus:
        """The word on some data, with what is told of their labels."""
        told = self._told.get(key)
        return status if told is None else status.model_copy(update={"histogram": told.histogram})

    async def look(self, sources: Mapping[str, Source]) -> None:
        """Count what is new, or has grown since it was counted. It may read the disk."""
        for key in self._classes:
            status = sources[key].status()
            if status is None or not self._has_grown(key, status.train_examples):
                continue
            data = await asyncio.to_thread(sources[key].snapshot)
            if data is not None:
                await asyncio.to_thread(self.saw, key, data)

    def saw(self, key: str, data: Dataset) -> None:
        """Count these data, which are all that there are now. It writes the disk where they are told of anew."""
        if key in self._classes:
            with self._one_at_a_time:
                self._examples[key] = len(data.train_x)
                self._count(key, data)

    def _has_grown(self, key: str, examples: int) -> bool:
        before = self._examples.get(key)
        return before is None or abs(examples - before) > TOLD_AGAIN * before

    def _count(self, key: str, data: Dataset) -> None:
        told = self._told.get(key) or self._kept(key)
        counts = counted(data, self._classes[key])
        if told is None or is_new(told, counts, self._epsilon):
            told = Told(counts, self._epsilon, with_noise(counts, self._epsilon, self._entropy()))
            # Kept before anyone hears of it: a reboot must not draw again.
            self._state.save_told(key, {"epsilon": self._epsilon}, counts, np.array(told.histogram))
        self._told[key] = told

    def _kept(self, key: str) -> Told | None:
        frame = self._state.told(key)
        if frame is None:
            return None
        try:
            counts, histogram = frame.arrays["counts"], frame.arrays["histogram"]
            return Told(counts, float(frame.header["epsilon"]), tuple(float(value) for value in histogram))
        except (KeyError, TypeError, ValueError):
            return None
