"""Law: a small disk is a file system of its own; full means that the system says ENOSPC, not that somebody pretends."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SIZE_BYTES: Final = 8 * 1024 * 1024
_BALLAST: Final = "ballast"


def can_mount() -> bool:
    """Whether this process may make file systems: only root may."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int = SIZE_BYTES) -> Iterator[Path]:
    """`folder` as a file system of this size, gone behind the `with`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        # Lazily: a process that was killed a moment ago may not be gone from it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all room that is left."""
    with (folder / _BALLAST).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    with (folder / _BALLAST).open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0")


def free(folder: Path) -> None:
    (folder / _BALLAST).unlink(missing_ok=True)
