"""Law: a device reads the files of its own parts, and no other's.

What `headwater data prepare NAME` makes lies at FOLDER/NAME/PART.npz: the four arrays of a data set, a driver's or a
home's each. A file may hold more, for whoever judges a model; a device does not look at it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import MAX_SIZE_BYTES, Dataset, dataset
from headwater.device.sources.files import DAMAGED, read_npz
from headwater.schemas.errors import DataError
from headwater.schemas.sources import PreparedSource

ARRAYS: Final = ("train_x", "train_y", "test_x", "test_y")
FOLDER_VARIABLE: Final = "HW_DATA"
"""Environment variable that says where data sets lie. (HEADWATER_DATA is a device's setting `data`.)"""


def load_prepared(spec: PreparedSource) -> Dataset:
    """The parts as one data set.

    Raises:
        DataError: a part that was not prepared, or is damaged.
    """
    folder = spec.folder or data_folder(os.environ, Path.home())
    parts = [part_of(spec.name, part_file(folder, spec.name, part)) for part in spec.parts]
    try:
        joined = (np.concatenate([part[name] for part in parts]) for name in ARRAYS)
        return dataset(*joined)
    except ValueError as error:
        raise DataError(f"parts: {', '.join(spec.parts)} of {spec.name}: {error}; {_mend(spec.name)}") from None


def data_folder(environment: Mapping[str, str], home: Path) -> Path:
    """Where data sets lie unless told otherwise, by the XDG base directory specification."""
    if told := environment.get(FOLDER_VARIABLE):
        return Path(told)
    shared = environment.get("XDG_DATA_HOME")
    return (Path(shared) if shared else home / ".local" / "share") / "headwater" / "data"


def part_file(folder: Path, name: str, part: str) -> Path:
    return folder / name / f"{part}.npz"


def part_of(name: str, path: Path, more: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of a part of the data set `name`, those of `more` too where it has them.

    Raises:
        DataError: it is not there, or damaged.
    """
    try:
        if (size_bytes := path.stat().st_size) > MAX_SIZE_BYTES:
            raise DataError(f"{path}: {size_bytes} bytes; a part has {MAX_SIZE_BYTES} at most")
        arrays = read_npz(path, lambda found: [known for known in (*ARRAYS, *more) if known in found])
    except FileNotFoundError:
        raise DataError(f"{path}: not there; {_mend(name)}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; check the folder and its permissions") from None
    except DAMAGED as error:
        raise DataError(f"{path}: {error}; {_mend(name)}") from None
    missing = [array for array in ARRAYS if array not in arrays]
    if missing:
        raise DataError(f"{path}: no array {missing[0]!r}; {_mend(name)}")
    return arrays


def _mend(name: str) -> str:
    return f"make it anew with: headwater data prepare {name}"
