"""Law: a table is read by the names of its columns; a name, a cell or a label that is not there is said by name."""

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import MAX_EXAMPLES, Dataset, dataset
from headwater.schemas.errors import DataError
from headwater.schemas.sources import FileSource

DAMAGED: Final = (ValueError, csv.Error, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)
"""What the readers raise on bytes that are not of the kind that the file's name says (RuntimeError: an NPZ file that
claims to be encrypted, or packed in a way that zipfile does not know)."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Columns by name, and how the file's owner finds a row of it."""

    columns: Mapping[str, NDArray[Any]]
    where: Callable[[int], str]


def load_file(spec: FileSource) -> Dataset:
    """A CSV, NPZ or Parquet file as a data set; the last `test_fraction` of its rows is the test part.

    Raises:
        DataError: naming file, column, row and value.
    """
    kind = spec.path.suffix.lower()
    if kind not in _READERS:
        raise DataError(f"{spec.path}: unknown kind of file; give .csv, .npz or .parquet")
    try:
        table = _READERS[kind](spec)
    except OSError as error:
        raise DataError(f"{spec.path}: {error.strerror or error}; check data path and permissions") from None
    except DAMAGED as error:
        raise DataError(f"{spec.path}: {error}; this is no sound {kind} file, write it again") from None
    x, y = _features(spec, table), _target(spec, table)
    split = len(x) - int(len(x) * spec.test_fraction)
    made = dataset(x[:split], y[:split], x[split:], y[split:])
    if spec.weight is None:
        return made
    return replace(made, train_weights=_numbers(spec, spec.weight, table)[:split].astype(np.float32))


# ── one reader a kind of file ───────────────────────────────────────────────────────────────────────────────────


def _read_csv(spec: FileSource) -> _Table:
    with spec.path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        wanted = _wanted(spec, header)
        rows: list[list[str]] = []
        lines: list[int] = []
        for row in reader:
            if not row:
                continue
            if len(rows) >= MAX_EXAMPLES:
                raise DataError(f"{spec.path}: more than {MAX_EXAMPLES} rows; split the file")
            if len(row) != len(header):
                raise DataError(f"{spec.path}: line {reader.line_num} has {len(row)} cells where {len(header)} belong")
            rows.append([row[header.index(name)] for name in wanted])
            lines.append(reader.line_num)
    cells = np.array(rows, dtype=object).reshape(len(rows), len(wanted))
    return _Table(dict(zip(wanted, cells.T, strict=True)), lambda row: f"line {lines[row]}")


def _read_npz(spec: FileSource) -> _Table:
    return _Table(read_npz(spec.path, lambda found: _wanted(spec, found)), _row)


def read_npz(path: Path, wanted: Callable[[Sequence[str]], Iterable[str]]) -> dict[str, NDArray[Any]]:
    """The arrays of an NPZ file that `wanted` picks of the names in it.

    Raises:
        DataError: it holds something else than plain arrays.
        OSError, or one of `DAMAGED`: it cannot be read.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("one array without a name")
        with loaded as arrays:
            return {name: np.asarray(arrays[name]) for name in wanted(list(arrays))}
    except ValueError as error:
        # numpy's own advice is to allow pickles: not here.
        what = "holds pickled objects, or is no NPZ file" if "pickle" in str(error) else str(error)
        raise DataError(f"{path}: {what}; save plain arrays with numpy.savez") from None


def _read_parquet(spec: FileSource) -> _Table:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"{spec.path}: reading Parquet takes pyarrow; pip install 'headwater[parquet]'") from None
    wanted = _wanted(spec, parquet.read_schema(spec.path).names)
    table = parquet.read_table(spec.path, columns=wanted)
    return _Table({name: table[name].to_numpy(zero_copy_only=False) for name in wanted}, _row)


_READERS: Final[Mapping[str, Callable[[FileSource], _Table]]] = {
    ".csv": _read_csv,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}


def _row(row: int) -> str:
    return f"row {row}"


def _wanted(spec: FileSource, found: Sequence[str]) -> list[str]:
    """The columns of the specification, each once."""
    wanted = list(dict.fromkeys((*spec.features, spec.target, *([spec.weight] if spec.weight else []))))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(f"{spec.path}: no column {missing[0]!r}; there are {', '.join(found) or 'none'}")
    return wanted


# ── columns to arrays ───────────────────────────────────────────────────────────────────────────────────────────


def _features(spec: FileSource, table: _Table) -> NDArray[Any]:
    columns = [_numbers(spec, name, table) for name in spec.features]
    first = columns[0]
    for name, column in zip(spec.features, columns, strict=True):
        if column.shape != first.shape:
            raise DataError(
                f"{spec.path}: {name!r} has shape {list(column.shape)}, {spec.features[0]!r} {list(first.shape)}; "
                "make them alike"
            )
    return first if len(columns) == 1 and first.ndim > 1 else np.stack(columns, axis=1)


def _target(spec: FileSource, table: _Table) -> NDArray[Any]:
    if spec.labels:
        return _labelled(spec, table)
    numbers = _numbers(spec, spec.target, table)
    if not spec.classes:
        return numbers.astype(np.float32)
    bad = np.argwhere(~((numbers == np.round(numbers)) & (numbers >= 0) & (numbers < spec.classes)))
    if len(bad):
        raise DataError(
            f"{spec.path}: {table.where(int(bad[0][0]))}, column {spec.target!r}: {numbers[tuple(bad[0])]:g} is no "
            f"class of 0 to {spec.classes - 1}; set classes, or name them in labels"
        )
    return numbers.astype(np.int64)


def _labelled(spec: FileSource, table: _Table) -> NDArray[np.int64]:
    numbers = {label: number for number, label in enumerate(spec.labels)}
    labels = [str(value).strip() for value in _rows(spec, spec.target, table)]
    for row, label in enumerate(labels):
        if label not in numbers:
            raise DataError(
                f"{spec.path}: {table.where(row)}, column {spec.target!r}: {label!r} is none of the labels "
                f"{', '.join(spec.labels)}"
            )
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def _numbers(spec: FileSource, name: str, table: _Table) -> NDArray[Any]:
    column = _rows(spec, name, table)
    if column.dtype.kind in "biuf":
        return column
    # numpy would turn dates into nanoseconds since 1970, and drop an imaginary part, in silence.
    if column.dtype.kind not in "mMc":
        try:
            return column.astype(np.float64)
        except (TypeError, ValueError):
            pass
    row = next((row for row, cell in enumerate(column) if not _is_number(cell)), 0)
    cell = column[row] if isinstance(column[row], str) else column[row : row + 1].tolist()[0]
    raise DataError(
        f"{spec.path}: {table.where(row)}, column {name!r}: {str(cell)!r} is no number; fill or drop the row"
    )


def _rows(spec: FileSource, name: str, table: _Table) -> NDArray[Any]:
    column = table.columns[name]
    if not column.ndim:
        raise DataError(f"{spec.path}: {name!r} is a single value; give one a row")
    return column


def _is_number(cell: Any) -> bool:
    if isinstance(cell, np.datetime64 | np.timedelta64 | np.complexfloating):
        return False
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
