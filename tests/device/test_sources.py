"""Data sources: known answers, and every fault named where it is."""

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_people_are_put_together_in_one_data_set() -> None:
    both = load("w", WatchSource(kind="watch", persons=(3, 4)))
    assert (len(both.train_x), len(both.test_x)) == (TRAIN[2] + TRAIN[3], TEST[2] + TEST[3])
    assert set(np.unique(both.train_y)) == set(range(7))


def npy(value: object) -> bytes:
    return (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
        + b"\n"
        + pickle.dumps(value)
    )


class Bomb:
    """Unpickled, it would call a function."""

    def __init__(self, function: Callable[..., object] = eval, *arguments: object) -> None:
        self.call = (function, arguments or ("1",))

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        pytest.param(os.system, r"posix\.system", id="a shell command"),
        pytest.param(eval, r"builtins\.eval", id="an expression"),
        pytest.param(importlib.import_module, r"importlib\.import_module", id="an import"),
        pytest.param(np.load, r"numpy\.load", id="numpy's own loader"),
        pytest.param(getattr, r"builtins\.getattr", id="a way to anything"),
    ],
)
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, function: Callable[..., object], name: str) -> None:
    trap = tmp_path / "sprung"
    with pytest.raises(DataError, match=f"wants to load {name}; it is not the data set"):
        watch_source.unpickled(npy(Bomb(function, f"touch {trap}")))
    assert not trap.exists()


def test_the_trap_would_spring_in_a_plain_unpickler(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(os.system, f"touch {tmp_path / 'sprung'}")))
    assert (tmp_path / "sprung").exists()


def test_a_file_of_which_a_byte_changed_is_refused_unread() -> None:
    payload = bytearray(watch_source._path().read_bytes())
    assert len(watch_source.read(bytes(payload))["X"]) == 140
    payload[len(payload) // 2] ^= 1
    with pytest.raises(DataError, match=r"SHA-256 is [0-9a-f]{64}, not eb122f23.*reinstall seglearn"):
        watch_source.read(bytes(payload))


@pytest.mark.parametrize(
    ("spec", "package"),
    [
        (WatchSource(kind="watch", persons=(1,)), "seglearn"),
        (DigitsSource(kind="digits", devices=1, index=0, seed=99), "scikit-learn"),
    ],
)
def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, spec: WatchSource | DigitsSource, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"{package} is not installed; pip install 'headwater\[testbed\]'"):
        load("d", spec)


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


WEIGHED = "a,b,label,w\n1,2,ok,1\n2,3,worn,{}\n3,4,ok,0\n4,5,ok,9\n"


def test_a_column_says_how_much_a_training_row_counts(tmp_path: Path) -> None:
    data = load("d", csv(tmp_path, WEIGHED.format(2.5), weight="w", test_fraction=0.25))
    assert data.train_weights is not None
    assert data.train_weights.tolist() == [1.0, 2.5, 0.0]
    assert data.weight == 3.5
    assert load("d", csv(tmp_path, WEIGHED.format(2.5))).weight == 3.0


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        ("-1", "weight -1.0 in row 1; a weight is a finite number"),
        ("inf", "weight inf in row 1"),
        ("x", "is no number"),
    ],
)
def test_a_weight_that_is_none_is_named(tmp_path: Path, weight: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load("d", csv(tmp_path, WEIGHED.format(weight), weight="w"))


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
        pytest.param(
            CSV + "9,1,broken\n",
            {},
            "line 10, column 'label': 'broken' is none of the labels ok, worn",
            id="unknown label",
        ),
        pytest.param(CSV + "9,1\n", {}, "line 10 has 2 cells where 3 belong", id="ragged"),
        pytest.param("a,b,label\n", {}, "0 training examples", id="no rows"),
        pytest.param("", {}, "no column 'a'; there are none", id="empty"),
        pytest.param(
            "a,b,label\n1,2,2\n3,4,0\n",
            {"labels": (), "classes": 2},
            "line 2, column 'label': 2 is no class of 0 to 1",
            id="class",
        ),
        pytest.param("a,b,label\n1,2,0.5\n", {"labels": (), "classes": 2}, "0.5 is no class", id="half a class"),
        pytest.param("a,b,label\n1,2,-1\n", {"labels": (), "classes": 2}, "-1 is no class", id="negative class"),
        pytest.param('a,b,label\n1,"\n2",ok\n1,x,ok\n', {}, "line 4, column 'b': 'x'", id="a cell over two lines"),
        pytest.param(CSV + f'1,"{"9" * 200_000}",ok\n', {}, "field larger than field limit", id="huge cell"),
        pytest.param("a,b,label\n1e300,1,ok\n", {}, "x: inf in row 0, column 0", id="beyond float32"),
        pytest.param(
            CSV, {"target": "b", "labels": (), "features": ("label",)}, "'worn' is no number", id="text feature"
        ),
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


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    data = load("d", csv(tmp_path, "\ufeffa,b,label\n1,2,ok\n\n3,4,worn\n\n", test_fraction=0.0))
    assert data.train_x.tolist() == [[1, 2], [3, 4]]
    assert data.train_y.tolist() == [0, 1]
    assert len(data.test_x) == 0


rows = st.lists(
    st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 2, st.integers(0, 4)),
    min_size=1,
    max_size=20,
)


@given(rows, st.sampled_from([0.0, 0.25, 0.5, 0.99]))
@settings(max_examples=25)
def test_every_kind_of_file_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[float, float, int]], test_fraction: float
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("files")
    columns = {name: np.array(column) for name, column in zip("abc", zip(*table, strict=True), strict=True)}
    (folder / "d.csv").write_text("c,b,a\n" + "".join(f"{c},{b!r},{a!r}\n" for a, b, c in table))
    np.savez(folder / "d.npz", **columns)
    pq.write_table(pa.table(columns), folder / "d.parquet")
    for kind in ("csv", "npz", "parquet"):
        data = load(
            "d",
            FileSource(
                kind="file",
                path=folder / f"d.{kind}",
                features=("a", "b"),
                target="c",
                classes=5,
                test_fraction=test_fraction,
            ),
        )
        assert len(data.test_x) == int(len(table) * test_fraction)
        x, y = np.concatenate([data.train_x, data.test_x]), np.concatenate([data.train_y, data.test_y])
        np.testing.assert_array_equal(x, np.array([row[:2] for row in table], np.float32))
        np.testing.assert_array_equal(y, [row[2] for row in table])
        for array in (data.train_x, data.train_y, data.test_x, data.test_y):
            assert not array.flags.writeable


def test_an_array_of_several_axes_stays_so(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.ones((4, 3, 2)), b=np.ones((4, 2)))
    data = load("d", FileSource(kind="file", path=tmp_path / "d.npz", features=("a",), target="b", test_fraction=0.5))
    assert (data.train_x.shape, data.train_y.shape) == ((2, 3, 2), (2, 2))


NPZ = {"a": np.arange(4.0), "b": np.arange(4)}


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        pytest.param({"a": np.arange(3.0)}, "d.npz: no column 'b'; there are a", id="missing"),
        pytest.param(NPZ | {"c": np.arange(5)}, r"'c' has shape \[5\], 'a' \[4\]; make them alike", id="lengths"),
        pytest.param(NPZ | {"c": np.array(3)}, "'c' is a single value", id="a single value"),
        pytest.param(NPZ | {"b": np.array(3)}, "'b' is a single value", id="a single target"),
        pytest.param(NPZ | {"b": np.arange(9)}, "give one target a row", id="too many targets"),
        pytest.param(NPZ | {"c": np.array(list("12x4"))}, "row 2, column 'c': 'x' is no number", id="text"),
        pytest.param(
            NPZ | {"c": np.arange(4).astype("datetime64[ns]")}, "row 0, column 'c': .* is no number", id="dates"
        ),
        pytest.param(NPZ | {"c": np.ones(4, complex)}, "column 'c': .* is no number", id="complex"),
    ],
)
def test_a_fault_in_an_npz_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    features = ("a", "c") if "c" in arrays else ("a",)
    with pytest.raises(DataError, match=says):
        load("d", FileSource(kind="file", path=tmp_path / "d.npz", features=features, target="b"))


@pytest.mark.parametrize(
    ("column", "says"),
    [
        pytest.param(["x", "y"], "row 0, column 'a': 'x' is no number", id="text"),
        pytest.param([1.0, None], "x: nan in row 1, column 0", id="null"),
        pytest.param([[1.0, 2.0], [3.0, 4.0]], r"column 'a': '\[1\. 2\.\]' is no number", id="lists"),
    ],
)
def test_a_fault_in_a_parquet_file_is_named(tmp_path: Path, column: list[object], says: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": column, "b": [1, 2]}), tmp_path / "d.parquet")
    spec = FileSource(kind="file", path=tmp_path / "d.parquet", features=("a",), target="b", test_fraction=0.0)
    with pytest.raises(DataError, match=says):
        load("d", spec)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"takes pyarrow; pip install 'headwater\[parquet\]'"):
        load("d", FileSource(kind="file", path=tmp_path / "d.parquet", features=("a",), target="b"))


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
@pytest.mark.parametrize(
    "payload", [b"", b"\xff\xfe\x00 not this", b"PK\x03\x04" + bytes(40)], ids=["empty", "garbage", "torn zip"]
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, kind: str, payload: bytes) -> None:
    path = tmp_path / f"d.{kind}"
    path.write_bytes(payload)
    with pytest.raises(DataError, match=f"d.{kind}: "):
        load("d", FileSource(kind="file", path=path, features=("a",), target="b"))


@given(st.data())
@settings(max_examples=60)
def test_a_damaged_npz_is_read_or_refused_and_nothing_worse(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("files") / "d.npz"
    np.savez_compressed(path, **NPZ)
    payload = bytearray(path.read_bytes())
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(payload[: data.draw(st.integers(0, len(payload)) | st.just(len(payload)))])
    try:
        load("d", FileSource(kind="file", path=path, features=("a",), target="b"))
    except DataError as error:
        assert str(error)  # noqa: PT017 — either outcome is right; another exception is not


def test_a_directory_and_a_locked_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match=r"d\.csv: Is a directory; check data path and permissions"):
        load("d", FileSource(kind="file", path=tmp_path / "d.csv", features=("a",), target="b"))


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
def ragged(): return [[1], [1, 2]], [0, 0], [], []
def single(): return 1, 2, 3, 4
def words(): return [[1.0]], ["a"], [], []
def unequal(): return np.ones((3, 2)), np.zeros(2, int), [], []
def other_shape(): return np.ones((3, 2)), np.zeros(3, int), np.ones((3, 4)), np.zeros(3, int)
def untested(): return np.ones((3, 2)), np.zeros(3, int), [], []
class Plant:
    @staticmethod
    def pump():
        from headwater.device.sources import Dataset
        return Dataset(np.ones((3, 2)), np.zeros(3, np.int32), np.ones((1, 2)), np.zeros(1, bool))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("raise RuntimeError('no driver')")
    monkeypatch.delitem(sys.modules, "own_data", raising=False)
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
        ("own_data:np", "own_data:np: it is a module; name a function"),
        ("own_broken:f", "own_broken:f: importing it failed with RuntimeError: no driver"),
        ("..own:f", "importing it failed with TypeError"),
        ("own_data:ragged", "own_data:ragged: x: .*features must be numbers in rows of one length"),
        ("own_data:single", "own_data:single: .: a single value; give one a row"),
        ("own_data:words", "own_data:words: y: .*targets must be class numbers or numbers"),
        ("own_data:unequal", "data.d: train: 3 rows of features and 2 targets"),
        ("own_data:other_shape", r"training examples have shape \[2\], test examples \[4\]; make them alike"),
    ],
)
def test_an_owners_function_that_does_not_is_named(entry: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load("d", PythonSource(kind="python", entry=entry))


@pytest.mark.usefixtures("own")
def test_whatever_an_owner_returns_has_the_dtypes_that_graphs_take() -> None:
    for entry in ("own_data:untested", "own_data:Plant.pump"):
        data = load("d", PythonSource(kind="python", entry=entry))
        assert (data.train_x.dtype, data.test_x.dtype) == (np.float32, np.float32)
        assert (data.train_y.dtype, data.test_y.dtype) == (np.int64, np.int64)
        fits(data, manifest((2,), Example(shape=(), dtype="int64", classes=2)))


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
