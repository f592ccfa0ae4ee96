"""The API of coordinators that run: the leader's, a standby's, without its broker, with its port taken, and its end."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headwater.cloud.api import server
from headwater.cloud.api.gate import Receive, Scope, Send
from headwater.schemas.http import Readiness
from headwater.testbed.machine import free_port
from headwater.testbed.processes import Processes, Started
from headwater.transport.broker import BrokerConfig, spawn
from support.waiting import eventually


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    with Processes(folder) as started:
        yield started


def cloud(of: Processes, folder: Path, name: str, broker: int, http: dict[str, Any]) -> Started:
    settings = {
        "fleet": "plant",
        "node": "cloud",
        "database": f"sqlite:///{folder / 'history.db'}",
        "lease_s": 2.0,
        "broker": {"port": broker, "connect_timeout_s": 2.0},
        "http": http,
    }
    return of.start("cloud", settings, name=name)


def ready(port: int) -> tuple[int, Readiness] | None:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5.0)
    except httpx.TransportError:
        return None
    return answer.status_code, Readiness.model_validate_json(answer.content)


def becomes(port: int, status: int, says: str) -> Readiness:
    def there() -> Readiness | None:
        found = ready(port)
        return found[1] if found and found[0] == status and says in found[1].detail else None

    told: Readiness = eventually(there, 60)
    return told


def test_the_leader_and_the_standby_say_what_they_are_and_the_broker_is_missed(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    with processes(tmp_path) as of, contextlib.ExitStack() as stack:
        broker = stack.enter_context(spawn(BrokerConfig(port=0)))
        leader = cloud(of, tmp_path, "one", broker.port, {"port": first})
        assert becomes(first, 200, "").role == "leading"
        cloud(of, tmp_path, "two", broker.port, {"port": second})
        assert becomes(second, 503, "it stands by").role == "standby"
        # A standby tells the history all the same.
        assert httpx.get(f"http://127.0.0.1:{second}/api/v1/runs").status_code == 200
        stack.close()
        becomes(first, 503, "no connection to the broker")
        assert httpx.get(f"http://127.0.0.1:{first}/health").status_code == 200
        with spawn(BrokerConfig(port=broker.port)):
            becomes(first, 200, "")
            leader.process.kill()
            assert becomes(second, 200, "").role == "leading"


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_ends_with_its_coordinator_at_once_whoever_is_still_connected(
    tmp_path: Path, how: signal.Signals, code: int
) -> None:
    port = free_port()
    with processes(tmp_path) as of, spawn(BrokerConfig(port=0)) as broker:
        started = cloud(of, tmp_path, "one", broker.port, {"port": port})
        becomes(port, 200, "")
        with httpx.Client() as kept_alive:
            kept_alive.get(f"http://127.0.0.1:{port}/health")
            began = time.monotonic()
            started.process.send_signal(how)
            assert started.process.wait(20) == code, started.log.read_text()
        assert time.monotonic() - began < 15
        assert "Traceback" not in started.log.read_text()


def test_a_port_in_use_ends_it_before_it_leads(tmp_path: Path) -> None:
    with processes(tmp_path) as of, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        started = cloud(of, tmp_path, "one", free_port(), {"port": port})
        assert started.process.wait(60) == 2
        text = started.log.read_text()
        assert f"http.port: {port} of 127.0.0.1: Address already in use; give a free port" in text
        assert "leading" not in text


@contextlib.asynccontextmanager
async def answering(monkeypatch: pytest.MonkeyPatch, at_once: int, within_s: float) -> AsyncIterator[int]:
    """The API's server in front of an application that says "well"; its port."""
    monkeypatch.setattr(server._Guest, "at_once", at_once)
    monkeypatch.setattr(server._Guest, "within_s", within_s)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"well"})

    with socket.create_server(("127.0.0.1", 0)) as bound:
        serving = asyncio.create_task(server.serve(app, bound))
        yield bound.getsockname()[1]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("first", [b"", REQUEST], ids=["before the first request", "behind an answer"])
async def test_who_asks_a_letter_at_a_time_is_sent_away(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    async with answering(monkeypatch, 8, 1.0) as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        if first:
            assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /health HTTP/1.1\r\nX: ")
        end = asyncio.create_task(reader.read())
        while not end.done():
            writer.write(b"x")
            await asyncio.wait({end}, timeout=0.05)
        await asyncio.gather(end, return_exceptions=True)


async def test_strangers_who_ask_nothing_have_so_many_connections_and_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They need no token for it, and the coordinator has its broker and its database by the same table of files."""
    async with answering(monkeypatch, 4, 2.0) as port, asyncio.timeout(30):
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        ends = [asyncio.create_task(reader.read()) for reader, _ in strangers]
        done, waiting = await asyncio.wait(ends, timeout=1.0)
        assert (len(done), len(waiting)) == (8, 4)
        await asyncio.gather(*ends, return_exceptions=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")
        for _, each in (*strangers, (reader, writer)):
            each.close()


@pytest.mark.parametrize(
    ("http", "says"),
    [
        ({"host": "0.0.0.0"}, "http: tokens: missing, and host '0.0.0.0' is open to others; make a file by"),
        ({"host": "cloud.example"}, "is open to others"),
        (
            {"tokens": "nowhere.toml"},
            "tokens: nowhere.toml: No such file or directory; make it by `headwater token add",
        ),
    ],
)
def test_it_is_not_open_to_others_without_tokens(tmp_path: Path, http: dict[str, Any], says: str) -> None:
    with processes(tmp_path) as of:
        started = cloud(of, tmp_path, "one", free_port(), {"port": free_port()} | http)
        assert started.process.wait(60) == 2
        assert says in started.log.read_text()
