"""What a link needs of files: a fault is told by field and file, ends a start, and never a link that has stood."""

import asyncio
import logging
from pathlib import Path

import pytest

from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import BrokerSettings, TlsSettings
from headwater.testbed.brokers import Embedded
from headwater.testbed.machine import free_port
from headwater.transport.broker import BrokerConfig
from headwater.transport.files import check, identifier
from headwater.transport.listener import Listener
from support.brokers import Certificates, certificates
from support.waiting import eventually


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "empty.pem").write_text("")
    return certificates(folder)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ca": "gone.pem"}, r"broker\.tls\.ca: \S+gone\.pem: No such file or directory; give a readable file"),
        ({"ca": "."}, r"broker\.tls\.ca: \S+: Is a directory; give a readable file"),
        ({"ca": "empty.pem"}, r"broker\.tls\.ca: \S+empty\.pem holds no certificate; give that of the authority"),
        ({"certificate": "gone.pem"}, r"broker\.tls\.certificate: \S+gone\.pem: No such file"),
        ({"certificate": "client.pem", "key": "gone.key"}, r"broker\.tls\.key: \S+gone\.key: No such file"),
        (
            {"certificate": "client.pem", "key": "broker.key"},
            r"client\.pem and broker\.tls\.key: \S+broker\.key make no",
        ),
        ({"certificate": "client.pem"}, r"client\.pem and broker\.tls\.key: the same file make no pair"),
        ({"certificate": "empty.pem", "key": "client.key"}, r"empty\.pem and .* make no pair .*in PEM"),
    ],
)
def test_what_cannot_be_used_is_told_by_field_and_file(made: Certificates, given: dict[str, str], says: str) -> None:
    folder = made.ca.parent
    tls = TlsSettings(**{field: folder / name for field, name in given.items()})
    with pytest.raises(ConfigError, match=says):
        check(BrokerSettings(tls=tls))


def test_what_can_be_used_is_passed_over(made: Certificates) -> None:
    check(BrokerSettings(tls=TlsSettings(ca=made.ca, certificate=made.client_certificate, key=made.client_key)))
    check(BrokerSettings())


def test_a_client_identifier_cannot_be_known_without_the_key(made: Certificates) -> None:
    tls = TlsSettings(certificate=made.client_certificate, key=made.client_key)
    told = identifier("pump-7", BrokerSettings(tls=tls))
    assert told.startswith("pump-7.")
    assert told == identifier("pump-7", BrokerSettings(tls=tls))
    assert identifier("pump-7", BrokerSettings()) == "pump-7"


@pytest.mark.live
async def test_a_link_that_has_stood_waits_for_its_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    with Embedded(BrokerConfig(port=free_port())) as broker:
        settings = BrokerSettings(port=broker.port, user="d1", password_file=password, max_retry_wait_s=0.2)
        listener = Listener(settings, client="d1", topics=("t",), on_message=lambda *_: None)
        running = asyncio.create_task(listener.run())
        await asyncio.wait_for(listener.wait_connected(), 10)
        # As when it is renewed by somebody who takes the old one away first.
        password.unlink()
        broker.kill()
        await asyncio.to_thread(broker.start)
        await asyncio.to_thread(eventually, lambda: "password: No such file or directory" in caplog.text, 10)
        assert not listener.connected
        password.write_text("secret")
        await asyncio.wait_for(listener.wait_connected(), 10)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.live
async def test_a_link_without_its_files_does_not_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    settings = BrokerSettings(port=free_port(), password_file=tmp_path / "password")
    with pytest.raises(ConfigError, match=r"broker\.password_file: .*No such file"):
        await Listener(settings, client="d1", topics=("t",), on_message=lambda *_: None).run()
