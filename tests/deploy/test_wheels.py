"""Every package that a device needs is there for a Raspberry Pi, ready made: nothing is compiled on a board."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from headwater.device.image import EXTRAS, PLATFORMS
from support.boards import ROOT

pytestmark = pytest.mark.skipif(os.environ.get("CI") != "true", reason="asks the package index; set CI=true")


def needed() -> list[str]:
    """What the installer asks for, by the project's own word."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(requirement for extra in EXTRAS for requirement in extras[extra])]
    return [requirement for requirement in asked if not requirement.startswith("headwater[")]


def resolved(folder: Path, python: str, *platforms: str) -> subprocess.CompletedProcess[str]:
    """pip's answer for a machine of another kind; nothing is installed."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--target", str(folder)]
    command += ["--only-binary=:all:", f"--python-version={python}", *(f"--platform={name}" for name in platforms)]
    return subprocess.run([*command, *needed()], capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_a_64_bit_board_finds_every_package_ready_made(python: str, tmp_path: Path) -> None:
    done = resolved(tmp_path, python, *PLATFORMS)
    assert done.returncode == 0, done.stderr
    for name in ("onnxruntime", "numpy", "msgpack", "pydantic_core", "cryptography"):
        assert f"{name}-".lower() in done.stdout.lower().replace("pydantic-core", "pydantic_core"), done.stdout


def test_a_32_bit_board_does_not(tmp_path: Path) -> None:
    """That is why the installer refuses one; where onnxruntime comes to it some day, this says so."""
    done = resolved(tmp_path, "3.11", "linux_armv7l", "manylinux_2_31_armv7l", "manylinux_2_17_armv7l")
    assert done.returncode != 0
    assert "No matching distribution found for" in done.stderr
