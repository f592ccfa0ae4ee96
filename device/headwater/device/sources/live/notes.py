"""Law: what is dropped is counted, and told once a reason, then at most every ten minutes with its count."""

import logging
from collections import Counter
from typing import Final

log = logging.getLogger("headwater.device")

TELL_AGAIN_AFTER_S: Final = 600.0


class Notes:
    """What one source dropped, by reason. The reasons are few, so this is bounded."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told_at_s: dict[str, float] = {}
        self.counts: Counter[str] = Counter()

    def add(self, reason: str, detail: str, now_s: float, level: int = logging.WARNING) -> None:
        self.counts[reason] += 1
        told_at_s = self._told_at_s.get(reason)
        # A clock that was set back must not silence it.
        if told_at_s is None or not 0 <= now_s - told_at_s < TELL_AGAIN_AFTER_S:
            self._told_at_s[reason] = now_s
            log.log(level, "%s: %s: %s (%d so far)", self._name, reason, detail, self.counts[reason])
