"""Law: a throw-away PostgreSQL on loopback, gone behind its `with`; it keeps no promise about a power cut."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from headwater.testbed.machine import ToolMissing, free_port

_QUIETLY: Final[dict[str, Any]] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}


class Postgres:
    """A server; as a context manager it runs inside and is gone behind.

    Raises:
        ToolMissing: there is no PostgreSQL on this machine.
    """

    def __init__(self) -> None:
        self._binaries = _binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="headwater-pg-"))
        self._data = self._folder / "data"
        self._port = free_port()
        self._as_owner: list[str] = []
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            shutil.chown(self._folder, "postgres", "postgres")
            self._as_owner = ["runuser", "-u", "postgres", "--"]

    @property
    def url(self) -> str:
        """Without a database of its own: append `/NAME`."""
        return f"postgresql://headwater@127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The first process's number, None while it does not run."""
        try:
            return int((self._data / "postmaster.pid").read_text().split(maxsplit=1)[0])
        except (OSError, ValueError, IndexError):
            return None

    def start(self) -> None:
        """Start it and wait until it answers, with what it had committed."""
        options = (
            f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        )
        self._control("-o", options, "-w", "start")

    def kill(self) -> None:
        """End it at once, as a crash does: connections break, and the next start recovers."""
        self._control("-m", "immediate", "-w", "stop")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data), *arguments)

    def _run(self, binary: str, *arguments: str) -> None:
        subprocess.run([*self._as_owner, str(self._binaries / binary), *arguments], check=True, **_QUIETLY)

    def __enter__(self) -> Self:
        try:
            self._run("initdb", "-D", str(self._data), "-U", "headwater", "-A", "trust")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def database(server: Postgres, name: str) -> Iterator[str]:
    """The URL of a new database of a server, which is dropped afterwards."""
    _perform(server, f"CREATE DATABASE {name}")
    try:
        yield f"{server.url}/{name}"
    finally:
        _perform(server, f"DROP DATABASE {name} WITH (FORCE)")


def _perform(server: Postgres, statement: str) -> None:
    import psycopg

    with psycopg.connect(f"{server.url}/postgres", autocommit=True) as connection:
        connection.execute(statement)


def _binaries() -> Path:
    found = shutil.which("initdb")
    candidates = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not candidates:
        raise ToolMissing("PostgreSQL: is not installed; apt-get install postgresql")
    return candidates[0]
