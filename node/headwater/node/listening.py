"""Law: a port that cannot be had is told at once, with the setting that names it."""

import socket

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
