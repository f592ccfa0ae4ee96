"""Law: a parent's word stands at its broker and is said anew at each connection; one that is said again is the same.

Where words are signed each has a number, above those before it. A process that begins does not know yet whether a round
is open, and says nothing of it.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headwater.schemas.messages import Announcement, Rollout, RoundKey
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode
from headwater.transport.session import Connection, LinkDown

if TYPE_CHECKING:
    from headwater.node.trusting import Trust

log = logging.getLogger("headwater.node")

SAY_AGAIN_EVERY_S: Final = 30.0
"""For children who do not take the word that they have: they might all be told at once, and all answer."""


@dataclass(frozen=True, slots=True)
class Voice:
    """By what children know a parent's words, and that they are not those of its start before.

    `trust` is what it signs with, and whom it believes; None where it believes what its broker brings. `epoch` is
    higher at each of its starts.
    """

    trust: "Trust | None" = None
    epoch: int = 0


UNSIGNED: Final = Voice()


class Announcer:
    """What one parent says to all its children: of its round, and of the software that they should run."""

    def __init__(self, session: Connection, topics: Topics, node: str, voice: Voice) -> None:
        self._session = session
        self._topics = topics
        self._node = node
        self._voice = voice
        self._current = Announcement(parent=node)
        self._numbered: Announcement | None = None
        self._number = 0
        self._knows = False
        self._rollout: bytes | None = None
        self._say_again_at = 0.0

    @property
    def current(self) -> Announcement:
        return self._current

    async def announce(self, announcement: Announcement) -> None:
        self._current = announcement
        self._knows = True
        await self._say_where_things_stand()

    def note_closed(self, key: RoundKey) -> None:
        """For whatever is announced next."""
        self._current = self._current.model_copy(update={"closed": key})

    async def tell_release(self, rollout: Rollout) -> None:
        """Say what software the devices below should run, now and at each connection."""
        self._rollout = encode(rollout)
        await self._say_release()

    async def on_connect(self) -> None:
        await self._say_release()
        await self.say_again()

    async def say_again(self) -> None:
        """What is the case, with the certificate that this node has by now. Nothing where that is not known yet."""
        if self._knows:
            await self._say_where_things_stand()

    def may_remind(self, now: float) -> bool:
        """Whether it is worth saying again to someone who has another's word, or an old one; then it is to be said."""
        if self._voice.trust is None or now < self._say_again_at:
            return False
        self._say_again_at = now + SAY_AGAIN_EVERY_S
        return True

    def _word(self) -> bytes:
        if self._voice.trust is None:
            return encode(self._current)
        if self._numbered is not self._current:
            self._numbered = self._current
            self._number += 1
        return self._voice.trust.said(self._current, self._voice.epoch, self._number)

    async def _say_where_things_stand(self) -> None:
        try:
            await self._session.publish(self._topics.down(self._node, "announcement"), self._word(), retain=True)
        except LinkDown as error:
            log.info("the announcement waits for the link: %s", error)

    async def _say_release(self) -> None:
        if self._rollout is not None:
            try:
                await self._session.publish(self._topics.down(self._node, "release"), self._rollout, retain=True)
            except LinkDown as error:
                log.info("the word on a release waits for the link: %s", error)
