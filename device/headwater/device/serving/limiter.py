"""Law: a token bucket: it fills with time, each message takes one, and no minute sees more than it is allowed.

capacity C = max(1, N/6), rate (N + 1 − C)/60 a second: at most N in any 60 s, ten seconds' worth of them at once
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is in it, and when that was looked at."""

    tokens: float
    at_s: float


def full(per_minute: float, now_s: float) -> Bucket:
    return Bucket(_capacity(per_minute), now_s)


def take(bucket: Bucket, per_minute: float, now_s: float) -> tuple[Bucket, bool]:
    """The bucket after a message that may go, or after one that may not. A clock that goes back fills nothing."""
    capacity = _capacity(per_minute)
    rate = (per_minute + 1 - capacity) / 60
    tokens = min(capacity, bucket.tokens + rate * max(0.0, now_s - bucket.at_s))
    if tokens < 1:
        return Bucket(tokens, now_s), False
    return Bucket(tokens - 1, now_s), True


def _capacity(per_minute: float) -> float:
    return max(1.0, per_minute / 6)
