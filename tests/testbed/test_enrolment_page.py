"""The page on certificates says what is so: its commands are run as they stand, from nothing to a node that was revoked."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.schemas.topics import Topics
from headwater.testbed.machine import free_port, wait_for_port
from headwater.trust.certificates import holder_of, read_certificates
from support.brokers import required
from support.guests import Guest, Papers
from support.waiting import eventually

pytestmark = pytest.mark.live

PAGE = Path(__file__).parents[2] / "docs" / "enrolment.md"
PORTS = ("8883", "8884", "8885")
SERVICES = ("mosquitto ", "headwater cloud ", "headwater device ")


class Machine:
    """A folder in which the page's blocks are done, one after the other."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.ports = {port: str(free_port()) for port in PORTS}
        self._stack = stack
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        (bin_folder / "headwater").write_text(f'#!/bin/sh\nexec {sys.executable} -m headwater.cli.main "$@"\n')
        (bin_folder / "headwater").chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        self._environment = kept | {"PATH": f"{bin_folder}:{os.environ['PATH']}:/usr/sbin"}

    def do(self, kind: str, text: str) -> None:
        for written, free in self.ports.items():
            text = text.replace(written, free)
        if kind == "toml":
            name = text.split("\n", 1)[0].removeprefix("# ")
            (self.folder / name).write_text(text)
            return
        for line in text.strip().splitlines():
            if line.startswith(SERVICES):
                self._start(line)
            else:
                done = subprocess.run(
                    line, shell=True, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=60
                )
                assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"

    def log(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text()

    def _start(self, line: str) -> None:
        service = line.split()[0] if line.startswith("mosquitto") else line.split()[1]
        if service == "mosquitto" and os.geteuid() == 0:
            # Started by root, it would step down to its own user, who could not read these files.
            with (self.folder / "broker" / "mosquitto.conf").open("a") as config:
                config.write("user root\n")
        output = (self.folder / f"{service}.log").open("wb")
        process = subprocess.Popen(
            line.split(), cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        self._stack.callback(process.wait, 20)
        self._stack.callback(process.terminate)
        self._stack.callback(output.close)
        if service == "mosquitto":
            (self.folder / "broker.pid").write_text(str(process.pid))
            wait_for_port(int(self.ports["8883"]))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    required("mosquitto", "mosquitto")
    (tmp_path / "vibration.csv").write_text("x,y,state\n" + "1,2,0\n3,4,1\n" * 8)
    with contextlib.ExitStack() as stack:
        yield Machine(tmp_path, stack)


def sections() -> dict[str, list[tuple[str, str]]]:
    """Heading to its blocks."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    blocks = {
        title: re.findall(r"```(sh|toml)\n(.*?)```", body, re.DOTALL)
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: found for title, found in blocks.items() if found}


def test_the_page_from_nothing_to_a_revoked_board(machine: Machine) -> None:
    *before, (last, revoking) = sections().items()
    assert last == "A board that is lost"
    for _, blocks in before:
        for kind, text in blocks:
            machine.do(kind, text)
    ca = machine.folder / "pki" / "ca.pem"
    with Guest(int(machine.ports["8885"]), Papers(user="eve", password="a good password", ca=ca), "eve") as eve:
        eve.subscribe(Topics("plant").status())
        eventually(lambda: any(b'"online"' in said for topic, said in eve.heard if "pump-7" in topic), 60)
    assert not (machine.folder / "pump-7.token").exists()
    mine = machine.folder / "state" / "trust"
    assert holder_of(read_certificates((mine / "pump-7.pem").read_bytes(), "got")[0]).node == "pump-7"
    assert "pump-7 enrolled by token" in machine.log("cloud")

    for kind, text in revoking:
        machine.do(kind, text)
    papers = Papers(certificate=mine / "pump-7.pem", key=mine / "pump-7.key", ca=ca)

    def is_shut_out() -> bool:
        with Guest(int(machine.ports["8883"]), papers, "pump-7") as again:
            return not again.let_in

    eventually(is_shut_out, 20)
