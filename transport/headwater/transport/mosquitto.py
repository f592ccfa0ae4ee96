"""Law: a real broker gets the same rules as the embedded one, from `schemas.acl`, in its own file formats; every bound
of it is written down, and each of its doors has an identity, rules and passwords of its own.

Mosquitto's rules for everyone hold for whoever comes in by the same listener, so nodes, people who watch, and whoever
asks for a certificate come in by different ones.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from headwater.schemas.acl import Acl, Rule
from headwater.schemas.base import Frozen, Name, NodeId
from headwater.schemas.limits import MAX_MESSAGE_SIZE_BYTES
from headwater.schemas.links import Port
from headwater.schemas.topics import Topics

MAX_PACKET_SIZE_BYTES: Final = 409_600
"""A message and a topic, which MQTT lets have 65,535 bytes, and some room."""

MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024
MAX_QUEUED_MESSAGES: Final = 10_000
MAX_INFLIGHT_MESSAGES: Final = 64
MAX_ENROLLING: Final = 64
"""Connections at once of who asks for a certificate; anybody may connect there."""

_ROUNDS_OF_PBKDF2: Final = 10_000
"""A hundred times what `mosquitto_passwd` takes, and still some milliseconds: the broker checks in its one thread."""

assert MAX_PACKET_SIZE_BYTES > MAX_MESSAGE_SIZE_BYTES + 65_535


class ServerTls(Frozen):
    """The files of a TLS listener, in PEM. With `ca`, a client must show a certificate of that CA, which `revoked`
    (a revocation list) does not name; its common name is its user name, whatever it calls itself."""

    certificate: Path
    key: Path
    ca: Path | None = None
    revoked: Path | None = None


class Door(Frozen):
    """One listener of a broker, and who may come in by it.

    Args:
        tls: with its `ca` a user is named by the certificate, but where there are `passwords` by these.
        acl, passwords: paths of the files; without `passwords` and without certificates everyone may come in.
        max_connections: at once; -1 for as many as the system allows.
    """

    port: Port
    host: str = "127.0.0.1"
    tls: ServerTls | None = None
    acl: Path | None = None
    passwords: Path | None = None
    max_connections: Annotated[int, Field(ge=-1)] = -1


class Bridge(Frozen):
    """The way of a gateway's messages from its site's broker to its parent's: for a gateway that speaks to one broker.

    At the parent's broker, on `host` and `port`, the bridge is the gateway: it has a certificate of that name. `client`
    is its client identifier there, which nobody should know: whoever comes with the same ends its connection.
    """

    fleet: NodeId
    gateway: NodeId
    parent: NodeId = "cloud"
    client: Name
    host: Name
    port: Port = 8883
    ca: Path
    certificate: Path
    key: Path


def config_file(*doors: Door, data: Path | None = None, bridges: tuple[Bridge, ...] = ()) -> str:
    """A `mosquitto.conf` that keeps what it acknowledged and bounds what it holds.

    Args:
        data: folder for retained messages; without it a restart forgets them.
    """
    lines = [
        "per_listener_settings true",
        "set_tcp_nodelay true",
        # `message_size_limit` would drop in silence on MQTT 3.1.1; this refuses.
        f"max_packet_size {MAX_PACKET_SIZE_BYTES}",
        f"max_queued_bytes {MAX_QUEUED_BYTES}",
        f"max_queued_messages {MAX_QUEUED_MESSAGES}",
        f"max_inflight_messages {MAX_INFLIGHT_MESSAGES}",
    ]
    if data:
        # Without the last two a killed broker loses everything since its last half hour.
        lines += [
            "persistence true",
            f"persistence_location {data}/",
            "autosave_interval 1",
            "autosave_on_changes true",
        ]
    for door in doors:
        lines += ["", *_listener(door)]
    for bridge in bridges:
        lines += ["", *_bridge(bridge)]
    return "\n".join(lines) + "\n"


def _listener(door: Door) -> list[str]:
    certified = door.tls is not None and door.tls.ca is not None
    lines = [
        f"listener {door.port} {door.host}",
        f"allow_anonymous {'false' if certified or door.passwords else 'true'}",
    ]
    lines += _server_tls(door.tls) if door.tls else []
    lines += ["use_identity_as_username true"] if certified and not door.passwords else []
    lines += [f"acl_file {door.acl}"] if door.acl else []
    lines += [f"password_file {door.passwords}"] if door.passwords else []
    lines += [f"max_connections {door.max_connections}"] if door.max_connections >= 0 else []
    return lines


def _server_tls(tls: ServerTls) -> list[str]:
    lines = [f"certfile {tls.certificate}", f"keyfile {tls.key}", "tls_version tlsv1.2"]
    if tls.ca is not None:
        lines += [f"cafile {tls.ca}", "require_certificate true"]
        lines += [f"crlfile {tls.revoked}"] if tls.revoked else []
    return lines


def _bridge(bridge: Bridge) -> list[str]:
    topics = Topics(bridge.fleet)
    own = bridge.gateway
    out = (topics.status(own), topics.childs_up(own, bridge.parent), topics.cluster(own), topics.event(own))
    # What comes down is the parent's word for everyone, and what it says to the gateway alone.
    down = (topics.all_down(bridge.parent), topics.all_inbox(own))
    return [
        f"connection {own}-to-{bridge.parent}",
        f"address {bridge.host}:{bridge.port}",
        f"remote_clientid {bridge.client}",
        f"bridge_cafile {bridge.ca}",
        f"bridge_certfile {bridge.certificate}",
        f"bridge_keyfile {bridge.key}",
        "bridge_protocol_version mqttv311",
        "cleansession true",
        "notifications false",
        "try_private true",
        *(f"topic {one} out 1" for one in out),
        *(f"topic {one} in 1" for one in down),
    ]


def acl_file(acl: Acl) -> str:
    """Mosquitto's `acl_file` for these rules. Rules for everyone are patterns, for `topic` lines above any `user`
    line would speak of anonymous clients alone; strangers are denied what those give.

    Raises:
        ValueError: a rule of one user with `%c`, beside others' rules. Mosquitto knows it for everyone alone, so this
            user must come in by a listener, and have a file, of its own.
    """
    users = dict.fromkeys((*acl.strangers, *(rule.user for rule in acl.rules if rule.user is not None)))
    shared = [rule for rule in acl.rules if rule.user is None]
    lines = ["# Made by `headwater broker`. What is not allowed here is refused."]
    lines += ["", *(f"pattern {rule.access} {rule.filter}" for rule in shared)] if shared else []
    for user in users:
        own = [rule for rule in acl.rules if rule.user == user]
        if any("%c" in rule.filter for rule in own):
            if shared or len(users) > 1:
                raise ValueError(f"user {user!r}: rules with %c need a listener and an acl_file of their own")
            return "\n".join([*lines, "", *(f"pattern {rule.access} {rule.filter}" for rule in own)]) + "\n"
        denied = dict.fromkeys(rule.filter.replace("%u", user) for rule in shared) if user in acl.strangers else ()
        lines += ["", f"user {user}", *(f"topic deny {one}" for one in denied), *(_topic(rule) for rule in own)]
    return "\n".join(lines) + "\n"


def _topic(rule: Rule) -> str:
    return f"topic {rule.access} {rule.filter}"


def password_file(passwords: Mapping[str, str], salts: Mapping[str, bytes]) -> str:
    """Mosquitto's `password_file` (PBKDF2 with SHA-512, 64 bytes), as `mosquitto_passwd` writes it.

    Args:
        passwords: by user.
        salts: by user, 12 random bytes.
    """
    return "".join(f"{user}:{_hashed(password, salts[user])}\n" for user, password in passwords.items())


def _hashed(password: str, salt: bytes) -> str:
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS_OF_PBKDF2)
    salted, hashed = (base64.b64encode(part).decode("ascii") for part in (salt, digest))
    return f"$7${_ROUNDS_OF_PBKDF2}${salted}${hashed}"
