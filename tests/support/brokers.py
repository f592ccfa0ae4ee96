"""Real brokers for tests, on loopback: the embedded one, and Mosquitto with users, rules and TLS."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headwater.schemas.acl import Acl
from headwater.testbed.brokers import Mosquitto
from headwater.testbed.machine import ToolMissing, free_port, program
from headwater.transport.broker import BrokerConfig, spawn
from headwater.transport.mosquitto import Door, ServerTls, acl_file, config_file, password_file
from support.postgres import missing


@dataclass(frozen=True)
class Certificates:
    """A CA, a certificate of it for the broker on localhost, and one for its clients."""

    ca: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


@contextlib.contextmanager
def broker(
    kind: str, *, acl: Acl | None = None, passwords: dict[str, str] | None = None, port: int = 0
) -> Iterator[int]:
    """The port of a running broker of this kind: `port`, or any that is free."""
    if kind == "mosquitto":
        with mosquitto(acl=acl, passwords=passwords, port=port or None) as opened:
            yield opened
        return
    with tempfile.TemporaryDirectory() as folder:
        users = None
        if passwords:
            from headwater.transport.broker import write_password_file

            users = str(Path(folder) / "users")
            write_password_file(users, passwords)
        with spawn(BrokerConfig(port=port, acl=acl, password_file=users)) as process:
            yield process.port


@contextlib.contextmanager
def mosquitto(
    *,
    acl: Acl | None = None,
    passwords: dict[str, str] | None = None,
    tls: Certificates | None = None,
    port: int | None = None,
) -> Iterator[int]:
    """A Mosquitto from the project's own configuration and rules."""
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="headwater-mosquitto-") as name:
        folder = Path(name)
        door = Door(
            port=port,
            acl=_written(folder / "acl", acl_file(acl)) if acl else None,
            passwords=_written(folder / "users", password_file(passwords, salts(passwords))) if passwords else None,
            tls=ServerTls(certificate=tls.certificate, key=tls.key, ca=tls.ca) if tls else None,
        )
        with started(folder, port, config_file(door)):
            yield port


def salts(users: Iterable[str]) -> dict[str, bytes]:
    return {user: os.urandom(12) for user in users}


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def started(folder: Path, port: int, config: str) -> Mosquitto:
    """A Mosquitto that runs inside its `with`."""
    required("mosquitto", "mosquitto")
    return Mosquitto(folder, port, config)


def required(name: str, package: str) -> None:
    """Skip a test, or on CI fail it, where a program is not installed."""
    try:
        program(name, package)
    except ToolMissing:
        missing(name, f"apt-get install {package}")


def certificates(folder: Path) -> Certificates:
    """A throw-away CA and a certificate for localhost, made by openssl."""
    if shutil.which("openssl") is None:
        missing("openssl", "apt-get install openssl")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=folder, capture_output=True)

    subject = ["-subj", "/CN=headwater test CA"]
    new = ["req", "-newkey", "rsa:2048", "-nodes"]
    openssl(*new, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", *subject)
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("broker", "client"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=localhost")
        signing = ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        openssl(*signing, "-days", "2", "-out", f"{name}.pem", "-extfile", "san")
    files = ("ca.pem", "broker.pem", "broker.key", "client.pem", "client.key")
    return Certificates(*(folder / file for file in files))
