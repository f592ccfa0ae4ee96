"""Law: a file is replaced whole or not at all, and a secret is its owner's alone from the first byte on."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from headwater.schemas.errors import ConfigError

MAX_FILE_SIZE_BYTES: Final = 4 * 1024 * 1024
"""A key, a certificate or a list of revoked ones; a list of that size names fifty thousand."""

SECRET: Final = 0o600
PUBLIC: Final = 0o644


def write_file(file: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Put `content` in the place of what the file held; after a power cut it is the one or the other.

    Raises:
        ConfigError: the folder is not there, full, or not to be written to.
    """
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
            # The process's own mask may have taken more than is meant.
            os.fchmod(opened.fileno(), mode)
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        beside.replace(file)
        _sync_folder(file.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise ConfigError(
            f"{file}: cannot be written ({error.strerror}); give a folder that this user may write"
        ) from None


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make it, and those above it, where it is not there. Raises ConfigError."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made ({error.strerror}); give another folder") from None


def read_file(file: Path, what: str) -> bytes:
    """What a file of keys or certificates holds. `what` names the setting or argument that it came from.

    Raises:
        ConfigError: it cannot be read, or is too large to be what it should.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_SIZE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{what}: {file} cannot be read ({error.strerror}); give a readable file") from None
    if len(content) > MAX_FILE_SIZE_BYTES:
        raise ConfigError(f"{what}: {file} has more than {MAX_FILE_SIZE_BYTES} bytes; it is no such file")
    return content


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
