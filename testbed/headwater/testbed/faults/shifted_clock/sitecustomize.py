"""Law: in a process that finds this first on its PYTHONPATH, the wall clock is off by what a file says, and may jump.

`time.time`, `time.time_ns` and the `now`, `today` and `utcnow` of datetime are shifted; `time.monotonic` is not, as
where a machine's clock is set. libfaketime shifts C code too, but Debian's 0.9.10 makes Python's `time.sleep` fail.
"""

import datetime
import os
import time
from pathlib import Path
from typing import Any, Final

LOOK_EVERY_S: Final = 0.2
_FILE: Final = os.environ.get("HW_CLOCK_FILE")
_real_time, _real_time_ns, _Real = time.time, time.time_ns, datetime.datetime


class _Shift:
    """The seconds that a file holds, read anew every `LOOK_EVERY_S`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._looked_at = float("-inf")
        self._seconds = 0.0

    def seconds(self) -> float:
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            try:
                self._seconds = float(self._file.read_text(encoding="ascii"))
            except (OSError, ValueError):
                # Not there, or half written: what was said before goes on.
                return self._seconds
        return self._seconds


class _LikeTheReal(type):
    """What C code makes is of the real class, and counts as of the shifted one."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _Real)


class _Shifted(datetime.datetime, metaclass=_LikeTheReal):
    # As large as the real one, which C code looks at.
    __slots__ = ()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def today(cls) -> Any:
        return cls.fromtimestamp(time.time())

    @classmethod
    def utcnow(cls) -> Any:
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


def _install(shift: _Shift) -> None:
    time.time = lambda: _real_time() + shift.seconds()
    time.time_ns = lambda: _real_time_ns() + round(shift.seconds() * 1e9)
    _Shifted.__name__ = _Shifted.__qualname__ = "datetime"
    datetime.datetime = _Shifted  # type: ignore[misc]


if _FILE:
    _install(_Shift(Path(_FILE)))
