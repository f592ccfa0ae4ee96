"""The installer on a fresh Debian: what it lays runs, twice is once, and what it removes leaves no more than was asked."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.boards import Board, board, packages
from support.brokers import broker
from support.waiting import eventually

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

SETTINGS = """\
node = "pump-7"
state = "/var/lib/headwater"
heartbeat_s = 1.0
[broker]
port = {port}
connect_timeout_s = 30.0
user = "pump-7"
password_file = "/etc/headwater/password"
[data.vibration]
kind = "file"
path = "/var/lib/headwater/vibration.csv"
features = ["x", "y"]
target = "state"
labels = ["ok", "worn"]
"""
RUN = """\
name = "bearings"
data = "vibration"
rounds = 2
[model]
kind = "logistic"
features = 2
classes = 2
[cohort]
min_children = 1
"""
CSV = "x,y,state\n" + "".join(f"{i / 40},{(40 - i) / 40},{'ok' if i < 20 else 'worn'}\n" for i in range(40))
INSTALL = "sh /deploy/install.sh --wheel /src/{wheel} --wheelhouse /src"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with broker("mosquitto") as opened:
        yield opened


@pytest.fixture(scope="module")
def booted(wheel: Path, port: int) -> Iterator[Board]:
    """A board under systemd on which the agent was installed as a person would."""
    with board(wheel.parent, systemd=True) as fresh:
        eventually(lambda: fresh.sh("systemctl is-system-running", check=False) in ("running", "degraded"))
        fresh.write("/tmp/device.toml", SETTINGS.format(port=port))
        fresh.sh("install -d -m 0755 /etc/headwater && echo hush >/etc/headwater/password")
        fresh.in_a_container()
        fresh.sh(f"{INSTALL.format(wheel=wheel.name)} --config /tmp/device.toml --no-start")
        fresh.write("/var/lib/headwater/vibration.csv", CSV)
        fresh.sh("systemctl --no-block start headwater-device")
        eventually(lambda: running(fresh), timeout_s=120)
        yield fresh


def running(on: Board) -> bool:
    return on.shown("ActiveState") == "active"


def test_an_installed_board_learns_with_its_fleet(booted: Board, port: int, tmp_path: Path) -> None:
    assert running(booted), booted.journal()
    (tmp_path / "run.toml").write_text(RUN)
    headwater = [sys.executable, "-m", "headwater.cli.main"]
    environment = os.environ | {"HEADWATER_BROKER__PORT": str(port)}
    cloud = subprocess.Popen([*headwater, "cloud"], cwd=tmp_path, env=environment)
    try:
        eventually(lambda: (tmp_path / "headwater.db").exists())
        subprocess.run([*headwater, "run", "start", "run.toml"], cwd=tmp_path, check=True, timeout=60)
        subprocess.run([*headwater, "run", "watch"], cwd=tmp_path, check=True, timeout=100)
    finally:
        cloud.terminate()
        cloud.wait(20)
    assert booted.shown("StatusText") == "connected; follows cloud"
    assert booted.shown("NRestarts") == "0", booted.journal()


def test_twice_is_once(booted: Board, wheel: Path) -> None:
    listing = (
        "find /etc/headwater /opt/headwater/versions /var/lib/headwater -not -name '*.pyc' -not -name '*.db*' | sort"
    )
    before = booted.sh(f"{listing}; sha256sum /etc/headwater/device.toml")
    told = booted.sh(INSTALL.format(wheel=wheel.name))
    assert "kept /etc/headwater/device.toml" in told
    assert booted.sh(f"{listing}; sha256sum /etc/headwater/device.toml") == before
    eventually(lambda: running(booted))


def test_an_agent_that_is_killed_comes_back(booted: Board) -> None:
    eventually(lambda: running(booted))
    before = booted.shown("MainPID")
    booted.sh("systemctl kill --signal=KILL headwater-device")
    eventually(lambda: running(booted) and booted.shown("MainPID") != before)


def test_an_agent_that_hangs_is_started_anew(booted: Board) -> None:
    booted.in_a_container(watchdog_s=3)
    booted.sh("systemctl daemon-reload && systemctl restart headwater-device")
    before = booted.shown("MainPID")
    booted.sh("systemctl kill --signal=STOP headwater-device")
    eventually(lambda: running(booted) and booted.shown("MainPID") != before)
    assert "Watchdog timeout" in booted.journal()


def test_settings_at_fault_are_told_and_not_tried_again(booted: Board) -> None:
    booted.sh("sed -i s/heartbeat_s/heart_beat_s/ /etc/headwater/device.toml")
    booted.sh("systemctl restart headwater-device", check=False)
    eventually(lambda: booted.shown("ActiveState") == "failed")
    assert "did you mean heartbeat_s?" in booted.journal()
    assert booted.shown("ExecMainStatus") == "2"
    booted.sh("sed -i s/heart_beat_s/heartbeat_s/ /etc/headwater/device.toml")
    booted.sh("systemctl restart headwater-device")


def test_what_is_uninstalled_keeps_the_owners_files(booted: Board, wheel: Path) -> None:
    told = booted.sh("sh /deploy/install.sh --uninstall")
    assert "kept: /etc/headwater and /var/lib/headwater" in told
    assert booted.sh("ls /opt /etc/systemd/system /usr/local/bin; systemctl is-active headwater-device", check=False)
    assert booted.sh("ls -d /opt/headwater /usr/local/bin/headwater-device 2>/dev/null", check=False) == ""
    assert booted.sh("cat /var/lib/headwater/vibration.csv") == CSV.strip()
    booted.sh("sh /deploy/install.sh --uninstall --purge")
    assert booted.sh("ls -d /etc/headwater /var/lib/headwater 2>/dev/null; getent passwd headwater", check=False) == ""


@pytest.fixture(scope="module")
def bare(wheel: Path) -> Iterator[Board]:
    """A board, or a container, that runs no systemd."""
    with board(wheel.parent, systemd=False) as fresh:
        yield fresh


def test_without_systemd_the_agent_starts_by_hand(bare: Board, wheel: Path, port: int) -> None:
    bare.write(
        "/tmp/device.toml",
        SETTINGS.format(port=port).replace("pump-7", "pump-8"),
    )
    bare.write("/tmp/token", "once")
    bare.sh("install -d -m 0755 /etc/headwater && echo hush >/etc/headwater/password")
    told = bare.sh(f"{INSTALL.format(wheel=wheel.name)} --config /tmp/device.toml --token /tmp/token")
    assert "no systemd runs here; by hand: runuser" in told
    assert bare.sh("stat -c '%a %U' /var/lib/headwater/enrolment-token; ls /tmp/token 2>&1", check=False).split("\n") == [
        "600 headwater", "ls: cannot access '/tmp/token': No such file or directory"]  # fmt: skip
    bare.write("/var/lib/headwater/vibration.csv", CSV)
    by_hand = told.split("by hand: ")[1].split("\n")[0]
    bare.sh(f"timeout 15 {by_hand} 2>/tmp/log &")
    eventually(lambda: "connected to" in bare.sh("cat /tmp/log"))


LAID = "/opt/headwater/versions/current/headwater/device"
MINE = "runuser -u headwater -- sh -c '{}'"
"""Whoever has taken over the agent, and waits for root."""


def test_what_the_agent_may_change_is_never_roots_to_run(bare: Board, wheel: Path) -> None:
    if "current" not in bare.sh("ls /opt/headwater/versions", check=False):
        bare.sh(INSTALL.format(wheel=wheel.name))
    bare.sh(MINE.format(f'echo "import os; print(os.getuid())" >{LAID}/__main__.py'))
    assert bare.sh("headwater-device doctor") == bare.sh("id -u headwater")
    bare.sh(INSTALL.format(wheel=wheel.name))


def test_root_lays_what_is_in_the_wheel_whatever_the_agent_does_meanwhile(bare: Board, wheel: Path) -> None:
    bare.sh(INSTALL.format(wheel=wheel.name))
    launcher = bare.sh("sha256sum /opt/headwater/launcher.py")
    swap = f"while [ ! -e /tmp/over ]; do echo evil >{LAID}/launcher.py; done"
    bare.sh(f"{MINE.format(swap)} >/dev/null 2>&1 &")
    place = "/var/lib/headwater/enrolment-token"
    bare.sh(MINE.format(f"rm -f {place}; ln -s /etc/headwater {place}"))
    bare.write("/tmp/pump-8.token", "once")
    try:
        bare.sh(f"{INSTALL.format(wheel=wheel.name)} --token /tmp/pump-8.token")
    finally:
        bare.sh("touch /tmp/over")
    assert bare.sh("sha256sum /opt/headwater/launcher.py") == launcher
    assert "token" not in bare.sh("ls /etc/headwater")
    assert bare.sh(f"stat -c '%F %a %U' {place}; cat {place}").split("\n") == ["regular file 600 headwater", "once"]
    bare.sh(INSTALL.format(wheel=wheel.name))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param("sh /deploy/install.sh", "--wheel: missing", id="no wheel"),
        pytest.param("sh /deploy/install.sh --wheel", "--wheel: missing value", id="no value"),
        pytest.param("sh /deploy/install.sh --weel x", "--weel: no such option", id="a slip"),
        pytest.param("sh /deploy/install.sh --wheel /x.whl", "/x.whl: no such file", id="no file"),
        pytest.param("setpriv --reuid=1 sh /deploy/install.sh --wheel /x", "this needs root", id="not root"),
        pytest.param("PATH=/tmp/old:$PATH sh /deploy/install.sh --wheel /x", "is too old", id="an old Python"),
        pytest.param("PATH=/tmp/32:$PATH sh /deploy/install.sh --wheel /x", "64-bit Raspberry Pi OS", id="32 bit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_mend(bare: Board, script: str, says: str) -> None:
    bare.sh("mkdir -p /tmp/old /tmp/32")
    bare.write("/tmp/old/python3", '#!/bin/sh\ncase "$*" in *version_info*) exit 1;; esac\necho Python 3.9\n')
    bare.write("/tmp/32/python3", '#!/bin/sh\ncase "$*" in *calcsize*) exit 1;; esac\n')
    bare.sh("chmod +x /tmp/old/python3 /tmp/32/python3")
    done = bare.run("sh", "-c", script, check=False)
    assert done.returncode == 2, done.stdout
    assert says in done.stderr
