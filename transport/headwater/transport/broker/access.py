"""Law: what no rule allows is refused; a subscription needs one rule that covers all of it.

A filter that is wider than the client's rights is refused as a whole, so a mistake shows at once in the SUBACK
instead of as messages that never come. Each delivery is checked again all the same.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Literal

from paho.mqtt.matcher import MQTTMatcher

from headwater.schemas.acl import Acl
from headwater.transport.broker.topic_filters import covers

_MAX_REMEMBERED = 65_536
"""Verdicts kept, of (user, access, topic, client)."""

_FORBIDDEN_IN_CLIENTS: Final = frozenset("/+#")
"""In a client's identifier they would change the meaning of a filter with `%c`."""


class Access:
    """The verdicts of one `Acl`; None allows everything outside `$`. `user` is None where nobody proved a name."""

    def __init__(self, acl: Acl | None) -> None:
        self._acl = acl
        self.may = lru_cache(_MAX_REMEMBERED)(self._may)
        self._matcher = lru_cache(_MAX_REMEMBERED)(self._compile)

    def may_subscribe(self, user: str | None, topic_filter: str, client: str = "") -> bool:
        """Whether every topic of `topic_filter` may be read by `user`, as the client of this identifier."""
        if topic_filter.startswith("$"):
            return False
        if self._acl is None:
            return True
        return any(covers(allowed, topic_filter) for allowed in self._filters(user, "read", client))

    def _may(self, user: str | None, access: Literal["read", "write"], topic: str, client: str = "") -> bool:
        if topic.startswith("$"):
            return False
        if self._acl is None:
            return True
        return any(self._matcher(user, access, client).iter_match(topic))  # type: ignore[no-untyped-call]

    def _filters(self, user: str | None, access: Literal["read", "write"], client: str) -> list[str]:
        acl = self._acl or Acl(rules=())
        known = (user,) if user in acl.strangers else (None, user)
        stands_for = {"%u": user, "%c": None if set(client) & _FORBIDDEN_IN_CLIENTS else client or None}
        return [
            filled
            for rule in acl.rules
            if rule.access == access and rule.user in known and (filled := _filled(rule.filter, stands_for)) is not None
        ]

    def _compile(self, user: str | None, access: Literal["read", "write"], client: str) -> MQTTMatcher:
        matcher = MQTTMatcher()  # type: ignore[no-untyped-call]
        for allowed in self._filters(user, access, client):
            matcher[allowed] = True
        return matcher


def _filled(allowed: str, stands_for: Mapping[str, str | None]) -> str | None:
    """The filter with the client's names in it, or None where it needs one that the client has not."""
    levels = [stands_for.get(level, level) for level in allowed.split("/")]
    return None if None in levels else "/".join(level for level in levels if level is not None)
