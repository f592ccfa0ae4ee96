"""Law: a number is shown with its unit and no more digits than it has; what is unknown is a dash."""

from datetime import datetime, tzinfo
from typing import Final

from headwater.schemas.statuses import RoundStatus

UNKNOWN: Final = "–"
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def size(size_bytes: float | None) -> str:
    """Bytes, in thousands."""
    if size_bytes is None:
        return UNKNOWN
    value, unit = float(size_bytes), 0
    # What would be rounded to a thousand of a unit is one of the next.
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {_UNITS[unit]}"


def numbered(round_: int, step: int) -> str:
    """A round, and where it has several which of its edge rounds."""
    return f"{round_}" + (f".{step}" if step else "")


def turn(status: RoundStatus, before: str = "round ") -> str:
    """A round by its number; what only measures, or only counts, is no round that people asked for."""
    if status.task != "train":
        return {"evaluate": "measurement", "statistics": "statistics"}[status.task]
    return f"{before}{numbered(status.round, status.step)}"


def rate(bytes_per_s: float) -> str:
    return f"{size(bytes_per_s)}/s"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 0.25 s, 12.3 s, 4 min 05 s, 3 h 20 min, 5 d 4 h."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def ago(seconds: float | None) -> str:
    """How long ago something was; only minutes and more are counted exactly enough to be worth a second number."""
    if seconds is None:
        return UNKNOWN
    if seconds < 5:
        return "just now"
    if seconds < 60:
        return f"{seconds:.0f} s ago"
    return f"{duration(seconds)} ago"


def percent(share: float | None, digits: int = 1) -> str:
    return UNKNOWN if share is None else f"{share * 100:.{digits}f} %"


def number(value: float | None, digits: int = 4) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def count(value: int | None) -> str:
    """Thousands apart by a thin space."""
    return UNKNOWN if value is None else f"{value:,}".replace(",", "\u202f")


def plural(value: int, noun: str) -> str:
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def clock(at: float | None, zone: tzinfo, *, now: float | None = None) -> str:
    """A time of day in the reader's zone; with its date where that is not `now`'s."""
    if at is None:
        return UNKNOWN
    try:
        there = datetime.fromtimestamp(at, zone)
    except (ValueError, OverflowError):
        # The first and the last day that there are, in another zone.
        return UNKNOWN
    if now is not None and datetime.fromtimestamp(now, zone).date() == there.date():
        return f"{there:%H:%M:%S}"
    return f"{there:%Y-%m-%d %H:%M:%S}"
