"""The launcher: whatever is in place, a device comes back with a version that works."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.device import launcher
from headwater.device.launcher import Boots, Ended, GiveUp, GoBack, Place, Record, Start, boots_after, decide
from support.waiting import eventually

TRIAL = Record(7, "2.0", "updating")
PROVEN = Record(7, "2.0", "updated")
FAILED = Record(7, "2.0", "failed", "it was bad")
OLD, NEW = Place("1.0", None, None, Boots()), Place("2.0", "1.0", TRIAL, Boots())


# ── the decisions ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        pytest.param(OLD, Start("1.0"), id="a device that never had a release"),
        pytest.param(NEW, Start("2.0"), id="on trial"),
        pytest.param(replace(NEW, boots=Boots("2.0", 2)), Start("2.0"), id="its third start"),
        pytest.param(replace(NEW, boots=Boots("1.0", 3)), Start("2.0"), id="another version's starts"),
        pytest.param(replace(NEW, record=PROVEN), Start("2.0"), id="proven"),
        pytest.param(replace(OLD, record=TRIAL), Start("1.0"), id="cut off before it was put in place"),
        pytest.param(replace(OLD, record=FAILED), Start("1.0"), id="back already"),
        pytest.param(replace(NEW, record=FAILED), GoBack("1.0", FAILED), id="cut off while it was taken back"),
        pytest.param(replace(NEW, record=None, boots=Boots("2.0", 9)), Start("2.0"), id="put there by hand"),
        pytest.param(replace(NEW, previous=None, boots=Boots("2.0", 9)), Start("2.0"), id="nothing to go back to"),
        pytest.param(replace(NEW, current=None), GoBack("1.0", TRIAL), id="a folder that is gone"),
    ],
)
def test_what_is_started(place: Place, expected: object) -> None:
    assert decide(place) == expected


def test_after_three_starts_without_a_proof_it_goes_back_and_says_why() -> None:
    match decide(replace(NEW, boots=Boots("2.0", 3))):
        case GoBack("1.0", Record(7, "2.0", "failed", why)):
            assert why == "did not prove itself in 3 starts, one after the other; back to 1.0"
        case other:
            raise AssertionError(other)


def test_without_any_version_it_says_what_to_do() -> None:
    match decide(Place(None, None, None, Boots())):
        case GiveUp(why):
            assert "unpack a wheel" in why
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize(
    ("place", "ended", "count"),
    [
        pytest.param(replace(NEW, boots=Boots("2.0", 1)), Ended(0, 90.0, False), 1, id="on trial any end counts"),
        pytest.param(replace(NEW, boots=Boots("2.0", 1)), Ended(-15, 2.0, True), 0, id="but not one that was told"),
        pytest.param(replace(NEW, record=PROVEN), Ended(1, 2.0, False), 1, id="a crash"),
        pytest.param(replace(NEW, record=PROVEN, boots=Boots("2.0", 2)), Ended(-11, 2.0, False), 3, id="one more"),
        pytest.param(replace(NEW, record=PROVEN, boots=Boots("2.0", 2)), Ended(1, 61.0, False), 0, id="after a minute"),
        pytest.param(replace(NEW, record=PROVEN, boots=Boots("2.0", 2)), Ended(3, 2.0, False), 0, id="no broker"),
        pytest.param(replace(NEW, record=PROVEN, boots=Boots("2.0", 2)), Ended(-15, 2.0, True), 0, id="told to end"),
    ],
)
def test_which_starts_came_to_nothing(place: Place, ended: Ended, count: int) -> None:
    assert boots_after(place, ended).count == count


@given(st.sampled_from([OLD, NEW]), st.sampled_from([None, TRIAL, PROVEN, FAILED]), st.integers(0, 5))
def test_whatever_the_folder_says_something_starts_in_the_end(place: Place, record: Record | None, count: int) -> None:
    place = replace(place, record=record, boots=Boots(place.current or "", count))
    match decide(place):
        case GoBack(to, kept):
            assert decide(replace(place, current=to, previous=None, record=kept, boots=Boots())) == Start(to)
        case started:
            assert isinstance(started, Start)


# ── its records ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_records_of_ever_are_read_for_ever(tmp_path: Path) -> None:
    frozen = '{"counter": 7, "version": "2.0", "state": "failed", "detail": "it was bad", "later": 1}'
    (tmp_path / "release.json").write_text(frozen)
    assert launcher.read_record(tmp_path) == FAILED
    launcher.write_record(tmp_path, FAILED)
    assert json.loads((tmp_path / "release.json").read_text()) == {
        "counter": 7,
        "version": "2.0",
        "state": "failed",
        "detail": "it was bad",
    }


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"counter": "x", "version": "2", "state": "updated"}'])
def test_a_damaged_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "release.json").write_text(content)
    (tmp_path / "boots.json").write_text(content)
    laid(tmp_path, "1.0", "pass")
    (tmp_path / "current").symlink_to("1.0")
    assert decide(launcher.look(tmp_path)) == Start("1.0")


def test_it_needs_the_standard_library_alone(tmp_path: Path) -> None:
    copy = tmp_path / "launcher.py"
    copy.write_bytes(Path(launcher.__file__).read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(copy), str(tmp_path), "-m", "x"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no version in place" in done.stderr


# ── real processes ──────────────────────────────────────────────────────────────────────────────────────────────

PROVES = """
from headwater.device import launcher
record = launcher.read_record(FOLDER)
if record and record.state == "updating":
    launcher.write_record(FOLDER, launcher.Record(record.counter, record.version, "updated"))
"""


def laid(versions: Path, version: str, does: str) -> None:
    """A version whose agent writes its name into `started`, and does that."""
    package = versions / version / "headwater"
    package.mkdir(parents=True)
    script = f"""
import os, pathlib, sys, time
FOLDER = pathlib.Path({str(versions)!r})
with open(FOLDER / "started", "a") as file:
    print({version!r}, file=file)
{does}
"""
    (package / "pretended.py").write_text(script)


def launch(versions: Path, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, launcher.__file__, *options, str(versions), "-m", "headwater.pretended"]
    return subprocess.Popen(command, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})


def started(versions: Path) -> list[str]:
    path = versions / "started"
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    laid(tmp_path, "1.0", "sys.exit(0)")
    (tmp_path / "current").symlink_to("1.0")
    return tmp_path


def on_trial(versions: Path, does: str) -> None:
    laid(versions, "2.0", does)
    launcher.put_on_trial(versions, TRIAL)


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_a_version_that_is_not_on_trial_ends_the_launcher_with_its_code(tmp_path: Path, code: int) -> None:
    laid(tmp_path, "1.0", f"sys.exit({code})")
    (tmp_path / "current").symlink_to("1.0")
    assert launch(tmp_path).wait(30) == code
    assert started(tmp_path) == ["1.0"]


@pytest.mark.parametrize("does", ["sys.exit(1)", "sys.exit(0)", "sys.exit(2)", "os.kill(os.getpid(), 11)", "1 / 0"])
def test_a_version_that_ends_without_a_proof_gives_way_to_the_one_before(versions: Path, does: str) -> None:
    on_trial(versions, does)
    assert launch(versions).wait(60) == 0
    assert started(versions) == ["2.0", "2.0", "2.0", "1.0"]
    record = launcher.read_record(versions)
    assert record is not None
    assert (record.counter, record.version, record.state) == (7, "2.0", "failed")
    # Its next start has nothing to do with that any more.
    assert launch(versions).wait(30) == 0
    assert started(versions)[4:] == ["1.0"]


def test_a_version_that_hangs_is_ended_and_gives_way(versions: Path) -> None:
    on_trial(versions, "time.sleep(100)")
    assert launch(versions, "--prove-s", "0.5").wait(60) == 0
    assert started(versions) == ["2.0", "2.0", "2.0", "1.0"]


def test_a_version_that_proves_itself_stays(versions: Path) -> None:
    on_trial(versions, PROVES + "time.sleep(1)\nsys.exit(3)")
    assert launch(versions).wait(30) == 3
    assert started(versions) == ["2.0"]
    assert launcher.look(versions).current == "2.0"


def test_a_proven_version_that_crashes_again_and_again_gives_way_too(versions: Path) -> None:
    on_trial(versions, PROVES + "time.sleep(.6)\nsys.exit(1)")
    codes = [launch(versions).wait(30) for _ in range(3)]
    assert codes == [1, 1, 0]
    assert started(versions) == ["2.0", "2.0", "2.0", "1.0"]
    record = launcher.read_record(versions)
    assert record is not None
    assert "crashed soon in 3 starts" in record.detail


def test_a_version_that_asks_for_another_is_followed_by_it(versions: Path) -> None:
    switch = "launcher.put_on_trial(FOLDER, launcher.Record(8, '3.0', 'updating'))\nsys.exit(75)"
    on_trial(versions, PROVES + switch)
    laid(versions, "3.0", PROVES)
    assert launch(versions).wait(30) == 0
    assert started(versions) == ["2.0", "3.0"]
    assert launcher.look(versions) == Place("3.0", "2.0", Record(8, "3.0", "updated"), Boots())


def test_whoever_ends_the_launcher_ends_the_agent_and_that_start_does_not_count(versions: Path) -> None:
    on_trial(versions, "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\ntime.sleep(100)")
    process = launch(versions)
    eventually(lambda: started(versions))
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert launcher.look(versions).is_on_trial
    assert launcher.look(versions).failed_boots == 0


def test_a_supervisor_hears_that_all_of_it_stops_only_from_the_launcher(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(versions / "notify"))
        supervisor.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(versions / "notify"))
        on_trial(versions, "time.sleep(100)")
        process = launch(versions, "--prove-s", "0.3")
        # A watchdog counts from each start, whatever became of the one before.
        assert [supervisor.recv(1024) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        process.send_signal(signal.SIGTERM)
        while (line := supervisor.recv(1024)) == b"WATCHDOG=1":
            pass
        assert line == b"STOPPING=1"
        process.wait(30)


def test_a_launcher_that_is_killed_leaves_a_start_that_counts(versions: Path) -> None:
    on_trial(versions, "time.sleep(1)")
    for count in (1, 2, 3):
        process = launch(versions)
        eventually(lambda count=count: len(started(versions)) == count)
        process.kill()
        process.wait()
    assert launch(versions).wait(60) == 0
    assert started(versions) == ["2.0", "2.0", "2.0", "1.0"]


def test_a_version_that_failed_once_has_its_three_starts_again_in_a_later_release(versions: Path) -> None:
    on_trial(versions, "sys.exit(1)")
    launch(versions).wait(60)
    launcher.put_on_trial(versions, replace(TRIAL, counter=8))
    assert launch(versions).wait(60) == 0
    assert started(versions) == ["2.0", "2.0", "2.0", "1.0", "2.0", "2.0", "2.0", "1.0"]
