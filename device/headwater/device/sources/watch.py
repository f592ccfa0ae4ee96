"""Law: a pickle in a package is read only when it is the one that was reviewed, and may build nothing but arrays.

Smartwatch recordings of 7 shoulder exercises by 10 people, 140 recordings of 6 axes at 50 Hz (Burns et al. 2018,
arXiv:1802.01489), from the package seglearn.
"""

import hashlib
import importlib.util
import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import Dataset, dataset
from headwater.schemas.errors import DataError

SHA256: Final = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
WINDOW_SAMPLES: Final = 100
STEP_SAMPLES: Final = 50
BINS: Final = 8

_ADMITTED: Final = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy's array types and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise DataError(
                f"watch: the file wants to load {module}.{name}; it is not the data set, reinstall seglearn"
            )
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def load_watch(persons: Sequence[int]) -> Dataset:
    """The windows of some people: 72 features each, 7 classes.

    The last quarter of each recording is the test part; the split comes before windowing, so no sample is in both.

    Raises:
        DataError: seglearn is not installed, or its file is another one.
    """
    return windows_of(read(_path().read_bytes()), persons)


def read(payload: bytes) -> dict[str, Any]:
    """The recordings in the file's bytes.

    Raises:
        DataError: the bytes are not those that were reviewed.
    """
    found = hashlib.sha256(payload).hexdigest()
    if found != SHA256:
        raise DataError(f"watch: the file's SHA-256 is {found}, not {SHA256}; reinstall seglearn==1.2.5")
    return unpickled(payload)


def unpickled(payload: bytes) -> dict[str, Any]:
    """A `.npy` file of one pickled dict, read with the restricted unpickler."""
    stream = io.BytesIO(payload)
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    array = _ArraysOnly(stream, encoding="latin1").load()
    return dict(array.item())


def windows_of(recordings: dict[str, Any], persons: Sequence[int]) -> Dataset:
    train: list[tuple[NDArray[np.float32], int]] = []
    test: list[tuple[NDArray[np.float32], int]] = []
    for signal, label, person in zip(recordings["X"], recordings["y"], recordings["subject"], strict=True):
        if int(person) in persons:
            split = len(signal) * 3 // 4
            train.append((features(_windows(signal[:split])), int(label)))
            test.append((features(_windows(signal[split:])), int(label)))
    return dataset(*_stacked(train), *_stacked(test))


def features(windows: NDArray[np.float64]) -> NDArray[np.float32]:
    """float64 `[n, 100, 6]` to float32 `[n, 72]`: mean, std, minimum, maximum and 8 FFT magnitudes an axis."""
    spectrum = np.abs(np.fft.rfft(windows, axis=1))[:, 1 : BINS + 1] / WINDOW_SAMPLES
    parts = [windows.mean(1), windows.std(1), windows.min(1), windows.max(1), spectrum.reshape(len(windows), -1)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _windows(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    starts = range(0, len(signal) - WINDOW_SAMPLES + 1, STEP_SAMPLES)
    if not starts:
        return np.zeros((0, WINDOW_SAMPLES, signal.shape[1]))
    return np.stack([signal[start : start + WINDOW_SAMPLES] for start in starts])


def _stacked(parts: list[tuple[NDArray[np.float32], int]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return (
        np.concatenate([x for x, _ in parts]),
        np.concatenate([np.full(len(x), label, dtype=np.int64) for x, label in parts]),
    )


def _path() -> Path:
    # Found, not imported: importing seglearn would bring in scipy and scikit-learn.
    spec = importlib.util.find_spec("seglearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("watch: the package seglearn is not installed; pip install 'headwater[testbed]'")
    return Path(spec.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
