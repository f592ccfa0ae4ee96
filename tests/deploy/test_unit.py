"""The units that keep a tier running: systemd takes every line of them, and little of the machine is open to them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.postgres import missing

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "device" / "deploy"
DEVICE = DEPLOY / "headwater-device.service"
OTHERS = ROOT / "deploy" / "systemd" / "headwater@.service"
UNITS = {DEVICE.name: DEVICE, "headwater@gateway.service": OTHERS, "headwater@cloud.service": OTHERS}
PROGRAM = re.compile(r"(?<=ExecStart=)\S+")
MAX_EXPOSURE = 2.0
"""systemd's measure from 0 (nothing is open to it) to 10; a service without any rule has 9.6."""


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze", "apt-get install systemd")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit with a program that this machine has."""
    path = tmp_path / request.param
    path.write_text(PROGRAM.sub(sys.executable, UNITS[request.param].read_text(), count=1))
    return path


def test_systemd_understands_the_unit(unit: Path) -> None:
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_line_that_systemd_does_not_know_is_noticed(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in analyze("verify", unit).stderr


def exposure(unit: Path) -> float:
    told = analyze("security", "--offline=true", "--no-pager", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found, told
    return float(found[1])


def test_little_of_the_machine_is_open_to_it(unit: Path) -> None:
    assert exposure(unit) <= MAX_EXPOSURE


def test_an_open_unit_is_noticed(unit: Path) -> None:
    unit.write_text(re.sub(r"(?m)^(Protect|Restrict|SystemCall|Capability).*\n", "", unit.read_text()))
    assert exposure(unit) > MAX_EXPOSURE


def fence(unit: Path) -> list[str]:
    """What it may touch, but for folders of its own."""
    _, behind = unit.read_text().split("# What it may touch: ")
    lines = behind.split("\n\n")[0].splitlines()[1:]
    return [line for line in lines if not line.startswith("ReadWritePaths=")]


def test_every_tier_is_behind_the_same_fence() -> None:
    """systemd has no way to say it once: a unit whose fence lies in another file runs without it where that is missing."""
    assert len(fence(DEVICE)) > 20
    assert fence(OTHERS) == fence(DEVICE)


def test_the_script_is_plain_sh() -> None:
    done = subprocess.run(["dash", "-n", DEPLOY / "install.sh"], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")
