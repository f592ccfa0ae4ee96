"""Law: named arrays become one file's bytes and come back as they were; nothing in them can run."""

import io
import zipfile
from collections.abc import Iterable, Mapping

import numpy as np

from headwater.schemas.tensors import Array


def written(arrays: Mapping[str, Array]) -> bytes:
    """An uncompressed NPZ file."""
    file = io.BytesIO()
    np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    return file.getvalue()


def read(payload: bytes) -> dict[str, Array]:
    """What was written.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"no arrays: {error}") from None


def numbered(prefix: str, values: Iterable[Array]) -> dict[str, Array]:
    """A list of arrays under the names `<prefix>0`, `<prefix>1`, …"""
    return {f"{prefix}{place}": value for place, value in enumerate(values)}


def listed(named: Mapping[str, Array], prefix: str) -> tuple[Array, ...]:
    """The list that was numbered."""
    count = sum(name.startswith(prefix) for name in named)
    return tuple(named[f"{prefix}{place}"] for place in range(count))
