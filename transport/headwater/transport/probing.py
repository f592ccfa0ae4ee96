"""Law: the road to a broker is walked step by step, and where it ends is told: its name, its port, its certificate.

No byte of MQTT goes out; whether the broker lets a node in is the session's to find out.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from headwater.schemas.errors import ConfigError
from headwater.schemas.links import BrokerSettings
from headwater.transport.files import tls_context

STEP_LIMIT_S: Final = 5.0

Step = Literal["name", "port", "certificate", "through"]
TlsProblem = Literal["", "files", "not_yet_valid", "expired", "other_name", "other_authority", "no_tls", "refused"]
# Of OpenSSL's X509_V_ERR codes.
_VERIFY: Final[dict[int, TlsProblem]] = {
    9: "not_yet_valid",
    10: "expired",
    18: "other_authority",
    19: "other_authority",
    20: "other_authority",
    21: "other_authority",
    62: "other_name",
    64: "other_name",
}


@dataclass(frozen=True, slots=True)
class Road:
    """How far one comes towards a broker. `ended` is the step that failed, or `through`; `says` why, in the system's
    words. `reached_ms` is the time that one connection took; the certificate's subject and its last moment are known
    where there is TLS and it was found good."""

    ended: Step
    says: str = ""
    addresses: tuple[str, ...] = ()
    reached_ms: float | None = None
    tls_problem: TlsProblem = ""
    tls_version: str = ""
    subject: str = ""
    until: datetime | None = None


async def road_to(broker: BrokerSettings) -> Road:
    """Walk there and back. Takes at most three times `STEP_LIMIT_S`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STEP_LIMIT_S):
            found = await loop.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        return Road("name", says=_words(error))
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    began = loop.time()
    try:
        await _opened(broker, None)
    except (OSError, TimeoutError) as error:
        return Road("port", _words(error), addresses)
    reached_ms = (loop.time() - began) * 1000
    if broker.tls is None:
        return Road("through", "", addresses, reached_ms)
    try:
        certificate, version = await _opened(broker, tls_context(broker))
    except (ConfigError, OSError, TimeoutError) as error:
        return Road("certificate", _words(error), addresses, reached_ms, _problem(error))
    return Road(
        "through",
        addresses=addresses,
        reached_ms=reached_ms,
        tls_version=version,
        subject=_common_name(certificate),
        until=datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC),
    )


async def _opened(broker: BrokerSettings, tls: ssl.SSLContext | None) -> tuple[dict[str, Any], str]:
    """The certificate that the other side shows, and the protocol. Raises OSError, TimeoutError."""
    async with asyncio.timeout(STEP_LIMIT_S):
        _, writer = await asyncio.open_connection(broker.host, broker.port, ssl=tls)
    try:
        shown = writer.get_extra_info("ssl_object")
        return writer.get_extra_info("peercert") or {}, shown.version() or "" if shown is not None else ""
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(STEP_LIMIT_S):
                await writer.wait_closed()


def _problem(error: Exception) -> TlsProblem:
    if isinstance(error, ConfigError):
        return "files"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY.get(error.verify_code, "refused")
    # A listener without TLS does not know what to make of a handshake, and hangs up or says something else.
    return "no_tls" if not isinstance(error, ssl.SSLError) or error.reason == "WRONG_VERSION_NUMBER" else "refused"


def _common_name(certificate: dict[str, Any]) -> str:
    names = [value for entry in certificate.get("subject", ()) for name, value in entry if name == "commonName"]
    return str(names[0]) if names else ""


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return str(error.verify_message)
    if isinstance(error, TimeoutError):
        return f"no answer within {STEP_LIMIT_S:g} s"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
        # asyncio puts words of its own in place of the system's.
        return os.strerror(error.errno)
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
