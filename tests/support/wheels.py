"""Wheels for tests: small ones by hand, and real ones of this repository in other versions."""

import functools
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from headwater.schemas.messages import Release
from headwater.schemas.wire import reference

ROOT = Path(__file__).parents[2]
NEEDS = ("numpy>=2.0", 'sqlalchemy>=2.0; extra == "cloud"', 'onnxruntime>=1.22; extra == "device"')


def small(
    version: str = "2.0",
    *,
    files: Mapping[str, bytes] | None = None,
    name: str = "headwater",
    says: str | None = None,
    python: str = ">=3.11",
    needs: tuple[str, ...] = NEEDS,
    pure: str = "true",
) -> bytes:
    """A wheel of three modules, or with other `files`; `says` is the version in its metadata."""
    made = io.BytesIO()
    folder = f"headwater-{version}.dist-info"
    content = {
        "headwater/device/__init__.py": b"",
        "headwater/device/a.py": b"A = 1\n",
        "headwater/node/b.py": b"B = 2\n",
        **(files or {}),
        f"{folder}/METADATA": (
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {says or version}\nRequires-Python: {python}\n"
            + "".join(f"Requires-Dist: {need}\n" for need in needs)
        ).encode(),
        f"{folder}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: py3-none-any\n".encode(),
    }
    with zipfile.ZipFile(made, "w") as opened:
        for path, payload in content.items():
            # Without the time of day: the same wheel each time.
            opened.writestr(zipfile.ZipInfo(path), payload)
    return made.getvalue()


def release(wheel: bytes, version: str = "2.0", counter: int = 7, fleet: str = "plant") -> Release:
    return Release(fleet=fleet, counter=counter, version=version, wheel=reference(wheel))


@functools.cache
def built() -> bytes:
    """The wheel of this repository, built once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110)
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.read_bytes()


def as_version(wheel: bytes, version: str, *, instead: Mapping[str, bytes] | None = None) -> bytes:
    """A wheel of this repository as another version, with other contents of some files."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(wheel)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        (folder,) = {name.split("/")[0] for name in old.namelist() if ".dist-info/" in name}
        was = folder.removeprefix("headwater-").removesuffix(".dist-info")
        for name in old.namelist():
            payload = (instead or {}).get(name, old.read(name))
            if name == f"{folder}/METADATA":
                payload = payload.replace(f"Version: {was}".encode(), f"Version: {version}".encode(), 1)
            new.writestr(name.replace(folder, f"headwater-{version}.dist-info"), payload)
    return made.getvalue()
