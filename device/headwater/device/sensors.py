"""Law: power and heat are read where Linux tells them, as they are; a sensor that cannot be read says nothing.

/sys/class/power_supply/<supply>/   type, online, status, capacity, scope
/sys/class/thermal/thermal_zone*/   temp, in thousandths of a degree
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from headwater.device.conditions import Reading, has_rules, missing_sensors, obstacle
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import ConditionSettings

POWER: Final = Path("/sys/class/power_supply")
THERMAL: Final = Path("/sys/class/thermal")


@dataclass(frozen=True, slots=True)
class Sensors:
    """Where a device's sensors are."""

    power: Path = POWER
    thermal: Path = THERMAL

    def reading(self, now: datetime) -> Reading:
        supplies = [supply for supply in _folders(self.power, "*") if _text(supply / "scope") != "Device"]
        batteries = [supply for supply in supplies if _text(supply / "type") == "Battery"]
        levels = [level for battery in batteries if (level := _number(battery / "capacity")) is not None]
        heats = [
            heat for zone in _folders(self.thermal, "thermal_zone*") if (heat := _number(zone / "temp")) is not None
        ]
        return Reading(
            local_time=now.time(),
            charging=_charging(supplies, batteries),
            battery_percent=min(levels, default=None),
            temperature_c=max(heats) / 1000 if heats else None,
        )


def watch(settings: ConditionSettings, sensors: Sensors, clock: Callable[[], datetime]) -> Callable[[], str | None]:
    """A look at the sensors, to be taken again and again: the obstacle to training, or None.

    Raises:
        ConfigError: a rule needs a sensor that this device does not have.
    """
    if not has_rules(settings):
        return lambda: None
    missing = missing_sensors(settings, sensors.reading(clock()))
    if missing:
        folder = sensors.thermal if missing[0] == "max_temperature_c" else sensors.power
        raise ConfigError(f"conditions.{missing[0]}: no sensor for it below {folder}; take the rule out on this device")
    return lambda: obstacle(settings, sensors.reading(clock()))


def _charging(supplies: list[Path], batteries: list[Path]) -> bool | None:
    """On power from outside; a battery's own word counts where no supply says so."""
    online = [state for supply in supplies if (state := _number(supply / "online")) is not None]
    states = [word for battery in batteries if (word := _text(battery / "status"))]
    if not online and not states:
        return None
    return any(online) or any(state in ("Charging", "Full") for state in states)


def _folders(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        yield from sorted(folder.glob(pattern))
    except OSError:
        return


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
