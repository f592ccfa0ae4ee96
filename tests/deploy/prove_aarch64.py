"""Proves that the agent learns on 64-bit ARM: a Debian for it, the installer, and three rounds, under emulation.

    apt-get install debootstrap qemu-user-static mosquitto
    python tests/deploy/prove_aarch64.py FOLDER [--rounds 3]

Takes root, about ten minutes the first time (FOLDER keeps the Debian) and two after it. The emulator is known to a
namespace of its own alone: nothing of this machine is changed. It is no test of the suite, for it is too slow.
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from headwater.device.image import fetching
from headwater.testbed.machine import free_port
from support.boards import DEPLOY, ROOT
from support.brokers import broker

EMULATOR: Final = "/usr/bin/qemu-aarch64-static"
# The head of an ELF file for aarch64, and which of its bits count; F keeps the emulator open across a change of root.
BINARY_FORMAT: Final = (
    r":aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:"
    r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:" + EMULATOR + ":F"
)
NEW_USER, NEW_MOUNT = 0x1000_0000, 0x0002_0000
USERS: Final = 65_536
PACKAGES: Final = "ca-certificates,python3,libstdc++6"
AGENT: Final = (
    "/opt/headwater/venv/bin/python -P /opt/headwater/launcher.py /opt/headwater/versions "
    "-m headwater.device /etc/headwater/device.toml"
)
SETTINGS: Final = """\
node = "arm-1"
state = "/var/lib/headwater"
[broker]
port = {port}
[data.vibration]
kind = "file"
path = "/var/lib/headwater/vibration.csv"
features = ["x", "y"]
target = "state"
labels = ["ok", "worn"]
"""
RUN: Final = """\
name = "arm"
data = "vibration"
rounds = {rounds}
[model]
kind = "mlp"
features = 2
classes = 2
[cohort]
min_children = 1
deadline_s = 300.0
"""
CSV: Final = "x,y,state\n" + "".join(f"{i / 400},{1 - i / 400},{'ok' if i < 200 else 'worn'}\n" for i in range(400))


def started(root: Path, card: Path, script: str) -> int:
    """A process that runs a script in the emulated root, in namespaces of its own; `card` is there as /mnt."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if ctypes.CDLL(None).unshare(NEW_USER | NEW_MOUNT):
                raise OSError("no namespace: this needs root, and user namespaces")
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            mounts = [["-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"]]
            # Not /sys: what it says of this machine's cores is not true of those that are emulated.
            mounts += [["--rbind", place, str(root) + place] for place in ("/proc", "/dev")]
            mounts += [["--bind", str(card), f"{root}/mnt"]]
            for mount in mounts:
                subprocess.run(["mount", *mount], check=True)
            Path("/proc/sys/fs/binfmt_misc/register").write_text(BINARY_FORMAT)
            # Debian's own second stage makes devices, unless it is in a container.
            os.execve(
                "/usr/sbin/chroot", ["chroot", str(root), "/bin/sh", "-ec", script], os.environ | {"container": "lxc"}
            )
        finally:
            os._exit(1)
    os.read(ready[0], 1)
    for table in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{table}").write_text(f"0 0 {USERS}\n")
    os.write(go[1], b"x")
    return pid


def emulated(root: Path, card: Path, script: str) -> None:
    _, status = os.waitpid(started(root, card, script), 0)
    if status:
        sys.exit(f"in the emulated root this failed: {script}")


def timed(what: str, do: Callable[[], None]) -> None:
    began = time.monotonic()
    do()
    print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)


def make_debian(root: Path, card: Path) -> None:
    if (root / "usr" / "bin" / "python3").exists() and not (root / "debootstrap").exists():
        return
    first = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root]
    subprocess.run(first, check=True, stdout=subprocess.DEVNULL)
    emulated(root, card, "/debootstrap/debootstrap --second-stage >/dev/null")


def make_card(card: Path, port: int) -> None:
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", card, ROOT], check=True, capture_output=True)
    (wheel,) = card.glob("*.whl")
    subprocess.run([sys.executable, "-m", "pip", *fetching(wheel, card / "wheelhouse", "3.11")], check=True)
    (card / "device.toml").write_text(SETTINGS.format(port=port))
    (card / "vibration.csv").write_text(CSV)
    (card / "install.sh").write_text((DEPLOY / "install.sh").read_text())


def install(root: Path, card: Path) -> None:
    lines = (
        "sh /mnt/install.sh --wheel /mnt/headwater-*.whl --wheelhouse /mnt/wheelhouse --no-start",
        "install -m 0644 -o headwater /mnt/vibration.csv /var/lib/headwater/",
        "cp /mnt/device.toml /etc/headwater/device.toml",
        "uname -m",
    )
    emulated(root, card, "; ".join(lines))


def learn(root: Path, card: Path, port: int, rounds: int) -> None:
    command = [sys.executable, "-m", "headwater.cli.main"]
    environment = os.environ | {"HEADWATER_BROKER__PORT": str(port)}
    (card / "run.toml").write_text(RUN.format(rounds=rounds))
    agent = started(root, card, f"exec setpriv --reuid=headwater --regid=headwater --clear-groups {AGENT}")
    cloud = subprocess.Popen([*command, "cloud"], cwd=card, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not (card / "headwater.db").exists():
            time.sleep(0.5)
        subprocess.run([*command, "run", "start", "run.toml"], cwd=card, check=True)
        subprocess.run([*command, "run", "watch"], cwd=card, check=True, timeout=600)
    finally:
        cloud.terminate()
        cloud.wait(20)
        os.kill(agent, 15)
        os.waitpid(agent, 0)


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("folder", type=Path, help="where the Debian for ARM is kept")
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    root = (asked.folder / "arm64").resolve()
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with tempfile.TemporaryDirectory() as name, broker("mosquitto", port=port):
        card = Path(name)
        timed("Debian for aarch64", lambda: make_debian(root, card))
        timed("wheel and packages", lambda: make_card(card, port))
        timed("installed, emulated", lambda: install(root, card))
        timed(f"{asked.rounds} rounds, emulated", lambda: learn(root, card, port, asked.rounds))


if __name__ == "__main__":
    main()
