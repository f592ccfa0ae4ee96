"""Law: a home's levels are its own: what is much for one is little for another, and no home tells which.

Seventeen homes of Sierra Crest, Fontana, California, a year by the hour (CityLearn challenge 2022). The load is what a
home takes from the grid, its own solar power taken off. From the last 24 hours, the calendar and the weather the
level of the next hour is to be told: low, middle or high, by the thirds of the home's own training hours. Every fourth
week is the test part; a day at each border is left out, so that no hour's load is in both.
"""

import csv
import io
import json
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.testbed.data.parts import Members, Part

FOLDER: Final = "citylearn/data/citylearn_challenge_2022_phase_all"
HOMES: Final = tuple(f"H{number}" for number in range(1, 18))
LAGS: Final = 24
WEEK_H: Final = 168
TEST_EVERY_WEEKS: Final = 4
CALENDAR: Final = 7
WEATHER: Final = (
    "Outdoor Drybulb Temperature [C]",
    "Relative Humidity [%]",
    "Diffuse Solar Radiation [W/m2]",
    "Direct Solar Radiation [W/m2]",
)
FEATURES: Final = LAGS + CALENDAR + len(WEATHER)
LEAST_SPREAD: Final = 0.25
"""Of the standard deviation: a home whose thirds lie close together is scaled by this."""

MOST_SCALED: Final = 8.0


def parts(members: Members) -> dict[str, Part]:
    """A part for each home: 35 features an hour, 3 classes."""
    weather = _columns(members[f"{FOLDER}/weather.csv"], WEATHER)
    told = json.loads(members[f"{FOLDER}/schema.json"])["buildings"]
    found = {}
    for home in HOMES:
        building = f"Building_{home[1:]}"
        names = ("Month", "Hour", "Day Type", "Equipment Electric Power [kWh]", "Solar Generation [W/kW]")
        month, hour, day, used, solar = _columns(members[f"{FOLDER}/{building}.csv"], names).T
        load = used - solar / 1000 * told[building]["pv"]["attributes"]["nominal_power"]
        found[home] = _part(load, calendar(month, hour, day), weather)
    return found


def calendar(month: NDArray[np.float64], hour: NDArray[np.float64], day: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[n, 7]`: the time of day and its half, and of the year, as points on circles; whether it is a weekend."""
    circles = [2 * np.pi * hour / 24, 4 * np.pi * hour / 24, 2 * np.pi * month / 12]
    weekend = (day == 6) | (day == 7)
    return np.stack([*(f(angle) for angle in circles for f in (np.sin, np.cos)), weekend], axis=1)


def _part(load: NDArray[np.float64], times: NDArray[np.float64], weather: NDArray[np.float64]) -> Part:
    """`load` `[n]` in kWh an hour. The hour to be told is `now + 1`."""
    now = np.arange(LAGS - 1, len(load) - 1)
    train, test = _split(now + 1)
    lower, upper = np.quantile(load[now[train] + 1], [1 / 3, 2 / 3])
    spread = max(upper - lower, LEAST_SPREAD * load[now[train] + 1].std())
    scaled = np.clip((load - (lower + upper) / 2) / spread, -MOST_SCALED, MOST_SCALED)
    lags = np.stack([scaled[now - back] for back in range(LAGS)], axis=1)
    x = np.hstack([lags, times[now + 1], weather[now]]).astype(np.float32)
    y = np.digitize(load[now + 1], [lower, upper]).astype(np.int64)
    return Part(x[train], y[train], x[test], y[test])


def _split(hours: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the hours train, and which test. An example looks back `LAGS` hours: so much of a week is left out where
    the week before is of the other part."""
    week, into = np.divmod(hours, WEEK_H)
    last = TEST_EVERY_WEEKS - 1
    is_test, was_test = week % TEST_EVERY_WEEKS == last, (week - 1) % TEST_EVERY_WEEKS == last
    mixed = (into < LAGS) & (is_test != was_test) & (week > 0)
    return ~is_test & ~mixed, is_test & ~mixed


def _columns(table: bytes, names: tuple[str, ...]) -> NDArray[np.float64]:
    """`[n, names]`."""
    return np.array([[float(row[name]) for name in names] for row in csv.DictReader(io.StringIO(table.decode()))])
