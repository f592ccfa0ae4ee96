"""Law: a real broker gets the same rules as the embedded one, from `schemas.acl`, in its own file format."""

from headwater.schemas.acl import Acl, Rule


def acl_file(acl: Acl) -> str:
    """Mosquitto's `acl_file` for these rules. Rules for everyone are patterns, for `topic` lines above any `user`
    line would speak of anonymous clients alone."""
    lines = ["# Made by `headwater broker acl`. What is not allowed here is refused.", ""]
    lines += [f"pattern {rule.access} {rule.filter}" for rule in acl.rules if rule.user is None]
    for user in dict.fromkeys(rule.user for rule in acl.rules if rule.user is not None):
        lines += ["", f"user {user}", *(_topic(rule) for rule in acl.rules if rule.user == user)]
    return "\n".join(lines) + "\n"


def _topic(rule: Rule) -> str:
    return f"topic {rule.access} {rule.filter}"


def config_file(
    *, port: int, host: str = "127.0.0.1", acl: str | None = None, passwords: str | None = None, data: str | None = None
) -> str:
    """A `mosquitto.conf` that keeps what it acknowledged and bounds what it holds.

    Args:
        acl, passwords: paths of the files; without passwords everyone may connect.
        data: folder for retained messages; without it a restart forgets them.
    """
    lines = [
        f"listener {port} {host}",
        "set_tcp_nodelay true",
        # `message_size_limit` would drop in silence on MQTT 3.1.1; this refuses.
        "max_packet_size 409600",
        "max_queued_bytes 67108864",
        "max_queued_messages 10000",
        "max_inflight_messages 64",
        f"allow_anonymous {'false' if passwords else 'true'}",
    ]
    lines += [f"acl_file {acl}"] if acl else []
    lines += [f"password_file {passwords}"] if passwords else []
    if data:
        # Without these two a killed broker loses everything since its last half hour.
        lines += [
            "persistence true",
            f"persistence_location {data}/",
            "autosave_interval 1",
            "autosave_on_changes true",
        ]
    return "\n".join(lines) + "\n"
