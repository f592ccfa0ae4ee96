"""Law: a turbine learns what its power should be; that it is less is the alarm, and nobody labels anything for it.

La Haute Borne, France (ENGIE, open data): four Senvion MM82 of 2,050 kW, 2014 and 2015, by ten minutes. An example is
an hour in which the turbine ran: six times wind speed, vane, outdoor temperature and the wind's direction, to tell six
times the power. 2014 is the training part, the first half of 2015 the test part.

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
STEPS: Final = 6
CHANNELS: Final = 5
FEATURES: Final = STEPS * CHANNELS
MAX_PITCH_DEGREES: Final = 45.0
"""Beyond, the blades are turned out of the wind: the turbine stands."""

TEST_FROM: Final = np.datetime64("2015-01-01T00:00")
JUDGED_FROM: Final = np.datetime64("2015-07-01T00:00")
SEED: Final = 20150701
_TEN_MINUTES: Final = np.timedelta64(10, "m")
_COLUMNS: Final = ("Ws_avg", "Va_avg", "Ot_avg", "Wa_avg", "P_avg", "Ba_avg")
WIND, VANE, OUTDOOR, DIRECTION, POWER, PITCH = range(len(_COLUMNS))

Hours = NDArray[np.float64]
"""`[hours, 6, 6]`: steps by columns."""


def parts(members: Members) -> dict[str, Part]:
    """A part for each turbine: 30 features an hour, 6 powers as shares of the rated."""
    readings = _readings(members[MEMBER])
    return {turbine: _part(*_hours(*readings[turbine]), number) for number, turbine in enumerate(TURBINES)}


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


def _hours(times: NDArray[np.datetime64], values: NDArray[np.float64]) -> tuple[NDArray[np.datetime64], Hours]:
    """The hours that are there whole, in which the turbine ran all the time."""
    times, first = np.unique(times, return_index=True)
    hour = times.astype("datetime64[h]")
    starts = np.flatnonzero(times == hour)
    starts = starts[starts + STEPS <= len(times)]
    whole = starts[times[starts + STEPS - 1] - times[starts] == (STEPS - 1) * _TEN_MINUTES]
    table = values[first][whole[:, None] + np.arange(STEPS)]
    ran = (table[:, :, POWER].min(1) > 0) & (np.abs(table[:, :, PITCH]).max(1) < MAX_PITCH_DEGREES)
    sensible = np.abs(table[:, :, OUTDOOR]).max(1) < 60
    return times[whole][ran & sensible], table[ran & sensible]


def _part(times: NDArray[np.datetime64], hours: Hours, number: int) -> Part:
    train, judged = times < TEST_FROM, times >= JUDGED_FROM
    test = ~train & ~judged
    changed, faulty = with_faults(times[judged], hours[judged], np.random.default_rng([SEED, number]))
    return Part(
        inputs(hours[train]),
        powers(hours[train]),
        inputs(hours[test]),
        powers(hours[test]),
        inputs(changed),
        powers(changed),
        faulty,
    )


def inputs(hours: Hours) -> NDArray[np.float32]:
    """`[n, 30]`: wind speed, vane, outdoor temperature, sine and cosine of the wind's direction, step by step."""
    angle = np.radians(hours[:, :, DIRECTION])
    channels = [hours[:, :, WIND], hours[:, :, VANE], hours[:, :, OUTDOOR], np.sin(angle), np.cos(angle)]
    return np.stack(channels, axis=2).reshape(len(hours), FEATURES).astype(np.float32)


def powers(hours: Hours) -> NDArray[np.float32]:
    """`[n, 6]`, of the rated power."""
    return (hours[:, :, POWER] / RATED_KW).astype(np.float32)


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _soiled(hours: Hours) -> None:
    hours[:, :, POWER] *= 0.75


def _held(hours: Hours) -> None:
    hours[:, :, POWER] = np.minimum(hours[:, :, POWER], RATED_KW / 3)


def _slow_anemometer(hours: Hours) -> None:
    hours[:, :, WIND] *= 5 / 6


FAULTS: Final[tuple[Callable[[Hours], None], ...]] = (_soiled, _held, _slow_anemometer)


def with_faults(
    times: NDArray[np.datetime64], hours: Hours, rng: np.random.Generator
) -> tuple[Hours, NDArray[np.bool_]]:
    """The hours with faults on half of the days, each kind on a third of those, and which hours are changed.

    An hour that a fault does not change (the power is below the cap) is sound.
    """
    days = times.astype("datetime64[D]")
    known = np.unique(days)
    drawn = np.full(len(known), -1)
    drawn[rng.permutation(len(known))[: len(known) // 2]] = np.arange(len(known) // 2) % len(FAULTS)
    kinds = drawn[np.searchsorted(known, days)]
    changed = hours.copy()
    for kind, fault in enumerate(FAULTS):
        rows = changed[kinds == kind]
        fault(rows)
        changed[kinds == kind] = rows
    return changed, np.asarray((changed != hours).any(axis=(1, 2)))
