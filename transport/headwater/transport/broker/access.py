"""Law: what no rule allows is refused; a subscription needs one rule that covers all of it.

A filter that is wider than the client's rights is refused as a whole, so a mistake shows at once in the SUBACK
instead of as messages that never come. Each delivery is checked again all the same.
"""

from functools import lru_cache
from typing import Literal

from paho.mqtt.matcher import MQTTMatcher

from headwater.schemas.acl import Acl
from headwater.transport.broker.topic_filters import covers

_MAX_REMEMBERED = 65_536
"""Verdicts kept, of (user, access, topic)."""


class Access:
    """The verdicts of one `Acl`; None allows everything outside `$`. `user` is None where nobody proved a name."""

    def __init__(self, acl: Acl | None) -> None:
        self._acl = acl
        self.may = lru_cache(_MAX_REMEMBERED)(self._may)
        self._matcher = lru_cache(_MAX_REMEMBERED)(self._compile)

    def may_subscribe(self, user: str | None, topic_filter: str) -> bool:
        """Whether every topic of `topic_filter` may be read by `user`."""
        if topic_filter.startswith("$"):
            return False
        return self._acl is None or any(covers(allowed, topic_filter) for allowed in self._filters(user, "read"))

    def _may(self, user: str | None, access: Literal["read", "write"], topic: str) -> bool:
        if topic.startswith("$"):
            return False
        if self._acl is None:
            return True
        return any(self._matcher(user, access).iter_match(topic))  # type: ignore[no-untyped-call]

    def _filters(self, user: str | None, access: Literal["read", "write"]) -> list[str]:
        rules = self._acl.rules if self._acl else ()
        return [
            rule.filter if user is None else rule.filter.replace("%u", user)
            for rule in rules
            if rule.access == access
            and rule.user in (None, user)
            and (user is not None or (rule.user is None and "%u" not in rule.filter))
        ]

    def _compile(self, user: str | None, access: Literal["read", "write"]) -> MQTTMatcher:
        matcher = MQTTMatcher()  # type: ignore[no-untyped-call]
        for allowed in self._filters(user, access):
            matcher[allowed] = True
        return matcher
