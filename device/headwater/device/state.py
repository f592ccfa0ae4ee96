"""Law: what outlives a reboot is written beside the old file, synced and renamed over it; what is damaged is no state.

<folder>/checkpoint            the newest long training, after its last finished epoch
<folder>/memory/<run>          what a run's methods keep between rounds, which never leaves this device
<folder>/told/<data key>       what was told of its labels, with the noise that was drawn for it
"""

import logging
import os
import threading
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from headwater.core.local import Memory
from headwater.core.local import memory as memories
from headwater.device.disk import replace_file
from headwater.device.runtime.frames import Array, Frame, FrameError, parts, read
from headwater.schemas.limits import MAX_OBJECT_SIZE_BYTES

log = logging.getLogger("headwater.device")

RUNS_KEPT: Final = 8
MAX_STATE_SIZE_BYTES: Final = 10 * MAX_OBJECT_SIZE_BYTES
"""Parameters, three slots of an optimiser for each, and sums; and the plan's trainings that are done."""

MARK: Final = b"headwater state 1\n"


def training_state(state: Path, node: str) -> Path:
    """Where a device keeps this, below the folder that its settings name."""
    return state / "training" / node


class LocalState:
    """A device's own folder. It is made when there is first something to keep."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._one_at_a_time = threading.Lock()

    def save_checkpoint(
        self, identity: Mapping[str, Any], header: Mapping[str, Any], arrays: Mapping[str, Array]
    ) -> None:
        """Keep where a training stands; `identity` says of which plan."""
        _write(self._folder / "checkpoint", Frame({"of": dict(identity), **header}, arrays))

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one at all, of whatever plan."""
        return (self._folder / "checkpoint").exists()

    def checkpoint(self, identity: Mapping[str, Any]) -> Frame | None:
        """Where the training of just this plan stood."""
        frame = _read(self._folder / "checkpoint")
        return frame if frame is not None and frame.header.get("of") == dict(identity) else None

    def save_memory(self, run: str, memory: Memory) -> None:
        """Keep a run's memory; the oldest runs' go."""
        folder = self._folder / "memory"
        # The round that wrote last may be cancelled, and its thread not be done.
        with self._one_at_a_time:
            _write(folder / run, Frame({}, memories.written(memory)))
            kept = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
            for path in kept[RUNS_KEPT:]:
                path.unlink(missing_ok=True)

    def memory(self, run: str) -> Memory:
        """A run's memory, or an empty one."""
        frame = _read(self._folder / "memory" / run)
        return memories.read(run, frame.arrays) if frame is not None else Memory()

    def kept(self, run: str) -> Mapping[str, Array]:
        """The arrays of a run's memory, whatever becomes of the last delta."""
        return self.memory(run).kept

    def save_told(self, key: str, header: Mapping[str, Any], counts: Array, histogram: Array) -> None:
        """Keep what is told of some data's labels, and of which."""
        _write(self._told(key), Frame(header, {"counts": counts, "histogram": histogram}))

    def told(self, key: str) -> Frame | None:
        """What was last told of some data's labels."""
        return _read(self._told(key))

    def _told(self, key: str) -> Path:
        # A key may be any text.
        return self._folder / "told" / blake2b(key.encode(), digest_size=16).hexdigest()


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
