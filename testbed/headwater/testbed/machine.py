"""Law: what a testbed wants of its machine it looks for: a program, a free port, a service that listens."""

import contextlib
import shutil
import socket
import time
from typing import Final

from headwater.schemas.errors import ConfigError

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 10.0
LOOK_EVERY_S: Final = 0.02
_MORE_PLACES: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


class ToolMissing(ConfigError):
    """A program that is not installed; the sentence says how it is."""


def program(name: str, package: str) -> str:
    """Where a program of Debian's `package` is. Raises ToolMissing."""
    found = shutil.which(name) or shutil.which(name, path=_MORE_PLACES)
    if found is None:
        raise ToolMissing(f"{name}: is not installed; apt-get install {package}")
    return found


def free_port() -> int:
    """A port of loopback that nobody has just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def port_near(wanted: int) -> int:
    """This port of loopback, or where somebody has it any that is free."""
    with socket.socket() as probe:
        # As a server's own would be: a port that was used a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted))
        except OSError:
            return free_port()
        return wanted


def listens(port: int) -> bool:
    """Whether a service accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 0.5):
        return True
    return False


def wait_for_port(port: int, timeout_s: float = START_TIMEOUT_S) -> None:
    """Returns when a service accepts connections. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not listens(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"port {port}: nothing listens there after {timeout_s:g} s")
        time.sleep(LOOK_EVERY_S)
