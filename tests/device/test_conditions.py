"""When a device trains beside its own work: each rule, its sensor, and what is said when it does not hold."""

import re
from collections.abc import Mapping
from datetime import datetime, time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.device.conditions import Reading, missing_sensors, obstacle, pause_s, within
from headwater.device.sensors import Sensors, watch
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import ConditionSettings

NOON = time(12, 0)
NOW = datetime(2026, 3, 1, 12, 0)


def rules(**given_: object) -> ConditionSettings:
    return ConditionSettings.model_validate(given_)


CASES = {
    "no rules": ({}, Reading(NOON), None),
    "no rules on a hot empty battery": ({}, Reading(NOON, False, 1.0, 99.0), None),
    "plugged in": ({"only_while_charging": True}, Reading(NOON, charging=True), None),
    "not plugged in": ({"only_while_charging": True}, Reading(NOON, charging=False), "not on power"),
    "power not known any more": ({"only_while_charging": True}, Reading(NOON), "not on power"),
    "full enough": ({"min_battery_percent": 40.0}, Reading(NOON, battery_percent=40.0), None),
    "not full enough": ({"min_battery_percent": 40.0}, Reading(NOON, battery_percent=39.0), "battery at 39 %, below"),
    "battery gone": ({"min_battery_percent": 40.0}, Reading(NOON), "an unknown number of %"),
    "cool": ({"max_temperature_c": 70.0}, Reading(NOON, temperature_c=70.0), None),
    "hot": ({"max_temperature_c": 70.0}, Reading(NOON, temperature_c=70.5), "at 70.5 °C, above .* 70"),
    "heat not known any more": ({"max_temperature_c": 70.0}, Reading(NOON), "unknown number of °C"),
    "in its hours": ({"hours": "11:00-13:00"}, Reading(NOON), None),
    "outside its hours": ({"hours": "22:00-06:00"}, Reading(NOON), "it is 12:00, outside conditions.hours 22:00-06:00"),
    "all hold": (
        {"only_while_charging": True, "min_battery_percent": 10.0, "max_temperature_c": 70.0, "hours": "00:00-23:59"},
        Reading(NOON, True, 50.0, 40.0),
        None,
    ),
    "one of all does not": (
        {"only_while_charging": True, "min_battery_percent": 10.0, "max_temperature_c": 30.0},
        Reading(NOON, True, 50.0, 40.0),
        "at 40 °C",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_and_a_reading(name: str) -> None:
    given_, reading, says = CASES[name]
    why = obstacle(rules(**given_), reading)
    assert (why is None) if says is None else re.search(says, why or "")


HOURS = [
    ("22:00-06:00", "21:59", False),
    ("22:00-06:00", "22:00", True),
    ("22:00-06:00", "00:00", True),
    ("22:00-06:00", "05:59", True),
    ("22:00-06:00", "06:00", False),
    ("08:30-17:00", "08:29", False),
    ("08:30-17:00", "08:30", True),
    ("08:30-17:00", "17:00", False),
    ("00:00-00:00", "13:00", True),
]


@pytest.mark.parametrize(("hours", "now", "inside"), HOURS)
def test_a_window_of_hours(hours: str, now: str, inside: bool) -> None:
    assert within(hours, time.fromisoformat(now)) is inside


@given(st.times(), st.times(), st.times())
def test_a_window_and_its_turn_share_no_moment(begin: time, end: time, now: time) -> None:
    one, other = f"{begin:%H:%M}-{end:%H:%M}", f"{end:%H:%M}-{begin:%H:%M}"
    if f"{begin:%H:%M}" != f"{end:%H:%M}":
        assert within(one, now) != within(other, now)


@pytest.mark.parametrize("hours", ["24:00-06:00", "22-06", "22:00", "22:60-06:00", "22:00-06:00 "])
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(ValidationError, match="hours"):
        rules(hours=hours)


@pytest.mark.parametrize(("share", "rest_s"), [(1.0, 0.0), (0.5, 0.3), (0.25, 0.9), (0.1, 2.7)])
def test_the_rest_that_a_share_asks_for(share: float, rest_s: float) -> None:
    assert pause_s(rules(max_cpu_share=share), 0.3) == pytest.approx(rest_s)


# ── sensors ─────────────────────────────────────────────────────────────────────────────────────────────────────

Supplies = Mapping[str, Mapping[str, str]]
MAINS_ON = {"AC": {"type": "Mains", "online": "1"}}
MAINS_OFF = {"AC": {"type": "Mains", "online": "0"}}


def battery(status: str = "Discharging", capacity: str = "80", **more: str) -> Supplies:
    return {"BAT0": {"type": "Battery", "status": status, "capacity": capacity, **more}}


def sensors(folder: Path, supplies: Supplies, zones: Mapping[str, str] | None = None) -> Sensors:
    for supply, files in supplies.items():
        (folder / "power" / supply).mkdir(parents=True)
        for name, text in files.items():
            (folder / "power" / supply / name).write_text(text + "\n")
    for zone, text in (zones or {}).items():
        (folder / "thermal" / zone).mkdir(parents=True)
        (folder / "thermal" / zone / "temp").write_text(text + "\n")
    return Sensors(folder / "power", folder / "thermal")


SUPPLIES: dict[str, tuple[Supplies, bool | None, float | None]] = {
    "nothing": ({}, None, None),
    "mains": (MAINS_ON, True, None),
    "mains, unplugged": (MAINS_OFF, False, None),
    "a laptop on its battery": ({**MAINS_OFF, **battery()}, False, 80.0),
    "a laptop plugged in and full enough": ({**MAINS_ON, **battery("Not charging")}, True, 80.0),
    "a board that knows only its battery": (battery("Charging", "17"), True, 17.0),
    "full": (battery("Full", "100"), True, 100.0),
    "its battery and a mouse's": (
        {**battery(), "mouse": {"type": "Battery", "scope": "Device", "status": "Charging", "capacity": "3"}},
        False,
        80.0,
    ),
    "two batteries": (
        {**battery(), "BAT1": {"type": "Battery", "status": "Discharging", "capacity": "12"}},
        False,
        12.0,
    ),
    "nonsense": ({"BAT0": {"type": "Battery", "status": "", "capacity": "soon"}}, None, None),
    "usb": ({"usb": {"type": "USB", "online": "1"}, **battery()}, True, 80.0),
}


@pytest.mark.parametrize("name", SUPPLIES)
def test_supplies_as_linux_tells_of_them(name: str, tmp_path: Path) -> None:
    supplies, charging, percent = SUPPLIES[name]
    reading = sensors(tmp_path, supplies).reading(NOW)
    assert (reading.charging, reading.battery_percent) == (charging, percent)


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    zones = {"thermal_zone0": "41250", "thermal_zone1": "55500", "thermal_zone2": "no", "cooling_device0": "99000"}
    assert sensors(tmp_path, {}, zones).reading(NOW).temperature_c == 55.5
    assert Sensors(tmp_path / "none", tmp_path / "none").reading(NOW) == Reading(NOON)


@pytest.mark.parametrize(
    ("given_", "where"),
    [
        ({"only_while_charging": True}, "power"),
        ({"min_battery_percent": 5.0}, "power"),
        ({"max_temperature_c": 70.0}, "thermal"),
    ],
)
def test_a_rule_without_its_sensor_stops_the_start(given_: dict[str, object], where: str, tmp_path: Path) -> None:
    there = sensors(tmp_path, {})
    assert missing_sensors(rules(**given_), there.reading(NOW)) == tuple(given_)
    with pytest.raises(ConfigError, match=rf"conditions\.{next(iter(given_))}: no sensor for it below .*{where}; take"):
        watch(rules(**given_), there, lambda: NOW)


def test_a_watch_looks_again_each_time(tmp_path: Path) -> None:
    there = sensors(tmp_path, MAINS_ON)
    look = watch(rules(only_while_charging=True), there, lambda: NOW)
    assert look() is None
    (tmp_path / "power" / "AC" / "online").write_text("0\n")
    assert look() == "not on power, and conditions.only_while_charging is set"
    (tmp_path / "power" / "AC" / "online").unlink()
    assert look() == "not on power, and conditions.only_while_charging is set"
