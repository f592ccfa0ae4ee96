"""Law: each process of a testbed may have a wall clock of its own, that jumps when told; no other clock is touched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SHIM: Final = Path(__file__).parent / "shifted_clock"


class Clocks:
    """The wall clocks of named processes; `folder` holds a file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self, name: str, path: str) -> Mapping[str, str]:
        """What a process of this name needs in its environment; `path` is its PYTHONPATH otherwise."""
        return {"PYTHONPATH": f"{_SHIM}:{path}" if path else str(_SHIM), "HW_CLOCK_FILE": str(self._file(name))}

    def shift(self, name: str, seconds: float) -> None:
        """From now on, and over restarts, this clock is so many seconds ahead."""
        self._file(name).write_text(f"{seconds}", encoding="ascii")

    def _file(self, name: str) -> Path:
        return self._folder / name
