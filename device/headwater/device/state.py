"""Law: what outlives a reboot is written beside the old file, synced and renamed over it; what is damaged is no state.

<folder>/checkpoint            the newest long training, after its last finished epoch
<folder>/personal/<run>        the parameters of a run that never leave this device
"""

import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from headwater.device.disk import replace_file
from headwater.device.runtime.frames import Array, Frame, FrameError, parts, read
from headwater.schemas.limits import MAX_OBJECT_SIZE_BYTES

log = logging.getLogger("headwater.device")

PERSONAL_RUNS_KEPT: Final = 8
MAX_STATE_SIZE_BYTES: Final = 6 * MAX_OBJECT_SIZE_BYTES
"""Parameters, three slots of an optimiser for each, and sums."""

MARK: Final = b"headwater state 1\n"


class LocalState:
    """A device's own folder. It is made when there is first something to keep."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_checkpoint(
        self, identity: Mapping[str, Any], header: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> None:
        """Keep where a training stands; `identity` says of which plan."""
        _write(self._folder / "checkpoint", Frame({"of": dict(identity), **header}, arrays))

    def checkpoint(self, identity: Mapping[str, Any]) -> Frame | None:
        """Where the training of just this plan stood."""
        frame = _read(self._folder / "checkpoint")
        return frame if frame is not None and frame.header.get("of") == dict(identity) else None

    def save_personal(self, run: str, arrays: Mapping[str, Array]) -> None:
        """Keep a run's personal parameters; the oldest runs' go."""
        folder = self._folder / "personal"
        _write(folder / run, Frame({}, arrays))
        kept = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in kept[PERSONAL_RUNS_KEPT:]:
            path.unlink(missing_ok=True)

    def personal(self, run: str) -> Mapping[str, Array]:
        """A run's personal parameters by name, or none."""
        frame = _read(self._folder / "personal" / run)
        return frame.arrays if frame is not None else {}


def _write(path: Path, frame: Frame) -> None:
    """All or nothing. A disk that is full costs what would have been kept, not the training."""
    pieces, check = parts(frame), 0
    for piece in pieces:
        check = zlib.crc32(piece, check)
    try:
        replace_file(path, [MARK + check.to_bytes(4, "little"), *pieces])
    except OSError as error:
        log.warning("%s could not be kept: %s; give this device room, or another folder in state", path, error)


def _read(path: Path) -> Frame | None:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_STATE_SIZE_BYTES:
                raise FrameError("too large")
            if file.read(len(MARK)) != MARK:
                raise FrameError("not a state of this version")
            expected, check = int.from_bytes(file.read(4), "little"), 0

            def fill(buffer: memoryview) -> None:
                nonlocal check
                if file.readinto(buffer) != len(buffer):
                    raise FrameError("cut short")
                check = zlib.crc32(buffer, check)

            frame = read(fill, MAX_STATE_SIZE_BYTES)
            if check != expected:
                raise FrameError("its bytes are not those that were written")
            return frame
    except FileNotFoundError:
        return None
    except (OSError, FrameError) as error:
        log.warning("%s is not used: %s; what it held begins anew", path, error)
        return None
