"""Law: a throw-away PostgreSQL on loopback, gone behind its `with`; it keeps no promise about a power cut."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from headwater.testbed.machine import ToolMissing, free_port

_QUIETLY: Final[dict[str, Any]] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a server without a database of its own: append `/NAME`.

    Raises:
        ToolMissing: there is no PostgreSQL on this machine.
    """
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="headwater-pg-"))
    port, data = free_port(), folder / "data"
    as_owner: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        shutil.chown(folder, "postgres", "postgres")
        as_owner = ["runuser", "-u", "postgres", "--"]
    control = [*as_owner, str(binaries / "pg_ctl"), "-D", str(data)]
    try:
        initdb = [*as_owner, str(binaries / "initdb"), "-D", str(data), "-U", "headwater", "-A", "trust"]
        subprocess.run(initdb, check=True, **_QUIETLY)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        subprocess.run([*control, "-o", options, "-w", "start"], check=True, **_QUIETLY)
        yield f"postgresql://headwater@127.0.0.1:{port}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, **_QUIETLY)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def database(server: str, name: str) -> Iterator[str]:
    """The URL of a new database of a server, which is dropped afterwards."""
    _perform(server, f"CREATE DATABASE {name}")
    try:
        yield f"{server}/{name}"
    finally:
        _perform(server, f"DROP DATABASE {name} WITH (FORCE)")


def _perform(server: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(statement)


def _binaries() -> Path:
    found = shutil.which("initdb")
    candidates = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not candidates:
        raise ToolMissing("PostgreSQL: is not installed; apt-get install postgresql")
    return candidates[0]
