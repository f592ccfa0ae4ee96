"""A supervisor is told when the agent works, that it still does, and what it waits for; and nobody where there is none."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from headwater.device.notify import SILENT_AFTER_S, Supervisor, Told, keep_told, step, words
from headwater.node.parents import Standing

AWAY = Standing("gw1", connected=False, silent_s=None)
NEW = Standing("gw1", connected=True, silent_s=None)
HEARD = Standing("gw1", connected=True, silent_s=1.0)


@pytest.mark.parametrize(
    ("standing", "says"),
    [
        pytest.param(AWAY, "waits for the broker of gw1", id="no broker"),
        pytest.param(NEW, "connected; nothing heard of gw1 yet", id="no parent yet"),
        pytest.param(HEARD, "connected; follows gw1", id="follows"),
        pytest.param(Standing("gw1", True, SILENT_AFTER_S), "connected; follows gw1", id="at the edge"),
        pytest.param(Standing("gw1", True, 301.0), "connected; gw1 silent for 5 min", id="silent"),
        pytest.param(Standing("gw1", False, 301.0), "waits for the broker of gw1", id="the link is what counts"),
    ],
)
def test_a_standing_is_a_sentence(standing: Standing, says: str) -> None:
    assert words(standing) == says


def test_ready_is_said_once_and_only_when_connected() -> None:
    told, lines = step(Told(), AWAY, 0.0, None)
    assert "READY" not in lines
    told, lines = step(told, NEW, 1.0, None)
    assert lines["READY"] == "1"
    told, lines = step(told, AWAY, 2.0, None)
    told, lines = step(told, NEW, 3.0, None)
    assert "READY" not in lines


def test_nothing_new_is_nothing_said() -> None:
    told, _ = step(Told(), HEARD, 0.0, None)
    assert step(told, HEARD, 1.0, None)[1] == {}


def test_signs_of_life_come_three_in_a_watchdogs_time() -> None:
    told, signs = Told(), []
    for second in range(60):
        told, lines = step(told, AWAY, float(second), 30.0)
        signs += [second] if "WATCHDOG" in lines else []
    assert signs == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("environment", "supervisor"),
    [
        pytest.param({}, Supervisor(), id="nobody"),
        pytest.param({"NOTIFY_SOCKET": "/run/n"}, Supervisor("/run/n"), id="no watchdog"),
        pytest.param({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000"}, Supervisor("/n", 3.0), id="a watchdog"),
        pytest.param({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"}, Supervisor("/n"), id="a watchdog that is off"),
        pytest.param({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, Supervisor("/n"), id="no number"),
        pytest.param({"NOTIFY_SOCKET": "vsock:2:1"}, Supervisor(), id="another kind of socket"),
        pytest.param({"WATCHDOG_USEC": "3000000"}, Supervisor(), id="a watchdog that nobody hears"),
    ],
)
def test_the_supervisor_is_the_environments(environment: dict[str, str], supervisor: Supervisor) -> None:
    assert Supervisor.of(environment) == supervisor


def _listener(address: str) -> socket.socket:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(address)
    heard.setblocking(False)
    return heard


def _lines(heard: socket.socket) -> list[str]:
    lines: list[str] = []
    while True:
        try:
            lines += heard.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines


@pytest.mark.parametrize("kind", ["file", "abstract"])
async def test_a_service_is_ready_alive_and_says_that_it_stops(kind: str, tmp_path: Path) -> None:
    name = str(tmp_path / "notify") if kind == "file" else f"@headwater-test-{os.getpid()}"
    with _listener("\0" + name[1:] if kind == "abstract" else name) as heard:
        standing = AWAY
        task = asyncio.create_task(keep_told(Supervisor(name, 0.06), lambda: standing))
        await asyncio.sleep(0.1)
        assert {"WATCHDOG=1", "STATUS=waits for the broker of gw1"} == set(_lines(heard))
        standing = HEARD
        await asyncio.sleep(0.1)
        assert {"READY=1", "STATUS=connected; follows gw1", "WATCHDOG=1"} == set(_lines(heard))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert "STOPPING=1" in _lines(heard)


def test_a_supervisor_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    Supervisor(str(tmp_path / "none")).tell({"READY": "1"})
