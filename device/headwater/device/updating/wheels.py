"""Law: a wheel is judged whole before any of it is written, and in its folder only when all of it is on the disk.

A release's wheel is Headwater alone: pure Python, for this Python, with everything that it needs installed already, in
the versions that it needs. Signature, hash and counter were right before it came here; what is judged here guards
against a signer's mistake, too.
"""

import email
import os
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

from headwater.schemas.messages import Release
from headwater.schemas.wire import reference

MAX_FILES: Final = 4096
MAX_UNPACKED_BYTES: Final = 64 * 1024 * 1024
SPARE_BYTES: Final = 32 * 1024 * 1024
"""What stays free on the disk, whatever is unpacked."""

_PACKED_BY: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What wheels are packed by; others may take as much memory to unpack as they like."""

_SEALED: Final = 1
"""The flag of a file that wants a password."""

EXTRAS: Final = ("", "device", "update")
"""Whose requirements must be there."""

COMPILE_WITHIN_S: Final = 300.0
CONTENT: Final = ".wheel"
"""The file of a version's folder that says of which wheel it is."""


class Unsound(Exception):
    """A wheel that is not taken; the sentence says why."""


def check(wheel: bytes, release: Release, installed: Callable[[str], str | None], python: str) -> None:
    """Judge a wheel.

    Args:
        installed: the version of a package by its name, None where it is not there.
        python: the version of this Python, "3.11.2".

    Raises:
        Unsound: it is not the release's, is damaged, holds what does not belong there, or would not run here.
    """
    if reference(wheel) != release.wheel:
        raise Unsound("wheel: its bytes are not those that were signed")
    try:
        with zipfile.ZipFile(BytesIO(wheel)) as opened:
            _check_names(opened, release.version)
            folder = f"headwater-{release.version}.dist-info"
            about = email.message_from_bytes(opened.read(f"{folder}/METADATA"))
            tags = email.message_from_bytes(opened.read(f"{folder}/WHEEL"))
            damaged = opened.testzip()
    except (zipfile.BadZipFile, zlib.error, KeyError, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise Unsound(f"wheel: no wheel of headwater {release.version}: {error}") from None
    if damaged is not None:
        raise Unsound(f"wheel: {damaged} in it is damaged")
    if (about["Name"], about["Version"]) != ("headwater", release.version):
        raise Unsound(f"wheel: of {about['Name']} {about['Version']}; headwater {release.version} was signed")
    if tags["Root-Is-Purelib"] != "true":
        raise Unsound("wheel: not of pure Python")
    _check_needs(about.get("Requires-Python"), about.get_all("Requires-Dist") or [], installed, python)


def _check_names(opened: zipfile.ZipFile, version: str) -> None:
    entries = opened.infolist()
    names = [entry.filename for entry in entries]
    if len(names) > MAX_FILES or len(set(names)) != len(names):
        raise Unsound(f"wheel: {len(names)} files, or one of them twice; at most {MAX_FILES}")
    if (size_bytes := sum(entry.file_size for entry in entries)) > MAX_UNPACKED_BYTES:
        raise Unsound(f"wheel: {size_bytes} bytes unpacked; at most {MAX_UNPACKED_BYTES}")
    for entry in entries:
        path, kind = PurePosixPath(entry.filename), stat.S_IFMT(entry.external_attr >> 16)
        is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and "\\" not in entry.filename
        is_plain = is_plain and entry.compress_type in _PACKED_BY and not entry.flag_bits & _SEALED
        top = path.parts[0] if path.parts else ""
        if not is_plain or ".." in path.parts or top not in ("headwater", f"headwater-{version}.dist-info"):
            raise Unsound(f"wheel: {entry.filename!r} does not belong into it")


def _check_needs(
    requires_python: str | None, requirements: list[str], installed: Callable[[str], str | None], python: str
) -> None:
    # Only a device that is updated has this library.
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        if requires_python and not SpecifierSet(requires_python).contains(python, prereleases=True):
            raise Unsound(f"python: {python} here; it needs {requires_python}")
        for text in requirements:
            need = Requirement(text)
            markers = ({"extra": extra} for extra in EXTRAS)
            if need.name == "headwater" or (need.marker and not any(map(need.marker.evaluate, markers))):
                continue
            found = installed(need.name)
            if found is None or not need.specifier.contains(found, prereleases=True):
                here = "is not installed" if found is None else f"is {found} here"
                raise Unsound(f"{need.name}: {here}; it needs {need.name}{need.specifier}: install that first")
    except (InvalidRequirement, InvalidSpecifier) as error:
        raise Unsound(f"wheel: {error}") from None


def unpack(wheel: bytes, release: Release, versions: Path) -> None:
    """Put a wheel that was judged into the folder of its version, beside those that are there.

    Raises:
        Unsound: there is no room for it, or it is not Python after all; nothing is left of it then.
        OSError: the folder cannot be written.
    """
    target = versions / release.version
    if _content_of(target) == release.wheel.sha256.hex():
        return
    beside = versions / f".{release.version}.new"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with zipfile.ZipFile(BytesIO(wheel)) as opened:
            _check_room(sum(entry.file_size for entry in opened.infolist()), versions)
            beside.mkdir(parents=True)
            opened.extractall(beside)
        _compile(beside, target)
        (beside / CONTENT).write_text(release.wheel.sha256.hex(), encoding="ascii")
        # Hundreds of small files: written out together.
        os.sync()
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        os.sync()
    except (OSError, Unsound):
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _content_of(folder: Path) -> str:
    try:
        return (folder / CONTENT).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _check_room(size_bytes: int, versions: Path) -> None:
    # As much again is what Python compiles of it.
    free_bytes, needed_bytes = shutil.disk_usage(versions).free, 2 * size_bytes + SPARE_BYTES
    if free_bytes < needed_bytes:
        raise Unsound(f"disk: {free_bytes} bytes free in {versions}; it needs {needed_bytes}")


def _compile(folder: Path, target: Path) -> None:
    """In a process of its own: the agent goes on meanwhile."""
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(folder), "-p", str(target), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMPILE_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unsound(f"wheel: not compiled within {COMPILE_WITHIN_S:g} s") from None
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["compileall failed"]
        raise Unsound(f"wheel: {lines[-1][:200]}")


def clear(versions: Path, kept: set[str]) -> None:
    """Remove every version but these, and what was left half unpacked. What cannot be removed stays."""
    for folder in versions.iterdir():
        if folder.is_dir() and not folder.is_symlink() and folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)
