"""Law: the broker's own process says when it is ready, says why it is not, and never outlives its parent."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from headwater.schemas.acl import Acl, Rule
from headwater.schemas.errors import ConfigError
from headwater.transport.broker import BrokerConfig, BrokerLimits, BrokerStartError, Tls, spawn, write_password_file
from headwater.transport.broker.server import EmbeddedBroker


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A self-signed certificate of 127.0.0.1, which is its own CA."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=127.0.0.1"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return Tls(certificate_file=certificate, key_file=key)


async def echo(port: int, **options: object) -> bytes:
    """What a client hears of its own message."""
    async with asyncio.timeout(5), aiomqtt.Client("127.0.0.1", port, **options) as client:  # type: ignore[arg-type]
        await client.subscribe("t", qos=1)
        await client.publish("t", b"x" * 200_000, qos=1)
        return bytes((await anext(client.messages)).payload)  # type: ignore[arg-type]


async def first_bytes(port: int, trust: ssl.SSLContext) -> bytes:
    """The broker's answer to a CONNECT, if any; TLS 1.3 lets a client learn that it is refused only when it reads."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        writer.write(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c")
        received = await asyncio.wait_for(reader.read(4), 3)
    except (ssl.SSLError, ConnectionError):
        return b""
    writer.close()
    return received


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> bool:
    deadline_s = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not is_alive(pid)


def test_a_spawned_broker_serves_with_its_whole_config_and_ends(tmp_path: Path, tls: Tls) -> None:
    write_password_file(tmp_path / "users", {"u": "p"})
    config = BrokerConfig(
        port=0,
        password_file=str(tmp_path / "users"),
        acl=Acl(rules=(Rule(access="read", filter="t"), Rule(access="write", filter="t", user="u"))),
        tls=tls,
        limits=BrokerLimits(max_connections=10),
    )
    trust = ssl.create_default_context(cafile=tls.certificate_file)
    with spawn(config) as broker:
        assert broker.is_running
        assert len(asyncio.run(echo(broker.port, tls_context=trust, username="u", password="p"))) == 200_000
        with pytest.raises(aiomqtt.MqttError, match="Not authorized"):
            asyncio.run(echo(broker.port, tls_context=trust, username="u", password="wrong"))
    assert not is_alive(broker.pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", broker.port))


async def test_a_client_must_show_a_certificate_where_a_ca_is_named(tls: Tls) -> None:
    broker = EmbeddedBroker(BrokerConfig(port=0, tls=tls.model_copy(update={"client_ca_file": tls.certificate_file})))
    port = await broker.start()
    trust = ssl.create_default_context(cafile=tls.certificate_file)
    assert await first_bytes(port, trust) == b""
    trust.load_cert_chain(tls.certificate_file, tls.key_file)
    assert await first_bytes(port, trust) == b"\x20\x02\x00\x00"
    assert await echo(port, tls_context=trust)
    await broker.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["sigint", "sigterm"])
def test_a_signal_ends_it_cleanly(number: signal.Signals) -> None:
    with spawn(BrokerConfig(port=0)) as broker:
        client = socket.create_connection(("127.0.0.1", broker.port))
        os.kill(broker.pid, number)
        assert broker._process.wait(5) == 0
        client.close()


def test_it_goes_when_its_parent_is_killed() -> None:
    script = (
        "import time\nfrom headwater.transport.broker import BrokerConfig, spawn\n"
        "broker = spawn(BrokerConfig(port=0))\nprint(broker.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    assert wait_until_gone(pid)


def test_serve_says_its_port_and_runs_until_a_signal() -> None:
    script = (
        "from headwater.transport.broker import BrokerConfig, serve\n"
        "serve(BrokerConfig(port=0), lambda port: print(port, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert asyncio.run(echo(int(process.stdout.readline())))
        process.terminate()
        assert process.wait(5) == 0


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerStartError, match=f"cannot listen on 127.0.0.1:{port}: .*in use.*set another port"):
            spawn(BrokerConfig(port=port))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"tls": Tls(certificate_file="missing", key_file="missing")}, "tls: certificate_file", id="no-certificate"
        ),
        pytest.param({"host": "192.0.2.1"}, "host, port: cannot listen on 192.0.2.1", id="foreign-address"),
        pytest.param({"host": "no such host"}, "host, port: cannot listen on no such host", id="unknown-host"),
    ],
)
async def test_why_it_cannot_start_is_said(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BrokerStartError, match=message):
        await EmbeddedBroker(BrokerConfig(port=0, **settings)).start()  # type: ignore[arg-type]


async def test_a_password_file_that_is_not_there_is_a_fault_of_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"password_file: cannot read 'missing' \(No such.*headwater broker password"):
        await EmbeddedBroker(BrokerConfig(port=0, password_file="missing")).start()
    with pytest.raises(BrokerStartError, match="cannot read 'missing'"):
        spawn(BrokerConfig(port=0, password_file="missing"))


async def test_a_key_of_another_certificate_is_refused(tls: Tls, tmp_path: Path) -> None:
    wrong = tmp_path / "key.pem"
    wrong.write_text("no key")
    with pytest.raises(BrokerStartError, match="key_file"):
        await EmbeddedBroker(BrokerConfig(port=0, tls=tls.model_copy(update={"key_file": str(wrong)}))).start()


@pytest.mark.parametrize(
    ("config", "error"),
    [
        pytest.param(b'{"port": 0, "password_file": "missing"}', b"password_file", id="start"),
        pytest.param(b'{"port": -1}', b"port", id="config"),
        pytest.param(b"", b"Invalid JSON", id="nothing"),
    ],
)
def test_the_process_fails_with_one_line_and_a_code(config: bytes, error: bytes) -> None:
    command = [sys.executable, "-m", "headwater.transport.broker"]
    finished = subprocess.run(command, input=config + b"\n", capture_output=True, timeout=10, check=False)
    assert finished.returncode == 1
    assert finished.stdout.startswith(b'{"error": ')
    assert error in finished.stdout


def test_a_child_that_ends_before_it_reads_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(subprocess.Popen[bytes]):
        """Gone before it is written to, as when a terminal's Ctrl-C meets it before it has a group of its own."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.wait()

    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    monkeypatch.setattr(subprocess, "Popen", Ended)
    with pytest.raises(BrokerStartError, match="the broker process ended with code 1"):
        spawn(BrokerConfig(port=0))


async def test_a_stopped_broker_can_be_stopped_again_and_another_takes_its_port() -> None:
    first = EmbeddedBroker(BrokerConfig(port=0))
    port = await first.start()
    assert await echo(port)
    await first.stop()
    await first.stop()
    second = EmbeddedBroker(BrokerConfig(port=port))
    assert await second.start() == port
    await second.stop()


def test_only_the_broker_itself_loads_amqtt() -> None:
    script = (
        "import sys, headwater.transport, headwater.transport.broker\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'amqtt']"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
