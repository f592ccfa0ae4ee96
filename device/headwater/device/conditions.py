"""Law: training stands behind the device's own work: it waits for power, cool and the right hour, and says for which.

The decision is pure: settings and one reading in, a sentence or None out.
"""

from dataclasses import dataclass
from datetime import time

from headwater.schemas.settings import ConditionSettings


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sensors say now; None where there is no such sensor."""

    local_time: time
    charging: bool | None = None
    battery_percent: float | None = None
    temperature_c: float | None = None


def obstacle(settings: ConditionSettings, reading: Reading) -> str | None:
    """Why the device should not train now. A sensor that has gone silent is an obstacle too."""
    for why in (
        _power(settings, reading),
        _battery(settings, reading),
        _heat(settings, reading),
        _hour(settings, reading),
    ):
        if why is not None:
            return why
    return None


def has_rules(settings: ConditionSettings) -> bool:
    """Whether anything is to be looked at."""
    given = (settings.only_while_charging, settings.min_battery_percent, settings.hours)
    return any(given) or settings.max_temperature_c is not None


def missing_sensors(settings: ConditionSettings, reading: Reading) -> tuple[str, ...]:
    """The settings that need a sensor which this device does not have."""
    needed = {
        "only_while_charging": settings.only_while_charging and reading.charging is None,
        "min_battery_percent": settings.min_battery_percent > 0 and reading.battery_percent is None,
        "max_temperature_c": settings.max_temperature_c is not None and reading.temperature_c is None,
    }
    return tuple(name for name, missing in needed.items() if missing)


def pause_s(settings: ConditionSettings, busy_s: float) -> float:
    """How long to rest after so much work, for the share of one core that training may take."""
    return busy_s * (1 / settings.max_cpu_share - 1)


def within(hours: str, now: time) -> bool:
    """Whether a time is in a window like 22:00-06:00; its end is outside. Equal ends are the whole day."""
    begin, end = (time.fromisoformat(part) for part in hours.split("-"))
    if begin == end:
        return True
    return begin <= now < end if begin < end else now >= begin or now < end


def _power(settings: ConditionSettings, reading: Reading) -> str | None:
    if settings.only_while_charging and not reading.charging:
        return "not on power, and conditions.only_while_charging is set"
    return None


def _battery(settings: ConditionSettings, reading: Reading) -> str | None:
    least, level = settings.min_battery_percent, reading.battery_percent
    if least > 0 and (level is None or level < least):
        return f"battery at {_told(level)} %, below conditions.min_battery_percent {least:g}"
    return None


def _heat(settings: ConditionSettings, reading: Reading) -> str | None:
    most, heat = settings.max_temperature_c, reading.temperature_c
    if most is not None and (heat is None or heat > most):
        return f"at {_told(heat)} °C, above conditions.max_temperature_c {most:g}"
    return None


def _hour(settings: ConditionSettings, reading: Reading) -> str | None:
    if settings.hours is not None and not within(settings.hours, reading.local_time):
        return f"it is {reading.local_time:%H:%M}, outside conditions.hours {settings.hours}"
    return None


def _told(value: float | None) -> str:
    return "an unknown number of" if value is None else f"{value:g}"
