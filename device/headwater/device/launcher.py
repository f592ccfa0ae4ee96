"""Law: whatever version of the agent is in place, a device comes back with one that works.

    python launcher.py [--prove-s SECONDS] VERSIONS -m headwater.device DEVICE.toml

It starts the agent of `VERSIONS/current` as its child, and starts it anew when that asks for it (exit code 75). A
version that came over the tree is on trial until it has proven itself, for which it has three starts of `--prove-s`
seconds each. Behind them, or when a proven one crashes soon after its start three times in a row, `current` goes back
to what it was before, and the record says so, which the older version tells its parent.

    current, previous   links to the folders of two versions; `current` alone decides what is started
    release.json        the last release that this device had to do with, and what came of it
    boots.json          how many starts of which version came to nothing, one after the other

Each is replaced whole, so there is no moment at which a power cut leaves a device without a version that starts. A copy
of this file outside of all versions is what an update never touches: it knows the standard library alone, is older or
younger than the agent, and the four names above are what both agree on for ever. The agent imports it for the records.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

START_ANEW: Final = 75
"""The agent's exit code when another version is in place."""

NO_VERSION: Final = 2
MAX_BOOTS: Final = 3
PROVE_WITHIN_S: Final = 300.0
LASTING_S: Final = 60.0
"""A start that went on for longer was none that came to nothing."""

LOOK_EVERY_S: Final = 0.25
MAX_RECORD_SIZE_BYTES: Final = 64 * 1024

LAUNCHED: Final = "HW_LAUNCHER"
"""Environment variable by which an agent knows that it will be started anew."""

CURRENT: Final = "current"
PREVIOUS: Final = "previous"
_RELEASE: Final = "release.json"
_BOOTS: Final = "boots.json"

Outcome = Literal["updating", "updated", "failed"]


# ── the records ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Record:
    """The last release that a device had to do with. While it is `updating`, and in place, it is on trial."""

    counter: int
    version: str
    state: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Boots:
    """So many starts of a version came to nothing, one after the other."""

    version: str = ""
    count: int = 0


def read_record(folder: Path) -> Record | None:
    """None where there is none, or a damaged one."""
    found = _read(folder / _RELEASE)
    try:
        state: Outcome = {"updating": "updating", "updated": "updated", "failed": "failed"}[found["state"]]  # type: ignore[assignment]
        return Record(int(found["counter"]), str(found["version"]), state, str(found.get("detail", "")))
    except (KeyError, TypeError, ValueError):
        return None


def write_record(folder: Path, record: Record) -> None:
    """Raises OSError; the last record is still there then."""
    _replace(folder / _RELEASE, asdict(record))


def version_in_place(folder: Path, link: str = CURRENT) -> str | None:
    """The version that a link leads to, None where it leads nowhere."""
    with contextlib.suppress(OSError):
        version = os.readlink(folder / link).rstrip("/").rpartition("/")[2]
        if (folder / version / "headwater").is_dir():
            return version
    return None


def put_on_trial(folder: Path, record: Record) -> None:
    """Put the version of a record in place of the one that is, to which it may go back.

    Cut off anywhere, either the old version is in place, and the record of no meaning, or the new one is on trial.

    Raises:
        OSError: the folder cannot be written; the old version is in place then.
    """
    before = version_in_place(folder)
    # The same version may have failed in an earlier release.
    _replace(folder / _BOOTS, asdict(Boots()))
    write_record(folder, record)
    if before is not None:
        _lead(folder, PREVIOUS, before)
    _lead(folder, CURRENT, record.version)


# ── what to start ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Place:
    """What the folder says. `previous` is None where there is nothing to go back to."""

    current: str | None
    previous: str | None
    record: Record | None
    boots: Boots

    @property
    def is_on_trial(self) -> bool:
        return self.record is not None and self.record.version == self.current and self.record.state == "updating"

    @property
    def came_by_release(self) -> bool:
        return self.record is not None and self.record.version == self.current and self.record.state != "failed"

    @property
    def failed_boots(self) -> int:
        return self.boots.count if self.boots.version == self.current else 0


@dataclass(frozen=True)
class Start:
    version: str


@dataclass(frozen=True)
class GoBack:
    """Put `to` in place, and keep why."""

    to: str
    record: Record


@dataclass(frozen=True)
class GiveUp:
    why: str


def decide(place: Place) -> Start | GoBack | GiveUp:
    """What is to be done where the folder is as `place` says."""
    record, current, back = place.record, place.current, place.previous
    if record is not None and record.version == current and record.state == "failed" and back is not None:
        # It was being taken back when the power went.
        return GoBack(back, record)
    if current is None:
        if back is not None:
            return GoBack(back, record or Record(0, back, "updated"))
        return GiveUp(f"no version in place; unpack a wheel into a folder of its version, and link {CURRENT} to that")
    if record is not None and place.came_by_release and place.failed_boots >= MAX_BOOTS and back is not None:
        what = "did not prove itself" if place.is_on_trial else "crashed soon"
        why = f"{what} in {place.failed_boots} starts, one after the other; back to {back}"
        return GoBack(back, Record(record.counter, record.version, "failed", why))
    return Start(current)


@dataclass(frozen=True)
class Ended:
    """How a start ended: its exit code (negative for a signal), how long it went on, and whether it was told to."""

    code: int
    lasted_s: float
    was_told: bool


def boots_after(place: Place, ended: Ended) -> Boots:
    """`place` is as after the start: on trial it came to nothing unless it has proven itself or was told to end. On
    trial it was counted beforehand, for a power cut counts too."""
    if place.is_on_trial and not ended.was_told:
        return place.boots
    if place.is_on_trial:
        return Boots(place.boots.version, max(0, place.failed_boots - 1))
    has_crashed = ended.code == 1 or (ended.code < 0 and -ended.code not in (signal.SIGTERM, signal.SIGINT))
    if has_crashed and not ended.was_told and ended.lasted_s < LASTING_S and place.current is not None:
        return Boots(place.current, place.failed_boots + 1)
    return Boots()


# ── doing it ────────────────────────────────────────────────────────────────────────────────────────────────────


class Launcher:
    """One run of the launcher.

    Args:
        arguments: what Python is called with.
        prove_within_s: for each start of a version on trial.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], prove_within_s: float = PROVE_WITHIN_S) -> None:
        self._folder = folder
        self._arguments = arguments
        self._prove_within_s = prove_within_s
        self._process: subprocess.Popen[bytes] | None = None
        self._told: int | None = None
        self._boots: Boots | None = None

    def run(self) -> int:
        """Until an agent ends that is not to be started anew; its exit code, as a shell would tell it."""
        for which in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(which, self._pass_on)
        while True:
            match decide(self._look()):
                case GiveUp(why):
                    print(f"headwater: {self._folder}: {why}", file=sys.stderr)
                    return NO_VERSION
                case GoBack(to, record):
                    print(f"headwater: {record.version}: {record.detail or 'gone'}; back to {to}", file=sys.stderr)
                    go_back(self._folder, to, record)
                case Start(version):
                    ended = self._started(version)
                    if self._told is not None or not self._goes_on(version, ended):
                        return 128 - ended.code if ended.code < 0 else ended.code

    def _look(self) -> Place:
        """A count that could not be written stands all the same."""
        place = look(self._folder)
        return replace(place, boots=self._boots) if self._boots is not None else place

    def _count(self, boots: Boots) -> None:
        self._boots = boots
        with contextlib.suppress(OSError):
            _replace(self._folder / _BOOTS, asdict(boots))

    def _started(self, version: str) -> Ended:
        """One start to its end."""
        place = self._look()
        if place.is_on_trial:
            self._count(Boots(version, place.failed_boots + 1))
        ended = self._until_end(version)
        after = look(self._folder)
        if after.current == version:
            boots = boots_after(self._look(), ended)
            if boots != self._look().boots:
                self._count(boots)
        else:
            # Whoever put another in its place began its count.
            self._boots = None
        return ended

    def _goes_on(self, version: str, ended: Ended) -> bool:
        """Whether another start follows. An agent that asks for one, and has put nothing else in its place, is the
        supervisor's affair."""
        place = self._look()
        is_next = ended.code == START_ANEW and place.current != version
        return is_next or place.is_on_trial or not isinstance(decide(place), Start)

    def _until_end(self, version: str) -> Ended:
        began, is_trial = time.monotonic(), self._look().is_on_trial
        command = [sys.executable, "-P", *self._arguments]
        # The watchdog counts from here: the last agent may have been silent for a while, and this one has to start.
        tell_supervisor(os.environ.get("NOTIFY_SOCKET", ""), "WATCHDOG=1")
        self._process = process = subprocess.Popen(command, env=self._environment(version))
        if self._told is not None:
            # It came before there was anyone to pass it on to.
            process.send_signal(self._told)
        code = None
        while code is None:
            try:
                # Without a trial there is nothing to look for.
                code = process.wait(LOOK_EVERY_S if is_trial else None)
            except subprocess.TimeoutExpired:
                if not look(self._folder).is_on_trial:
                    # It has proven itself: its starts count from here.
                    is_trial = False
                    self._count(Boots())
                elif time.monotonic() - began >= self._prove_within_s:
                    print(f"headwater: {version}: not proven within {self._prove_within_s:g} s", file=sys.stderr)
                    # Not asked to end: it would tell the supervisor that all of this ends.
                    process.kill()
                    code = process.wait()
        self._process = None
        return Ended(code, time.monotonic() - began, self._told is not None)

    def _environment(self, version: str) -> dict[str, str]:
        """The folder itself, and not the link to it, which may lead elsewhere while it runs."""
        path = [str((self._folder / version).resolve()), os.environ.get("PYTHONPATH", "")]
        return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), LAUNCHED: "1"}

    def _pass_on(self, which: int, _: Any) -> None:
        self._told = which
        # An agent that is started anew does not stop; this does.
        tell_supervisor(os.environ.get("NOTIFY_SOCKET", ""), "STOPPING=1")
        if self._process is not None:
            self._process.send_signal(which)


def look(folder: Path) -> Place:
    """What the folder says now."""
    current, previous = version_in_place(folder), version_in_place(folder, PREVIOUS)
    boots = _read(folder / _BOOTS)
    count = boots.get("count")
    return Place(
        current,
        previous if previous != current else None,
        read_record(folder),
        Boots(str(boots.get("version", "")), count if isinstance(count, int) else 0),
    )


def go_back(folder: Path, to: str, record: Record) -> None:
    """The record first: cut off in between, the next start does the rest. A disk that is full costs the record.

    Raises:
        OSError: the folder cannot be written.
    """
    with contextlib.suppress(OSError):
        write_record(folder, record)
    _lead(folder, CURRENT, to)


def tell_supervisor(address: str, lines: str) -> None:
    """Hand NAME=value lines to the socket that NOTIFY_SOCKET names, as sd_notify(3) has it. Without one, or where it
    does not take them, nothing is sent."""
    if address.startswith(("/", "@")):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            # A leading @ stands for the zero byte of Linux's abstract names.
            to.sendto(lines.encode(), "\0" + address[1:] if address[0] == "@" else address)


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        found = json.loads(file.read(MAX_RECORD_SIZE_BYTES))
        if isinstance(found, dict):
            return found
    return {}


def _replace(path: Path, content: dict[str, Any]) -> None:
    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())

    _beside(path, write)


def _lead(folder: Path, link: str, version: str) -> None:
    _beside(folder / link, lambda beside: beside.symlink_to(version))


def _beside(path: Path, make: Callable[[Path], None]) -> None:
    """Make it beside, then put it in its place: all or nothing, and on the disk."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    make(beside)
    os.replace(beside, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def main() -> int:
    """The command line, as the module says."""
    parser = argparse.ArgumentParser(description="Starts the version of the agent that works.", allow_abbrev=False)
    parser.add_argument("--prove-s", type=float, default=PROVE_WITHIN_S)
    parser.add_argument("versions", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    return Launcher(given.versions, given.arguments, given.prove_s).run()


if __name__ == "__main__":
    sys.exit(main())
