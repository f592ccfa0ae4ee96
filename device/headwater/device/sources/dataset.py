"""Law: what is not finite, not of one shape, or not there, is named by part, row and column before anything trains."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.schemas.errors import DataError
from headwater.schemas.manifest import Example, Manifest

MAX_EXAMPLES: Final = 10_000_000
MAX_SIZE_BYTES: Final = 4 * 1024**3

Labels = NDArray[np.int64] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples of one device. x float32 `[n, …]`; y int64 `[n]` for classes, float32 `[n, …]` for numbers, float32
    `[n, 0]` where there is no target. `train_weights` float32 `[n]` says how much each training example counts; None:
    all count 1."""

    train_x: NDArray[np.float32]
    train_y: Labels
    test_x: NDArray[np.float32]
    test_y: Labels
    train_weights: NDArray[np.float32] | None = None

    @property
    def weight(self) -> float:
        """What all training examples count together."""
        weights = self.train_weights
        return float(len(self.train_x)) if weights is None else float(weights.sum(dtype=np.float64))


class DataMismatch(Exception):
    """The data are sound, but not what this model takes."""


def dataset(train_x: Any, train_y: Any, test_x: Any, test_y: Any) -> Dataset:
    """A data set in the dtypes that graphs take; whole-number targets are classes.

    Raises:
        DataError: something that is no array of numbers with a row an example.
    """
    known, unseen = _targets(train_y), _targets(test_y)
    if not len(unseen):
        # An empty list says nothing of its dtype.
        unseen = np.zeros((0, *known.shape[1:]), dtype=known.dtype)
    return Dataset(_features(train_x), known, _features(test_x), unseen)


def checked(name: str, data: Dataset) -> Dataset:
    """The same data set, read-only.

    Raises:
        DataError: naming the part, row and column at fault.
    """
    if len(data.train_x) == 0:
        raise DataError(f"{name}: 0 training examples; give this device data, or take the key out of its configuration")
    for part, x, y in (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y)):
        _check_part(f"{name}: {part}", x, y)
    if data.train_x.shape[1:] != data.test_x.shape[1:] and len(data.test_x):
        raise DataError(
            f"{name}: training examples have shape {list(data.train_x.shape[1:])}, test examples "
            f"{list(data.test_x.shape[1:])}; make them alike"
        )
    if data.train_weights is not None:
        _check_weights(name, data.train_weights, len(data.train_x))
    for array in (data.train_x, data.train_y, data.test_x, data.test_y, data.train_weights):
        if array is not None:
            array.setflags(write=False)
    return data


def fits(data: Dataset, manifest: Manifest) -> None:
    """Raises DataMismatch naming what the model takes and what the data have."""
    found = data.train_x.shape[1:]
    if found != manifest.x.shape:
        raise DataMismatch(
            f"x: the model takes examples of shape {list(manifest.x.shape)}, this device has {list(found)}"
        )
    for y in (data.train_y, data.test_y):
        _check_target(y, manifest.y)


def _check_target(y: Labels, expected: Example | None) -> None:
    if expected is None:
        return
    if 0 in y.shape[1:]:
        raise DataMismatch("y: the model learns a target, this device's data have none; give their source one")
    if y.dtype.name != expected.dtype or y.shape[1:] != expected.shape:
        raise DataMismatch(
            f"y: the model takes {expected.dtype} targets of shape {list(expected.shape)}, this device has "
            f"{y.dtype.name} {list(y.shape[1:])}"
        )
    if expected.classes and len(y) and (y.min() < 0 or y.max() >= expected.classes):
        raise DataMismatch(
            f"y: the model has classes 0 to {expected.classes - 1}, this device has {y.min()} to {y.max()}"
        )


def _features(x: Any) -> NDArray[np.float32]:
    try:
        # A value beyond float32 becomes infinite here, and is refused by row and column in `checked`.
        with np.errstate(over="ignore"):
            return _rows("x", np.array(x, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise DataError(f"x: {error}; features must be numbers in rows of one length") from None


def _targets(y: Any) -> Labels:
    try:
        array = _rows("y", np.asarray(y))
        with np.errstate(over="ignore"):
            return array.astype(np.int64) if array.dtype.kind in "iub" else array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"y: {error}; targets must be class numbers or numbers") from None


def _rows(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if not array.ndim:
        raise DataError(f"{name}: a single value; give one a row")
    return array


def _check_weights(name: str, weights: NDArray[np.float32], examples: int) -> None:
    if weights.shape != (examples,):
        raise DataError(f"{name}: weights of shape {list(weights.shape)} for {examples} examples; give one each")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise DataError(f"{name}: weight {weights[bad[0]]} in row {bad[0]}; a weight is a finite number of at least 0")
    if not weights.any():
        raise DataError(f"{name}: all weights are 0, so there is nothing to learn; give some more")


def _check_part(name: str, x: NDArray[np.float32], y: Labels) -> None:
    if len(x) != len(y):
        raise DataError(f"{name}: {len(x)} rows of features and {len(y)} targets; give one target a row")
    if len(x) > MAX_EXAMPLES or x.nbytes > MAX_SIZE_BYTES:
        raise DataError(f"{name}: {len(x)} rows, {x.nbytes} bytes; at most {MAX_EXAMPLES} and {MAX_SIZE_BYTES}")
    for what, array in (("x", x), ("y", y)):
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            row, *column = (int(i) for i in bad[0])
            where = f"row {row}" + (f", column {column[0]}" if column else "")
            raise DataError(
                f"{name}: {what}: {array[tuple(bad[0])]} in {where} ({len(bad)} such values); fill or drop those rows"
            )
