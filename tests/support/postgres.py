"""A throw-away PostgreSQL on loopback. Without one installed a test is skipped, but on CI it fails."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest


def missing(what: str, how: str) -> None:
    """A part that is not installed: on CI nothing is skipped for want of a tool."""
    message = f"{what} is not installed ({how})"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def database_url() -> Iterator[str]:
    """The URL of an empty database of its own."""
    base = _server()
    name = f"test_{free_port()}_{os.urandom(4).hex()}"
    _psql(base, f"CREATE DATABASE {name}")
    yield f"{base}/{name}"
    _psql(base, f"DROP DATABASE {name} WITH (FORCE)")


def _psql(base: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute(statement)


@lru_cache(maxsize=1)
def _server() -> str:
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="headwater-pg-"))
    port = free_port()
    as_owner: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    data = folder / "data"
    common = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run([*as_owner, binaries / "initdb", "-D", data, "-U", "headwater", "-A", "trust"], **common)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    subprocess.run([*as_owner, binaries / "pg_ctl", "-D", data, "-o", options, "-w", "start"], **common)
    stop = [*as_owner, binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"]

    def finish() -> None:
        subprocess.run(stop, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=False)
        shutil.rmtree(folder, ignore_errors=True)

    import atexit

    atexit.register(finish)
    return f"postgresql://headwater@127.0.0.1:{port}"


def _binaries() -> Path:
    found = shutil.which("initdb")
    candidates = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not candidates:
        missing("PostgreSQL", "apt-get install postgresql")
    return candidates[0]
