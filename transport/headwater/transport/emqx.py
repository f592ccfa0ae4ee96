"""Law: a cluster of EMQX gets the same rules as any broker, from `schemas.acl`, in its own file format.

EMQX judges in the order of the file and ends at the first that fits, so what strangers are denied stands above what
everyone may.
"""

from collections.abc import Mapping

from headwater.schemas.acl import Acl, Rule


def acl_conf(acl: Acl) -> str:
    """EMQX's `acl.conf` for these rules: one Erlang term a line, and at the end nothing more is allowed."""
    lines = ["%% Made by `headwater.transport.emqx`. What is not allowed here is refused."]
    lines += [_allow(f'{{user, "{rule.user}"}}', rule) for rule in acl.rules if rule.user is not None]
    lines += [f'{{deny, {{user, "{stranger}"}}, all, ["#"]}}.' for stranger in acl.strangers]
    lines += [_allow("all", rule) for rule in acl.rules if rule.user is None]
    return "\n".join([*lines, "{deny, all}."]) + "\n"


def _allow(who: str, rule: Rule) -> str:
    action = "subscribe" if rule.access == "read" else "publish"
    topic = rule.filter.replace("%u", "${username}").replace("%c", "${clientid}")
    return f'{{allow, {who}, {action}, ["{topic}"]}}.'


def users_csv(passwords: Mapping[str, str]) -> str:
    """What EMQX's own database of users begins with."""
    rows = [f"{user},{password},false" for user, password in passwords.items()]
    return "\n".join(["user_id,password,is_superuser", *rows]) + "\n"
