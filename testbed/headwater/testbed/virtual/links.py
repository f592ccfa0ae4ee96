"""Law: how long a message takes is drawn from the seed, and never so that one overtakes another where MQTT forbids it.

A link has a latency each way and, where it is given, a rate: bytes then wait for those before them.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Final

_NEXT_S: Final = 1e-6
"""Between two messages that may not overtake each other."""


@dataclass(frozen=True, slots=True)
class Links:
    """What is between a client and its broker.

    `latency_s` and `jitter_s` are one way: `latency_s + uniform(0, jitter_s)`. A rate of 0 bytes a second is no limit.
    `duplicates` and `losses` are chances for each QoS 1, or QoS 0, delivery to a subscriber. With `reorders`
    messages of different topics may overtake each other, which is more than TCP does and less than MQTT promises.
    """

    latency_s: float = 0.001
    jitter_s: float = 0.004
    up_bytes_s: float = 0.0
    down_bytes_s: float = 0.0
    duplicates: float = 0.0
    losses: float = 0.0
    reorders: bool = False


@dataclass(slots=True)
class Lane:
    """One direction of one link: when what is sent now arrives."""

    latency_s: float
    jitter_s: float
    rate_bytes_s: float
    reorders: bool
    _free_at: float = 0.0
    _last_at: dict[str, float] = field(default_factory=dict)

    def arrival(self, now: float, topic: str, size_bytes: int, rng: Random) -> float:
        """Time of arrival of a message that is sent at `now`."""
        sent = now
        if self.rate_bytes_s:
            sent = self._free_at = max(now, self._free_at) + size_bytes / self.rate_bytes_s
        after = self._last_at.get(lane := topic if self.reorders else "", -1.0) + _NEXT_S
        arrives = max(sent + self.latency_s + rng.random() * self.jitter_s, after)
        self._last_at[lane] = arrives
        return arrives


def up_lane(links: Links) -> Lane:
    return Lane(links.latency_s, links.jitter_s, links.up_bytes_s, links.reorders)


def down_lane(links: Links) -> Lane:
    return Lane(links.latency_s, links.jitter_s, links.down_bytes_s, links.reorders)
