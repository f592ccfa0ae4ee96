"""Law: a port that cannot be had is told at once, with the setting that names it; who comes in has a bound."""

import asyncio
import socket
from typing import Any, ClassVar

from headwater.schemas.errors import ConfigError


def listening(host: str, port: int, setting: str, backlog: int) -> socket.socket:
    """A bound socket that listens.

    Args:
        setting: what the port is called where it is set.
        backlog: connections that may wait to be accepted.

    Raises:
        ConfigError: the port is in use, or the host is no address of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=backlog)
    except OSError as error:
        # Python adds where it was, which the sentence says.
        why = str(error.strerror or error).partition(" (while")[0]
        raise ConfigError(
            f"{setting}: {port} of {host}: {why}; give a free port of an address of this machine"
        ) from None


class Guest(asyncio.Protocol):
    """What a web server's HTTP protocol, as uvicorn has it, is to be mixed with: whoever connects has to say something.

    Between two requests, and before the first, a connection may be silent for `within_s`, however slowly it speaks; and
    there are never more than `at_once`. Else strangers could have all of the process's files by asking nothing.
    """

    at_once: ClassVar[int]
    within_s: ClassVar[float]
    connections: Any
    cycle: Any
    _leaves: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._transport = transport
        if len(self.connections) > self.at_once:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_asked = self.cycle is not None and not self.cycle.response_complete
        if is_asked:
            self._wait_no_more()
        elif self._leaves is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._leaves = asyncio.get_running_loop().call_later(self.within_s, self._send_away)

    def _wait_no_more(self) -> None:
        if self._leaves is not None:
            self._leaves.cancel()
            self._leaves = None

    def _send_away(self) -> None:
        self._leaves = None
        is_asked = self.cycle is not None and not self.cycle.response_complete
        # A page's socket has a protocol of its own by now.
        if not is_asked and self._transport.get_protocol() is self:
            self._transport.abort()
