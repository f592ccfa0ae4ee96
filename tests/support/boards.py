"""Boards for tests: Debian in a container, with systemd as its first process or without, on this machine's network."""

import contextlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.postgres import missing

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "device" / "deploy"
IMAGE: Final = "headwater-test-board"
BASE: Final = "debian:bookworm-slim"
DOCKERFILE: Final = f"""\
FROM {BASE}
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3 systemd \
  && rm -rf /var/lib/apt/lists/*
"""
# What systemd needs of a container engine on a machine with or without cgroups of the second version.
SYSTEMD: Final = (
    *("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--env", "container=docker"),
    *("--tmpfs", "/run", "--tmpfs", "/tmp"),
)


@dataclass(frozen=True)
class Board:
    """A running container."""

    name: str

    def run(self, *command: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "exec", "--interactive", self.name, *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def sh(self, script: str, check: bool = True) -> str:
        return self.run("sh", "-c", script, check=check).stdout.strip()

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", f"cat > {path}", stdin=text)

    def shown(self, what: str) -> str:
        """One property of the agent's unit."""
        return self.sh(f"systemctl show --value --property={what} headwater-device")

    def in_a_container(self, watchdog_s: float = 60.0) -> None:
        """What the unit cannot have here: a container lets no process of systemd's write a map of users."""
        self.sh("mkdir -p /etc/systemd/system/headwater-device.service.d")
        self.write(
            "/etc/systemd/system/headwater-device.service.d/container.conf",
            f"[Service]\nPrivateUsers=no\nWatchdogSec={watchdog_s}\nRestartSec=1s\n",
        )

    def journal(self) -> str:
        return self.sh("journalctl --no-pager --unit headwater-device")


@contextlib.contextmanager
def board(files: Path, *, systemd: bool) -> Iterator[Board]:
    """A fresh board that finds `files` below /src. Skipped, on CI failed, without a container engine."""
    if shutil.which("docker") is None or _docker("info", check=False).returncode:
        missing("Docker", "start its engine")
    _docker("build", "--quiet", "--tag", IMAGE, "-", stdin=DOCKERFILE)
    name = f"headwater-board-{uuid.uuid4().hex[:8]}"
    kind, first = (SYSTEMD, ("/lib/systemd/systemd",)) if systemd else ((), ("sleep", "infinity"))
    mounts = ("--volume", f"{files}:/src:ro", "--volume", f"{DEPLOY}:/deploy:ro")
    _docker("run", "--detach", "--rm", "--init" if not systemd else "--tty", "--network", "host", "--name", name,
            *mounts, *kind, IMAGE, *first)  # fmt: skip
    try:
        yield Board(name)
    finally:
        _docker("rm", "--force", name, check=False)


def packages(folder: Path) -> Path:
    """A wheel of this very repository, and beside it all that a device of the board's Python needs."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=110)
    (wheel,) = folder.glob("headwater-*.whl")
    platforms = [f"--platform=manylinux_{version}_{os.uname().machine}" for version in ("2_28", "2_27", "2_17")]
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), "--only-binary=:all:"]
    fetch += ["--python-version=3.11", *platforms, f"{wheel}[device,trust,update]", "pip"]
    subprocess.run(fetch, check=True, capture_output=True, timeout=300)
    return wheel


def _docker(*arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], input=stdin, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"docker {arguments[0]}: {done.stderr}"
    return done
