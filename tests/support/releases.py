"""Releases in a history, as `headwater release publish` writes them."""

from datetime import UTC, datetime

from headwater.cloud.history import History
from headwater.cloud.releasing import Policy
from headwater.trust.keys import new_key
from headwater.trust.releases import signed
from support.wheels import release, small


def publish(history: History, version: str, policy: Policy, now: datetime | None = None) -> int:
    """The counter of a release of fleet `plant`: a small wheel of this version, signed by a key that is thrown away."""
    wheel, counter = small(version), history.releases.next_counter("plant")
    said = release(wheel, version, counter)
    encoded, signature = signed(said, new_key())
    history.releases.publish(said, encoded, signature, wheel, policy, now or datetime.now(UTC))
    return counter
