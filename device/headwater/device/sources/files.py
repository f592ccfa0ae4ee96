"""Law: a table is read by the names of its columns; a name, a cell or a label that is not there is said by name."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import MAX_EXAMPLES, Dataset, dataset
from headwater.schemas.errors import DataError
from headwater.schemas.sources import FileSource


def load_file(spec: FileSource) -> Dataset:
    """A CSV, NPZ or Parquet file as a data set; the last `test_fraction` of its rows is the test part.

    Raises:
        DataError: naming file, column, row and value.
    """
    try:
        x, y = _READERS[spec.path.suffix.lower()](spec)
    except KeyError:
        raise DataError(f"{spec.path}: unknown kind of file; give .csv, .npz or .parquet") from None
    except OSError as error:
        raise DataError(f"{spec.path}: {error.strerror or error}; check data path and permissions") from None
    split = len(x) - int(len(x) * spec.test_fraction)
    return dataset(x[:split], y[:split], x[split:], y[split:])


def _read_csv(spec: FileSource) -> tuple[NDArray[Any], NDArray[Any]]:
    with spec.path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        wanted = _columns(spec, header)
        rows: list[list[str]] = []
        for number, row in enumerate(reader, 2):
            if len(rows) >= MAX_EXAMPLES:
                raise DataError(f"{spec.path}: more than {MAX_EXAMPLES} rows; split the file")
            if len(row) != len(header):
                raise DataError(f"{spec.path}: line {number} has {len(row)} cells where {len(header)} belong")
            rows.append([row[i] for i in wanted])
    table = np.array(rows, dtype=object).reshape(len(rows), len(wanted))
    x = np.array(
        [
            [_number(spec.path, cell, line, name) for cell, name in zip(row[:-1], spec.features, strict=True)]
            for line, row in enumerate(table, 2)
        ],
        dtype=np.float64,
    ).reshape(len(rows), len(spec.features))
    return x, _target(spec, table[:, -1])


def _read_npz(spec: FileSource) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(spec.path, allow_pickle=False) as arrays:
            _require(spec, (*spec.features, spec.target), list(arrays))
            columns = [np.asarray(arrays[name]) for name in spec.features]
            target = np.asarray(arrays[spec.target])
    except ValueError as error:
        raise DataError(f"{spec.path}: {error}; save plain arrays with numpy.savez") from None
    x = columns[0] if len(columns) == 1 and columns[0].ndim > 1 else np.stack(columns, axis=1)
    return x, _target(spec, target)


def _read_parquet(spec: FileSource) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{spec.path}: reading Parquet takes pyarrow; pip install 'headwater[parquet]'") from None
    names = parquet.read_schema(spec.path).names
    _require(spec, (*spec.features, spec.target), names)
    table = parquet.read_table(spec.path, columns=[*spec.features, spec.target])
    x = np.stack([table[name].to_numpy(zero_copy_only=False) for name in spec.features], axis=1)
    return x, _target(spec, table[spec.target].to_numpy(zero_copy_only=False))


_READERS: Mapping[str, Any] = {".csv": _read_csv, ".npz": _read_npz, ".parquet": _read_parquet}


def _columns(spec: FileSource, header: Sequence[str]) -> list[int]:
    names = [name.strip() for name in header]
    _require(spec, (*spec.features, spec.target), names)
    return [names.index(name) for name in (*spec.features, spec.target)]


def _require(spec: FileSource, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(f"{spec.path}: no column {missing[0]!r}; there are {', '.join(found) or 'none'}")


def _number(path: Path, cell: str, line: int, name: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{path}: line {line}, column {name!r}: {cell!r} is no number; fill or drop the row") from None


def _target(spec: FileSource, values: NDArray[Any]) -> NDArray[Any]:
    if spec.labels:
        numbers = {label: number for number, label in enumerate(spec.labels)}
        unknown = next((str(value) for value in values if str(value).strip() not in numbers), None)
        if unknown is not None:
            raise DataError(f"{spec.path}: {spec.target}: {unknown!r} is none of the labels {', '.join(spec.labels)}")
        return np.array([numbers[str(value).strip()] for value in values], dtype=np.int64)
    numeric = np.array([_number(spec.path, value, row, spec.target) for row, value in enumerate(values, 2)])
    if not spec.classes:
        return numeric.astype(np.float32)
    bad = np.flatnonzero((numeric != np.round(numeric)) | (numeric < 0) | (numeric >= spec.classes))
    if len(bad):
        raise DataError(
            f"{spec.path}: {spec.target}: {numeric[bad[0]]:g} in row {bad[0]} is no class of 0 to {spec.classes - 1}; "
            "set classes, or name them in labels"
        )
    return numeric.astype(np.int64)
