"""An update of a device's software, decided, judged and written: what may go wrong, and where it may be cut off."""

import contextlib
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.device import launcher
from headwater.device.launcher import Record
from headwater.device.updating import progress as updates
from headwater.device.updating import wheels
from headwater.device.updating.progress import Progress, begin, step
from headwater.schemas.messages import Release
from support.wheels import release, small

WHEEL = small()
RELEASE = release(WHEEL)
NEXT = release(WHEEL, "2.1", counter=8)
RESTING = begin("1.0", None)
EVENTS = (
    updates.Asked(RELEASE),
    updates.Asked(NEXT),
    updates.Spared(),
    updates.Fetched(),
    updates.Sound(),
    updates.Unfit("why"),
    updates.Ready(),
    updates.Proven(),
)


def after(*events: updates.Event, start: Progress = RESTING) -> tuple[Progress, tuple[updates.Effect, ...]]:
    effects: tuple[updates.Effect, ...] = ()
    for event in events:
        start, effects = step(start, event)
    return start, effects


ASKED, FETCHED, SOUND, READY = updates.Asked(RELEASE), updates.Fetched(), updates.Sound(), updates.Ready()


# ── what is decided ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("events", "state", "effects"),
    [
        ((ASKED,), "downloading", (updates.Fetch(None), updates.Fetch(RELEASE.wheel))),
        ((ASKED, FETCHED), "downloaded", (updates.Verify(RELEASE),)),
        ((ASKED, FETCHED, SOUND), "verified", (updates.Unpack(RELEASE),)),
        ((ASKED, FETCHED, SOUND, READY), "updating", (updates.Switch(Record(7, "2.0", "updating")),)),
        (
            (ASKED, FETCHED, updates.Unfit("bad")),
            "failed",
            (updates.Fetch(None), updates.Keep(Record(7, "2.0", "failed", "bad"))),
        ),
        (
            (ASKED, FETCHED, SOUND, updates.Unfit("full")),
            "failed",
            (updates.Fetch(None), updates.Keep(Record(7, "2.0", "failed", "full"))),
        ),
        ((ASKED, updates.Spared()), "updated", (updates.Fetch(None),)),
        ((ASKED, FETCHED, SOUND, updates.Spared()), "updated", (updates.Fetch(None),)),
        ((ASKED, ASKED), "downloading", ()),
        ((ASKED, FETCHED, updates.Asked(NEXT)), "downloading", (updates.Fetch(None), updates.Fetch(NEXT.wheel))),
        ((updates.Asked(NEXT), ASKED), "downloading", ()),
        ((ASKED, SOUND), "downloading", ()),
        ((READY,), "updated", ()),
        ((updates.Proven(),), "updated", ()),
        ((ASKED, FETCHED, updates.Unfit("bad"), ASKED), "failed", ()),
        ((ASKED, FETCHED, SOUND, READY, updates.Spared()), "updating", ()),
        ((ASKED, FETCHED, SOUND, READY, updates.Asked(NEXT)), "updating", ()),
    ],
)
def test_an_update_goes_step_by_step(
    events: tuple[updates.Event, ...], state: str, effects: tuple[updates.Effect, ...]
) -> None:
    progress, done = after(*events)
    assert (progress.state, done) == (state, effects)


def test_a_version_that_runs_already_is_taken_at_once() -> None:
    progress, effects = after(updates.Asked(release(WHEEL, "1.0")))
    assert (progress.state, effects[-1]) == ("updated", updates.Keep(Record(7, "1.0", "updated")))


@pytest.mark.parametrize(
    ("record", "state", "counter"),
    [
        pytest.param(None, "updated", 0, id="never had one"),
        pytest.param(Record(7, "2.0", "failed", "bad"), "failed", 7, id="went back"),
        pytest.param(Record(7, "1.0", "updated"), "updated", 7, id="proven"),
        pytest.param(Record(7, "1.0", "updating"), "updating", 7, id="on trial"),
        pytest.param(Record(7, "2.0", "updating"), "updated", 6, id="cut off before it was put in place"),
        pytest.param(Record(7, "2.0", "updated"), "updated", 7, id="another put there by hand"),
    ],
)
def test_a_process_that_starts_knows_where_it_stands(record: Record | None, state: str, counter: int) -> None:
    status = begin("1.0", record).status()
    assert (status.state, status.counter) == (state, counter)


def test_a_version_on_trial_takes_nothing_until_it_has_proven_itself() -> None:
    trial = begin("2.0", Record(7, "2.0", "updating"))
    assert after(updates.Asked(NEXT), start=trial) == (trial, ())
    proven, effects = after(updates.Proven(), start=trial)
    assert effects == (updates.Keep(Record(7, "2.0", "updated")),)
    assert after(updates.Asked(NEXT), start=proven)[0].state == "downloading"


@pytest.mark.parametrize("counter", [1, 6, 7])
def test_a_release_of_the_past_is_not_taken_again(counter: int) -> None:
    """The older one is signed as well as the newer; that is no reason to go back to it."""
    updated = begin("2.0", Record(7, "2.0", "updated"))
    assert after(updates.Asked(release(WHEEL, "1.0", counter)), start=updated) == (updated, ())


def test_an_older_version_is_taken_when_it_is_numbered_anew() -> None:
    updated = begin("2.0", Record(7, "2.0", "updated"))
    assert after(updates.Asked(release(WHEEL, "1.0", 8)), start=updated)[0].state == "downloading"


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_whatever_happens_the_last_counter_never_falls_and_nothing_is_put_in_place_unjudged(
    events: list[updates.Event],
) -> None:
    progress, judged = RESTING, set()
    for event in events:
        if isinstance(event, updates.Sound) and progress.state == "downloaded" and progress.target:
            judged.add(progress.target.counter)
        following, effects = step(progress, event)
        assert following.taken.counter >= progress.taken.counter
        for effect in effects:
            if isinstance(effect, updates.Switch):
                assert effect.record.counter in judged
        progress = following


# ── what is judged ──────────────────────────────────────────────────────────────────────────────────────────────

HERE = {"numpy": "2.2.0", "onnxruntime": "1.22.1"}


def linked() -> bytes:
    made = io.BytesIO(small())
    with zipfile.ZipFile(made, "a") as opened:
        link = zipfile.ZipInfo("headwater/link")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/passwd")
    return made.getvalue()


def packed(how: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(WHEEL)) as old, zipfile.ZipFile(made, "w", how) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) or b"A = 1\n" * 100)
    return made.getvalue()


def cut_up(wheel: bytes) -> bytes:
    """With no stream where the first file's should be."""
    at = wheel.index(b"__init__.py") + len(b"__init__.py")
    return wheel[:at] + b"\xff\xff" + wheel[at + 2 :]


def sealed() -> bytes:
    """With the flag of a password at its first file."""
    wheel = bytearray(WHEEL)
    wheel[6] |= 1
    wheel[wheel.index(b"PK\x01\x02") + 8] |= 1
    return bytes(wheel)


def twice() -> bytes:
    made = io.BytesIO(small())
    with zipfile.ZipFile(made, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("headwater/device/a.py", "A = 2\n")
    return made.getvalue()


def test_a_wheel_that_is_what_it_should_be_is_taken() -> None:
    wheels.check(WHEEL, RELEASE, HERE.get, "3.11.2")


@pytest.mark.parametrize(
    ("wheel", "says"),
    [
        pytest.param(b"no zip at all", "no wheel of headwater 2.0", id="no zip"),
        pytest.param(small("2.0", says="2.1"), "of headwater 2.1; headwater 2.0 was signed", id="another version"),
        pytest.param(small("2.1"), "does not belong into it", id="another version's folder"),
        pytest.param(small(name="footwater"), "of footwater", id="another package"),
        pytest.param(small(files={"../evil.py": b""}), "'../evil.py' does not belong", id="out of the folder"),
        pytest.param(small(files={"headwater/../../evil.py": b""}), "does not belong", id="out by a detour"),
        pytest.param(small(files={"/etc/evil": b""}), "'/etc/evil' does not belong", id="an absolute path"),
        pytest.param(small(files={"numpy/__init__.py": b""}), "does not belong", id="another library's name"),
        pytest.param(small(files={"headwater\\x.py": b""}), "does not belong", id="a path of another system"),
        pytest.param(linked(), "'headwater/link' does not belong", id="a link"),
        pytest.param(twice(), "one of them twice", id="a file twice"),
        pytest.param(small(pure="false"), "not of pure Python", id="not pure"),
        pytest.param(small(python=">=3.14"), "3.11.2 here; it needs >=3.14", id="a younger Python"),
        pytest.param(small(needs=("numpy>=3",)), "numpy: is 2.2.0 here; it needs numpy>=3", id="a younger numpy"),
        pytest.param(small(needs=("torch",)), "torch: is not installed", id="something that is not there"),
        pytest.param(small(needs=('x; extra == "device"',)), "x: is not installed", id="what devices need"),
        pytest.param(small(needs=("numpy>>>1",)), "wheel: ", id="a need that nobody can read"),
        pytest.param(small(files={"headwater/big": bytes(65 * 2**20)}), "bytes unpacked; at most", id="a bomb"),
        pytest.param(small(files={"./": b""}), "'./' does not belong", id="no path at all"),
        pytest.param(sealed(), "'headwater/device/__init__.py' does not belong", id="sealed by a password"),
        pytest.param(packed(zipfile.ZIP_LZMA), "does not belong", id="packed by what takes any memory to unpack"),
        pytest.param(
            cut_up(packed(zipfile.ZIP_DEFLATED)), "no wheel of headwater 2.0", id="damaged where it is packed"
        ),
    ],
)
def test_a_wheel_that_is_not_is_refused_with_the_reason(wheel: bytes, says: str) -> None:
    if len(wheel) > 16 * 2**20:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(wheel)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
        wheel = made.getvalue()
    with pytest.raises(wheels.Unsound) as caught:
        wheels.check(wheel, release(wheel), HERE.get, "3.11.2")
    assert says in str(caught.value)


def test_other_bytes_than_were_signed_are_refused() -> None:
    with pytest.raises(wheels.Unsound, match="not those that were signed"):
        wheels.check(small(python=">=3.10"), RELEASE, HERE.get, "3.11.2")


def test_one_flipped_bit_is_seen_even_if_it_was_signed() -> None:
    at = WHEEL.index(b"A = 1")
    flipped = WHEEL[:at] + b"A = 7" + WHEEL[at + 5 :]
    with pytest.raises(wheels.Unsound, match="damaged"):
        wheels.check(flipped, release(flipped), HERE.get, "3.11.2")


@given(st.integers(0, len(WHEEL) - 1), st.binary(min_size=1, max_size=8))
def test_whatever_was_signed_by_mistake_is_judged_without_a_fall(at: int, junk: bytes) -> None:
    wheel = WHEEL[:at] + junk + WHEEL[at + len(junk) :]
    # Any other exception would end the agent.
    with contextlib.suppress(wheels.Unsound):
        wheels.check(wheel, release(wheel), HERE.get, "3.11.2")


# ── what is written ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    (tmp_path / "1.0" / "headwater").mkdir(parents=True)
    (tmp_path / "current").symlink_to("1.0")
    return tmp_path


def test_a_wheel_is_unpacked_whole_and_compiled(versions: Path) -> None:
    wheels.unpack(WHEEL, RELEASE, versions)
    assert (versions / "2.0" / "headwater" / "device" / "a.py").read_text() == "A = 1\n"
    assert list((versions / "2.0" / "headwater" / "device" / "__pycache__").glob("a.*.pyc"))
    assert not list(versions.glob(".*"))


def test_the_same_version_of_another_wheel_is_unpacked_anew_and_of_the_same_not(versions: Path) -> None:
    wheels.unpack(WHEEL, RELEASE, versions)
    inode = (versions / "2.0").stat().st_ino
    wheels.unpack(WHEEL, RELEASE, versions)
    assert (versions / "2.0").stat().st_ino == inode
    other = small(files={"headwater/c.py": b"C = 3\n"})
    wheels.unpack(other, release(other), versions)
    assert (versions / "2.0" / "headwater" / "c.py").exists()


def test_without_room_nothing_is_written(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(versions)
    monkeypatch.setattr(wheels.shutil, "disk_usage", lambda _: usage._replace(free=wheels.SPARE_BYTES))
    with pytest.raises(wheels.Unsound, match="disk: 33554432 bytes free in"):
        wheels.unpack(WHEEL, RELEASE, versions)
    assert sorted(path.name for path in versions.iterdir()) == ["1.0", "current"]


def test_what_is_not_python_is_not_put_in_place(versions: Path) -> None:
    bad = small(files={"headwater/bad.py": b"def :\n"})
    with pytest.raises(wheels.Unsound, match="SyntaxError"):
        wheels.unpack(bad, release(bad), versions)
    assert not (versions / "2.0").exists()


def test_of_older_versions_those_stay_that_may_be_needed(versions: Path) -> None:
    for name in ("0.8", "0.9", ".2.0.new"):
        (versions / name / "headwater").mkdir(parents=True)
    wheels.clear(versions, {"1.0", "0.9"})
    assert sorted(path.name for path in versions.iterdir()) == ["0.9", "1.0", "current"]


# ── where the power may go ──────────────────────────────────────────────────────────────────────────────────────

CHANGES = {"os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "subprocess.Popen"}


def cut_off_at(step: int, work: Callable[[], Any]) -> bool:
    """Do some work in a process that ends, as by a power cut, before its `step`-th change of the disk. True where it
    was cut off."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def update(versions: Path, what: Release, wheel: bytes) -> None:
    wheels.clear(versions, {"1.0", "2.0"})
    wheels.unpack(wheel, what, versions)
    launcher.put_on_trial(versions, Record(what.counter, what.version, "updating"))


def test_cut_off_at_any_step_a_version_starts_that_is_whole_and_the_update_can_be_done_again(tmp_path: Path) -> None:
    steps, was_cut_off = 0, True
    while was_cut_off:
        versions = tmp_path / str(steps)
        (versions / "1.0" / "headwater").mkdir(parents=True)
        (versions / "current").symlink_to("1.0")
        was_cut_off = cut_off_at(steps, lambda versions=versions: update(versions, RELEASE, WHEEL))
        decision = launcher.decide(launcher.look(versions))
        assert isinstance(decision, launcher.Start), steps
        if decision.version == "2.0":
            assert launcher.look(versions).is_on_trial
            assert launcher.look(versions).previous == "1.0"
            assert (versions / "2.0" / wheels.CONTENT).read_text() == RELEASE.wheel.sha256.hex()
        else:
            # The agent of then is asked again, and does it again.
            found = begin(decision.version, launcher.read_record(versions))
            assert after(ASKED, start=found)[0].state == "downloading", steps
            update(versions, RELEASE, WHEEL)
        assert launcher.look(versions).current == "2.0"
        assert not list(versions.glob(".*.new")) or decision.version == "2.0"
        steps += 1
    assert steps > 15, "every change of the disk was tried"


def test_cut_off_at_any_step_of_going_back_it_goes_back(tmp_path: Path) -> None:
    steps, was_cut_off = 0, True
    while was_cut_off:
        versions = tmp_path / str(steps)
        for version in ("1.0", "2.0"):
            (versions / version / "headwater").mkdir(parents=True)
        (versions / "current").symlink_to("1.0")
        launcher.put_on_trial(versions, Record(7, "2.0", "updating"))
        found = replace(launcher.look(versions), boots=launcher.Boots("2.0", 3))
        match launcher.decide(found):
            case launcher.GoBack(to, record):
                was_cut_off = cut_off_at(
                    steps, lambda versions=versions, to=to, record=record: launcher.go_back(versions, to, record)
                )
            case other:
                raise AssertionError(other)
        # The count of its starts is on the disk since the last of them.
        again = launcher.look(versions)
        if again.is_on_trial:
            again = replace(again, boots=launcher.Boots("2.0", 3))
        decision = launcher.decide(again)
        assert (decision.version if isinstance(decision, launcher.Start) else getattr(decision, "to", None)) == "1.0"
        steps += 1
    assert launcher.decide(launcher.look(versions)) == launcher.Start("1.0")
    assert steps > 3
