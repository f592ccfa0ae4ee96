"""Law: who has no trust settings believes what its broker brings, and says so when somebody else means to be checked.

Nothing here knows cryptography: signed or not, a word is opened, and never checked. `trusting` checks.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Announcement, Signed
from headwater.schemas.settings import TrustSettings
from headwater.schemas.wire import WireError, decode, is_signed

if TYPE_CHECKING:
    from headwater.node.trusting import Trust, Words

EPOCHS_BEGAN: Final = datetime(2020, 1, 1, tzinfo=UTC)


Opener = Callable[[bytes], bytes]
"""Takes a delta out of what arrived. Raises WireError where it is not to be taken."""


class Unproven(WireError):
    """A signed word of which nothing shows that its alleged sender said it, who need not give up its own for it."""

    def __init__(self, detail: str) -> None:
        super().__init__("unauthorised", detail)


def epoch_at(now: datetime, last: int) -> int:
    """The epoch of a parent that begins now: above its last, and above any that a lost store or an older copy of it
    could hold, as long as the clock is right. In seconds since 2020, which 31 bits hold until 2088."""
    return max(last + 1, int((now - EPOCHS_BEGAN).total_seconds()))


def now_utc() -> datetime:
    return datetime.now(UTC)


def trust_of(
    settings: TrustSettings | None,
    fleet: str,
    node: str,
    words: "Words | None" = None,
    clock: Callable[[], datetime] = now_utc,
) -> "Trust | None":
    """What a node signs with and believes; None without settings, and then nothing of cryptography is loaded.

    Raises:
        ConfigError: the settings are of no use, or what checks signatures is not installed.
    """
    if settings is None:
        return None
    if find_spec("cryptography") is None:
        raise ConfigError("trust: needs a library that is not installed; pip install 'headwater[trust]'")
    from headwater.node.trusting import open_trust

    return open_trust(settings, fleet, node, words, clock)


def looking_after(trust: "Trust | None", *tell: Callable[[], Awaitable[None]]) -> list[Awaitable[None]]:
    """What takes up new certificates until it is cancelled, and has each of these told of a node's own; nothing where
    it signs nothing."""
    if trust is None:
        return []

    async def changed() -> None:
        for one in tell:
            await one()

    return [trust.look_after(changed)]


def believed(payload: bytes) -> Announcement:
    """A parent's word, signed or not. Raises WireError."""
    return decode(opened(payload), Announcement)


def opened(payload: bytes) -> bytes:
    """What is in a signed message, unchecked; anything else as it is. Raises WireError."""
    return decode(payload, Signed, max_size_bytes=len(payload)).payload if is_signed(payload) else payload


def unsigned(payload: bytes) -> bytes:
    """A delta for a parent that checks none. Raises WireError for one whose sender means it to be checked."""
    if is_signed(payload):
        raise WireError(
            "unauthorised", "signed, and this parent has no trust settings; give it some, or take the child's out"
        )
    return payload
