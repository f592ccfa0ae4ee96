"""The unit that keeps a device running: systemd takes every line of it, and little of the board is open to it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.postgres import missing

DEPLOY = Path(__file__).parents[2] / "device" / "deploy"
UNIT = DEPLOY / "headwater-device.service"
MAX_EXPOSURE = 2.0
"""systemd's measure from 0 (nothing is open to it) to 10; a service without any rule has 9.6."""


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze", "apt-get install systemd")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that this machine has."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/headwater/venv/bin/python", sys.executable))
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


def test_little_of_the_board_is_open_to_the_agent(unit: Path) -> None:
    assert exposure(unit) <= MAX_EXPOSURE


def test_an_open_unit_is_noticed(unit: Path) -> None:
    unit.write_text(re.sub(r"(?m)^(Protect|Restrict|SystemCall|Capability).*\n", "", unit.read_text()))
    assert exposure(unit) > MAX_EXPOSURE


def test_the_script_is_plain_sh() -> None:
    done = subprocess.run(["dash", "-n", DEPLOY / "install.sh"], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")
