"""Prepared parts: a device reads its own files and no other's, and every fault names the file and the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from headwater.device.sources import load
from headwater.device.sources.prepared import data_folder
from headwater.schemas.errors import DataError
from headwater.schemas.sources import PreparedSource

MEND = "headwater data prepare driving"


def part(folder: Path, name: str, value: float, **changes: Any) -> Path:
    """A part of three training examples and one test example, all features `value`."""
    arrays = {
        "train_x": np.full((3, 2), value, np.float32),
        "train_y": np.array([0, 1, 2]),
        "test_x": np.full((1, 2), value, np.float32),
        "test_y": np.array([1]),
    }
    path = folder / "driving" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, **{key: array for key, array in (arrays | changes).items() if array is not None})
    return path


def source(folder: Path | None, *parts: str) -> PreparedSource:
    return PreparedSource(kind="prepared", name="driving", parts=parts, folder=folder)


def test_a_device_has_its_own_parts_and_no_other(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        part(tmp_path, f"D{number}", float(number), judged_x=np.full((9, 2), 99.0))
    data = load("style", source(tmp_path, "D1", "D3"))
    assert data.train_x[:, 0].tolist() == [1, 1, 1, 3, 3, 3]
    assert data.train_y.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test_x[:, 0].tolist() == [1, 3]
    assert data.train_y.dtype == np.int64


def test_a_part_without_a_target_is_one_to_reconstruct(tmp_path: Path) -> None:
    part(tmp_path, "D1", 1.0, train_y=np.zeros((3, 0), np.float32), test_y=np.zeros((1, 0), np.float32))
    assert load("x", source(tmp_path, "D1")).train_y.shape == (3, 0)


def cut_short(folder: Path) -> None:
    path = part(folder, "D1", 1.0)
    path.write_bytes(path.read_bytes()[:-40])


def with_a_pickle(folder: Path) -> None:
    part(folder, "D1", 1.0, train_x=np.array([{}, {}, {}], dtype=object))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: None, MEND),
        (lambda folder: part(folder, "D2", 1.0), MEND),
        (cut_short, MEND),
        (with_a_pickle, "holds pickled objects"),
        (lambda folder: part(folder, "D1", 1.0, test_y=None), "no array 'test_y'"),
        (lambda folder: part(folder, "D1", float("nan")), "data.style: train: x: nan in row 0, column 0"),
    ],
    ids=["nothing", "another part", "cut short", "a pickle", "an array less", "not finite"],
)
def test_what_is_wrong_with_a_part_is_said_with_the_mend(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError, match=said):
        load("style", source(tmp_path, "D1"))


def test_parts_of_two_shapes_do_not_go_together(tmp_path: Path) -> None:
    part(tmp_path, "D1", 1.0)
    part(tmp_path, "D2", 1.0, train_x=np.zeros((3, 5), np.float32))
    with pytest.raises(DataError, match=r"parts: D1, D2 of driving: .*headwater data prepare driving"):
        load("style", source(tmp_path, "D1", "D2"))


@pytest.mark.parametrize("name", ["../D1", "/etc/passwd", ".D1", "a/b", ""])
def test_a_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ValidationError):
        source(None, name)
    with pytest.raises(ValidationError):
        PreparedSource(kind="prepared", name=name, parts=("D1",))


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, "/home/me/.local/share/headwater/data"),
        ({"XDG_DATA_HOME": "/share"}, "/share/headwater/data"),
        ({"HW_DATA": "/sets", "XDG_DATA_HOME": "/share"}, "/sets"),
    ],
)
def test_data_lie_where_the_environment_says(environment: dict[str, str], folder: str) -> None:
    assert data_folder(environment, Path("/home/me")) == Path(folder)


def test_the_variable_holds_where_no_folder_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part(tmp_path, "D1", 7.0)
    monkeypatch.setenv("HW_DATA", str(tmp_path))
    assert load("style", source(None, "D1")).train_x.max() == 7.0
