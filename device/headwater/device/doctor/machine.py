"""Law: this board is looked at where Linux tells of it; what is not told is no fault, and nothing is changed.

/proc/meminfo, /proc/device-tree/model, /sys/fs/cgroup, /sys/fs/ext4, the sensors, and the firmware's own word on a
Raspberry Pi. One file of 4 kB is written to the state folder, and taken away.
"""

import contextlib
import ctypes
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import headwater.device
from headwater.device.conditions import has_rules, missing_sensors, obstacle
from headwater.device.consent import Consent
from headwater.device.doctor.facts import (
    Clock,
    Disk,
    Enrolment,
    Examples,
    Heat,
    Kept,
    Leave,
    Memory,
    Papers,
    Running,
    Software,
)
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.runtime.failures import WorkerFailed
from headwater.device.runtime.frames import Frame
from headwater.device.sensors import Sensors
from headwater.device.sources import load, store_path
from headwater.device.sources.live.store import counts_in
from headwater.node.enrolling import Files
from headwater.schemas.errors import ConfigError, DataError
from headwater.schemas.settings import DeviceSettings
from headwater.schemas.sources import SensorSource, SourceSpec

SYNC_SIZE_BYTES: Final = 4096
FIRMWARE: Final = Path("/sys/devices/platform/soc/soc:firmware/get_throttled")
TOOL_LIMIT_S: Final = 5.0
_TIME_ERROR: Final = 5
"""adjtimex(2): nobody keeps this clock."""

_TIMEX_SIZE_BYTES: Final = 512
"""More than struct timex takes on any machine."""


def clock(witnesses: Iterable[Path], now: datetime) -> Clock:
    """`witnesses` are files whose times of writing are past."""
    written = [(path.stat().st_mtime, str(path)) for path in witnesses if path.exists()]
    at_s, witness = max(written, default=(0.0, "nothing"))
    return Clock(now, _is_synchronised(), datetime.fromtimestamp(at_s, UTC), witness)


def witnesses(settings_file: Path | None, settings: DeviceSettings) -> tuple[Path, ...]:
    """What this board wrote when it was installed, set up and last at work."""
    stated = (settings.state / f"{settings.node}.db", settings.state / "training" / settings.node / "checkpoint")
    return (Path(headwater.device.__file__), *((settings_file,) if settings_file else ()), *stated)


def _is_synchronised() -> bool | None:
    """The kernel knows it of whoever keeps its clock."""
    try:
        return bool(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE_BYTES)) != _TIME_ERROR)
    except (OSError, AttributeError):
        return None


def software() -> Software:
    return Software(
        version=version("headwater"),
        python=platform.python_version(),
        machine=platform.machine(),
        word_bits=struct.calcsize("P") * 8,
        board=_text(Path("/proc/device-tree/model")).rstrip("\0"),
    )


def heat(sensors: Sensors, now: datetime) -> Heat:
    return Heat(sensors.reading(now).temperature_c, _throttled())


def _throttled() -> int | None:
    told = _text(FIRMWARE)
    if not told and shutil.which("vcgencmd"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["vcgencmd", "get_throttled"]
            told = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_LIMIT_S).stdout
    try:
        return int(told.strip().rpartition("=")[2], 16)
    except ValueError:
        return None


def memory(meminfo: str, controllers: str) -> Memory:
    """`controllers` are those of the second version of Linux's control groups; empty where there are none."""
    lines = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    numbers = {name: int(value.split()[0]) * 1024 for name, value in lines.items() if value.split()[:1]}
    return Memory(
        total_bytes=numbers.get("MemTotal", 0),
        available_bytes=numbers.get("MemAvailable", 0),
        is_limitable="memory" in controllers.split() if controllers else None,
    )


def this_memory() -> Memory:
    return memory(_text(Path("/proc/meminfo")), _text(Path("/sys/fs/cgroup/cgroup.controllers")))


def disk(folder: Path) -> Disk:
    """The folder, or what is there of the way to it."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("/"))
    try:
        room = os.statvfs(there)
        sync_s = _sync_s(there)
    except OSError as error:
        return Disk(str(there), trouble=error.strerror or str(error))
    return Disk(
        folder=str(there),
        free_bytes=room.f_bavail * room.f_frsize,
        size_bytes=room.f_blocks * room.f_frsize,
        free_files_share=room.f_favail / room.f_files if room.f_files else 1.0,
        sync_s=sync_s,
        errors=_errors(there),
    )


def _sync_s(folder: Path) -> float:
    """How long it takes until a small file is safe. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.monotonic()
        file.write(os.urandom(SYNC_SIZE_BYTES))
        file.flush()
        os.fsync(file.fileno())
        return time.monotonic() - began


def _errors(folder: Path) -> int | None:
    """What ext4 has counted on the device that holds the folder."""
    number = folder.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve().name
    try:
        return int(_text(Path("/sys/fs/ext4") / device / "errors_count"))
    except ValueError:
        return None


def kept(settings: DeviceSettings) -> Kept:
    files = (settings.state / f"{settings.node}{ending}" for ending in (".db", ".db-wal"))
    return Kept(sum(file.stat().st_size for file in files if file.exists()), settings.kept_size_bytes)


def running(settings: DeviceSettings) -> Running:
    """Start a worker, and end it."""
    worker = Worker(Bounds(settings.worker.memory_limit_mb * 2**20, settings.conditions.niceness))
    began = time.monotonic()
    try:
        worker.ask(Frame({"do": "hello"}))
    except WorkerFailed as error:
        return Running(None, str(error))
    finally:
        worker.close()
    return Running(time.monotonic() - began)


def examples(settings: DeviceSettings) -> tuple[Examples, ...]:
    """Every source is read, as the agent would; of live ones the store is counted."""
    folder = settings.state / "data" / settings.node
    return tuple(_examples(key, spec, folder) for key, spec in settings.data.items())


def _examples(key: str, spec: SourceSpec, folder: Path) -> Examples:
    try:
        if isinstance(spec, SensorSource):
            counts = counts_in(store_path(key, spec, folder))
            return Examples(key, spec.kind, counts.train, counts.test, is_live=True)
        data = load(key, spec)
    except DataError as error:
        return Examples(key, spec.kind, trouble=str(error))
    return Examples(key, spec.kind, len(data.train_x), len(data.test_x))


def leave(settings: DeviceSettings, sensors: Sensors, local_now: datetime) -> Leave:
    """The owner's function is found, and not asked: it may count how often it is."""
    conditions = settings.conditions
    if conditions.rule is not None:
        try:
            Consent(conditions.rule)
        except ConfigError as error:
            return Leave(trouble=str(error))
    if not has_rules(conditions):
        return Leave()
    reading = sensors.reading(local_now)
    return Leave(missing_sensors(conditions, reading), obstacle(conditions, reading))


def enrolment(settings: DeviceSettings) -> Enrolment:
    if settings.enrol is None:
        return "none"
    if Files(settings.broker.tls, "broker").are_there:
        return "done"
    return "to_come" if settings.enrol.token_file.exists() else "no_token"


def papers(files: Iterable[Path]) -> tuple[Papers, ...]:
    return tuple(_papers(str(file)) for file in dict.fromkeys(files))


def _papers(file: str) -> Papers:
    try:
        from headwater.trust.certificates import name_of, read_certificates
        from headwater.trust.problems import Untrusted
    except ModuleNotFoundError:
        return Papers(file)
    try:
        certificate = read_certificates(Path(file).read_bytes(), file)[0]
        return Papers(file, name_of(certificate), certificate.not_valid_after_utc)
    except (OSError, Untrusted) as error:
        return Papers(file, trouble=str(error))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
