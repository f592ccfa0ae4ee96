"""Data sources: known answers, and every fault named where it is."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headwater.device.sources import DataMismatch, fits, load
from headwater.device.sources import watch as watch_source
from headwater.device.sources.digits import digits, shards
from headwater.schemas.errors import DataError
from headwater.schemas.manifest import Example, Manifest, Parameter
from headwater.schemas.sources import DigitsSource, FileSource, PythonSource, WatchSource

TRAIN = [414, 400, 224, 215, 362, 353, 387, 357, 358, 383]
TEST = [128, 119, 60, 56, 108, 103, 115, 104, 105, 114]


# ── watch ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("person", range(1, 11))
def test_each_person_has_the_known_number_of_windows(person: int) -> None:
    data = load("w", WatchSource(kind="watch", persons=(person,)))
    assert (len(data.train_x), len(data.test_x)) == (TRAIN[person - 1], TEST[person - 1])
    assert data.train_x.shape[1:] == (72,)
    assert set(np.unique(data.train_y)) <= set(range(7))


def test_no_sample_is_in_both_parts() -> None:
    """Recordings of consecutive numbers: the largest of the train part is below the smallest of the test part."""
    signal = np.repeat(np.arange(1000.0)[:, None], 6, axis=1)
    data = watch_source.windows_of({"X": [signal], "y": [0], "subject": [1]}, [1])
    minimum, maximum = 12, 18
    assert data.train_x[:, maximum].max() == 749
    assert data.test_x[:, minimum].min() == 750


def test_features_of_a_wave_worked_by_hand() -> None:
    """A sine of 2 periods in 100 samples: mean 0, standard deviation 1/√2, all its power in FFT bin 2."""
    wave = np.sin(2 * np.pi * 2 * np.arange(100) / 100)
    row = watch_source.features(np.repeat(wave[None, :, None], 6, axis=2))[0]
    np.testing.assert_allclose(row[0:6], 0.0, atol=1e-6)
    np.testing.assert_allclose(row[6:12], np.sqrt(0.5), atol=1e-6)
    spectrum = row[24:].reshape(8, 6)
    np.testing.assert_allclose(spectrum[1], 0.5, atol=1e-6)
    np.testing.assert_allclose(np.delete(spectrum, 1, axis=0), 0.0, atol=1e-6)


def npy(value: object) -> bytes:
    return (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
        + b"\n"
        + pickle.dumps(value)
    )


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("print('boom')",)


def test_a_pickle_that_would_run_code_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"wants to load builtins\.eval"):
        watch_source.unpickled(npy(Bomb()))
    assert "boom" not in capsys.readouterr().out


def test_a_changed_file_is_refused_unread() -> None:
    with pytest.raises(DataError, match=r"SHA-256 is [0-9a-f]{64}, not eb122f23.*reinstall seglearn"):
        watch_source.read(npy(Bomb()))


def test_the_data_of_a_package_are_read_without_importing_it() -> None:
    script = (
        "import sys\nfrom headwater.device.sources import load\n"
        "from headwater.schemas.sources import DigitsSource, WatchSource\n"
        "load('w', WatchSource(kind='watch', persons=(1,)))\n"
        "load('d', DigitsSource(kind='digits', devices=2, index=0))\n"
        "assert not {'sklearn', 'scipy', 'seglearn', 'pandas'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# ── digits ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("devices", "alpha", "seed"), [(1, 0.3, 0), (10, 0.3, 0), (50, 0.3, 4), (200, 0.1, 1)])
def test_digits_are_dealt_once_each_and_nobody_is_left_empty(devices: int, alpha: float, seed: int) -> None:
    labels = digits(seed)[1]
    hands = shards(labels, devices, alpha, seed)
    assert sorted(np.concatenate(hands)) == list(range(len(labels)))
    assert min(map(len, hands)) >= 1
    again = shards(labels, devices, alpha, seed)
    assert all((a == b).all() for a, b in zip(hands, again, strict=True))


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    np.testing.assert_array_equal(digits(0)[0], (x / 16).astype(np.float32))
    np.testing.assert_array_equal(digits(0)[1], y)


def test_everyone_has_the_same_test_part() -> None:
    parts = [load("d", DigitsSource(kind="digits", devices=5, index=i)) for i in range(5)]
    assert all((part.test_x == parts[0].test_x).all() for part in parts)
    assert sum(len(part.train_x) for part in parts) == 1797 - 360


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────

CSV = "a,b,label\n" + "".join(f"{i},{i * 2}.5,{'ok' if i % 2 else 'worn'}\n" for i in range(8))


def csv(path: Path, text: str = CSV, **changes: object) -> FileSource:
    (path / "d.csv").write_text(text)
    given = {"kind": "file", "path": path / "d.csv", "features": ("a", "b"), "target": "label"}
    return FileSource.model_validate(given | {"labels": ("ok", "worn")} | changes)


def test_a_csv_becomes_a_data_set_whose_end_is_the_test_part(tmp_path: Path) -> None:
    data = load("d", csv(tmp_path))
    assert data.train_x.tolist()[:2] == [[0.0, 0.5], [1.0, 2.5]]
    assert (len(data.train_x), len(data.test_x)) == (6, 2)
    assert data.train_y.tolist() == [1, 0, 1, 0, 1, 0]
    with pytest.raises(ValueError, match="read-only"):
        data.train_x[0, 0] = 1.0


def test_npz_and_parquet_hold_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    a, label = np.arange(8.0), np.arange(8) % 2
    np.savez(tmp_path / "d.npz", a=a, b=a * 2, label=label)
    pq.write_table(pa.table({"a": a, "b": a * 2, "label": label}), tmp_path / "d.parquet")
    both = [
        load("d", FileSource(kind="file", path=tmp_path / name, features=("a", "b"), target="label", classes=2))
        for name in ("d.npz", "d.parquet")
    ]
    np.testing.assert_array_equal(both[0].train_x, both[1].train_x)
    np.testing.assert_array_equal(both[0].train_y, both[1].train_y)
    assert both[0].train_y.dtype == np.int64


def test_a_target_without_classes_is_a_number(tmp_path: Path) -> None:
    data = load("d", csv(tmp_path, "a,b,label\n1,2,0.5\n3,4,1.5\n", labels=()))
    assert data.train_y.dtype == np.float32


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        pytest.param(CSV, {"features": ("a", "c")}, "no column 'c'; there are a, b, label", id="missing column"),
        pytest.param(CSV.replace("3.0", "x") + "9,x,ok\n", {}, "column 'b': 'x' is no number", id="no number"),
        pytest.param(CSV + "9,nan,ok\n", {}, r"data.d: test: x: nan in row \d+, column 1 .*fill or drop", id="NaN"),
        pytest.param("a,b,label\ninf,1,ok\n", {}, "train: x: inf in row 0, column 0", id="infinity"),
        pytest.param(CSV + "9,1,broken\n", {}, "label: 'broken' is none of the labels ok, worn", id="unknown label"),
        pytest.param(CSV + "9,1\n", {}, "line 10 has 2 cells where 3 belong", id="ragged"),
        pytest.param("a,b,label\n", {}, "0 training examples", id="no rows"),
        pytest.param("", {}, "no column 'a'; there are none", id="empty"),
        pytest.param("a,b,label\n1,2,2\n3,4,0\n", {"labels": (), "classes": 2}, "2 in row 0 is no class", id="class"),
    ],
)
def test_a_fault_in_a_file_is_named(tmp_path: Path, text: str, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        load("d", csv(tmp_path, text, **changes))


@pytest.mark.parametrize(
    ("name", "says"), [("none.csv", "No such file"), ("d.txt", "unknown kind of file; give .csv, .npz or .parquet")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "d.txt").write_text("")
    with pytest.raises(DataError, match=says):
        load("d", FileSource(kind="file", path=tmp_path / name, features=("a",), target="b"))


def test_a_pickle_in_an_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.array([Bomb()], dtype=object), b=np.arange(1))
    with pytest.raises(DataError, match="save plain arrays"):
        load("d", FileSource(kind="file", path=tmp_path / "d.npz", features=("a",), target="b"))


# ── python ──────────────────────────────────────────────────────────────────────────────────────────────────────

OWN = """
import numpy as np
def good(n): return np.ones((n, 2)), np.zeros(n, int), np.ones((1, 2)), np.zeros(1, int)
def fails(): raise RuntimeError("the sensor is off")
def wrong(): return [1, 2]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_an_owners_function_gives_the_data() -> None:
    assert len(load("d", PythonSource(kind="python", entry="own_data:good", arguments={"n": 3})).train_x) == 3


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("own_data:none", "no attribute 'none'"),
        ("no_such_package:f", "No module named 'no_such_package'"),
        ("own_data:fails", "failed with RuntimeError: the sensor is off"),
        ("own_data:wrong", "returned list; return train_x"),
    ],
)
def test_an_owners_function_that_does_not_is_named(entry: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load("d", PythonSource(kind="python", entry=entry))


# ── the model's wish ────────────────────────────────────────────────────────────────────────────────────────────


def manifest(shape: tuple[int, ...], y: Example) -> Manifest:
    x = Example(shape=shape, dtype="float32")
    return Manifest(
        model="m", objective="mse", parameters=(Parameter(name="w", shape=(1,)),), x=x, y=y, metrics=("loss",)
    )


@pytest.mark.parametrize(
    ("shape", "y", "says"),
    [
        ((3,), Example(shape=(), dtype="int64", classes=2), r"x: the model takes examples of shape \[3\].* has \[2\]"),
        ((2,), Example(shape=(), dtype="float32"), "y: the model takes float32 targets"),
        ((2,), Example(shape=(), dtype="int64", classes=1), "classes 0 to 0, this device has 0 to 1"),
    ],
)
def test_data_that_are_not_what_the_model_takes_are_said_to_be(
    tmp_path: Path, shape: tuple[int, ...], y: Example, says: str
) -> None:
    data = load("d", csv(tmp_path))
    fits(data, manifest((2,), Example(shape=(), dtype="int64", classes=2)))
    with pytest.raises(DataMismatch, match=says):
        fits(data, manifest(shape, y))
