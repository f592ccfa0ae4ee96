"""Law: a small disk is a file system of its own; full means that the system says ENOSPC, not that somebody pretends."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

SIZE_BYTES: Final = 8 * 1024 * 1024
_BALLAST: Final = "ballast"


@lru_cache(maxsize=1)
def can_mount() -> bool:
    """Whether this process may make file systems: root may, where its container lets it. Without, no disk is filled."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "tried"):
                return True
        except subprocess.CalledProcessError:
            return False


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int = SIZE_BYTES) -> Iterator[Path]:
    """`folder` as a file system of this size, gone behind the `with`."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
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
