"""Law: a turbine learns what its power should be; that it is less is the alarm, and nobody labels anything for it.

La Haute Borne, France (ENGIE, open data): four Senvion MM82 of 2,050 kW, 2014 and 2015, by ten minutes. An example is
three hours in which the turbine ran, one begins every hour: from the winds, and by the hour the vane, the outdoor
temperature and the wind's direction, the mean power is to be told. 2014 is the training part, the first half of 2015
the test part.

The farm's log has no faults, so some are made in the second half of 2015, which only who judges sees: on half of its
days, a third each, the power is a quarter less, or held below a third of the rated, or the wind is told a sixth less.
"""

import csv
import io
import zipfile
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.testbed.data.parts import Members, Part

MEMBER: Final = "examples/data/la_haute_borne.zip"
TABLE: Final = "la-haute-borne-data-2014-2015.csv"
MAX_TABLE_SIZE_BYTES: Final = 64 * 1024 * 1024
TURBINES: Final = ("R80711", "R80721", "R80736", "R80790")
RATED_KW: Final = 2050.0
HOUR: Final = 6
"""Steps of an hour."""

STEPS: Final = 3 * HOUR
FEATURES: Final = STEPS + 4 * STEPS // HOUR
MAX_PITCH_DEGREES: Final = 45.0
"""Beyond, the blades are turned out of the wind: the turbine stands."""

MAX_OUTDOOR_C: Final = 60.0
"""In size: beyond it the thermometer was broken."""

TEST_FROM: Final = np.datetime64("2015-01-01T00:00")
JUDGED_FROM: Final = np.datetime64("2015-07-01T00:00")
SEED: Final = 20150701
_TEN_MINUTES: Final = np.timedelta64(10, "m")
_COLUMNS: Final = ("Ws_avg", "Va_avg", "Ot_avg", "Wa_avg", "P_avg", "Ba_avg")
WIND, VANE, OUTDOOR, DIRECTION, POWER, PITCH = range(len(_COLUMNS))

Windows = NDArray[np.float64]
"""`[n, 18, 6]`: steps by columns."""


def parts(members: Members) -> dict[str, Part]:
    """A part for each turbine: 30 features, and one power as a share of the rated."""
    readings = _readings(members[MEMBER])
    return {turbine: _part(*_windows(*readings[turbine]), number) for number, turbine in enumerate(TURBINES)}


def _readings(archive: bytes) -> dict[str, tuple[NDArray[np.datetime64], NDArray[np.float64]]]:
    """The times and columns of each turbine. Raises ValueError where the table is larger than it should be."""
    with zipfile.ZipFile(io.BytesIO(archive)) as inner, inner.open(TABLE) as file:
        text = file.read(MAX_TABLE_SIZE_BYTES + 1)
    if len(text) > MAX_TABLE_SIZE_BYTES:
        raise ValueError(f"{TABLE}: more than {MAX_TABLE_SIZE_BYTES} bytes")
    times: dict[str, list[np.datetime64]] = {turbine: [] for turbine in TURBINES}
    values: dict[str, list[list[float]]] = {turbine: [] for turbine in TURBINES}
    for row in csv.DictReader(io.StringIO(text.decode())):
        if row["P_avg"]:
            times[row["Wind_turbine_name"]].append(_utc(row["Date_time"]))
            values[row["Wind_turbine_name"]].append([float(row[name]) for name in _COLUMNS])
    return {turbine: (np.array(times[turbine]), np.array(values[turbine])) for turbine in TURBINES}


def _utc(told: str) -> np.datetime64:
    """Of `2014-01-01T01:00:00+01:00`."""
    return np.datetime64(told[:16]) - np.timedelta64(int(told[19:22]), "h")


def _windows(times: NDArray[np.datetime64], values: NDArray[np.float64]) -> tuple[NDArray[np.datetime64], Windows]:
    """When each window begins, and its readings: those from which no step is missing, in which the turbine ran."""
    times, first = np.unique(times, return_index=True)
    starts = np.flatnonzero(times == times.astype("datetime64[h]"))
    starts = starts[starts + STEPS <= len(times)]
    whole = starts[times[starts + STEPS - 1] - times[starts] == (STEPS - 1) * _TEN_MINUTES]
    table = values[first][whole[:, None] + np.arange(STEPS)]
    ran = (table[:, :, POWER].min(1) > 0) & (np.abs(table[:, :, PITCH]).max(1) < MAX_PITCH_DEGREES)
    sensible = np.abs(table[:, :, OUTDOOR]).max(1) < MAX_OUTDOOR_C
    return times[whole][ran & sensible], table[ran & sensible]


def _part(times: NDArray[np.datetime64], windows: Windows, number: int) -> Part:
    """A window that would reach into the next part is in none."""
    ends = times + STEPS * _TEN_MINUTES
    train, judged = ends <= TEST_FROM, times >= JUDGED_FROM
    test = (times >= TEST_FROM) & (ends <= JUDGED_FROM)
    changed, faulty = with_faults(times[judged], windows[judged], np.random.default_rng([SEED, number]))
    return Part(
        inputs(windows[train]),
        powers(windows[train]),
        inputs(windows[test]),
        powers(windows[test]),
        inputs(changed),
        powers(changed),
        faulty,
    )


def inputs(windows: Windows) -> NDArray[np.float32]:
    """`[n, 30]`: 18 wind speeds; 3 hours' means of vane, outdoor temperature, sine and cosine of the direction."""
    angle = np.radians(windows[:, :, DIRECTION])
    slow = [windows[:, :, VANE], windows[:, :, OUTDOOR], np.sin(angle), np.cos(angle)]
    by_hour = [channel.reshape(len(windows), -1, HOUR).mean(2) for channel in slow]
    return np.asarray(np.hstack([windows[:, :, WIND], *by_hour]), dtype=np.float32)


def powers(windows: Windows) -> NDArray[np.float32]:
    """`[n, 1]`: the mean, of the rated power."""
    return np.asarray(windows[:, :, POWER].mean(1, keepdims=True) / RATED_KW, dtype=np.float32)


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _soiled(windows: Windows) -> None:
    windows[:, :, POWER] *= 0.75


def _held(windows: Windows) -> None:
    windows[:, :, POWER] = np.minimum(windows[:, :, POWER], RATED_KW / 3)


def _slow_anemometer(windows: Windows) -> None:
    windows[:, :, WIND] *= 5 / 6


FAULTS: Final[tuple[Callable[[Windows], None], ...]] = (_soiled, _held, _slow_anemometer)


def with_faults(
    times: NDArray[np.datetime64], windows: Windows, rng: np.random.Generator
) -> tuple[Windows, NDArray[np.bool_]]:
    """The windows with faults on half of the days, each kind on a third of those, and which of them are changed.

    A window that a fault does not change (the power is below the cap) is sound.
    """
    days = times.astype("datetime64[D]")
    known = np.unique(days)
    drawn = np.full(len(known), -1)
    drawn[rng.permutation(len(known))[: len(known) // 2]] = np.arange(len(known) // 2) % len(FAULTS)
    kinds = drawn[np.searchsorted(known, days)]
    changed = windows.copy()
    for kind, fault in enumerate(FAULTS):
        rows = changed[kinds == kind]
        fault(rows)
        changed[kinds == kind] = rows
    return changed, np.asarray((changed != windows).any(axis=(1, 2)))
