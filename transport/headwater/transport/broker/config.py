"""Law: everything that the broker may spend has a stated bound, and everything that it is told is checked here."""

from typing import Annotated, Final

from pydantic import Field

from headwater.schemas import limits
from headwater.schemas.acl import Acl
from headwater.schemas.base import Frozen, Positive
from headwater.schemas.errors import HeadwaterError

_PositiveInt = Annotated[int, Field(gt=0)]
_TOPIC_ROOM_BYTES: Final = 64 * 1024
"""An MQTT topic holds at most 65,535 bytes; a packet is a topic and a payload."""


class BrokerStartError(HeadwaterError):
    """The broker cannot start. The message names the setting, its value and the mend."""

    exit_code = 3


class Tls(Frozen):
    """The files of a TLS listener, in PEM. With `client_ca_file`, a client must show a certificate of that CA."""

    certificate_file: str
    key_file: str
    client_ca_file: str | None = None


class BrokerLimits(Frozen):
    """The bounds of one broker. Whoever exceeds one of a client's is disconnected and its last will published.

    A publisher waits while a subscriber has more than `max_queue_size_bytes` to read, so nothing is lost to a
    burst; a subscriber that has not read three quarters of that after `slow_reader_timeout_s` is disconnected, so
    nobody waits longer for it.
    """

    max_packet_size_bytes: _PositiveInt = limits.MAX_MESSAGE_SIZE_BYTES + _TOPIC_ROOM_BYTES
    max_connections: _PositiveInt = 1024
    max_queue_size_bytes: _PositiveInt = 4 * 1024 * 1024
    max_unacknowledged: Annotated[int, Field(gt=0, le=65_000)] = 32_768
    max_subscriptions: _PositiveInt = 1024
    max_retained: _PositiveInt = 2 * limits.MAX_CHILDREN
    max_retained_size_bytes: _PositiveInt = 32 * 1024 * 1024
    slow_reader_timeout_s: Positive = 30.0
    connect_timeout_s: Positive = 10.0
    backlog: _PositiveInt = 1024


class BrokerConfig(Frozen):
    """One broker: where it listens, whom it lets in, who may read and write what.

    Port 0 takes any free port. Without `password_file` everyone may connect and nobody has a name; without `acl`
    whoever is let in may read and write everything, except topics that begin with `$`.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 1883
    password_file: str | None = None
    acl: Acl | None = None
    tls: Tls | None = None
    limits: BrokerLimits = BrokerLimits()
