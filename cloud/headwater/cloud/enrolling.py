"""Law: a token is marked as used before its certificate is made, in one step; what was answered once is answered again.

Whoever may ask is a stranger. So what waits is bounded, and how much is answered in a minute; what is refused stands in
the log and among the events, and the sentence goes to whoever asked. A broker keeps what a stranger wants it to, for
each token that one can think of: whatever was heard is taken away there.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final, NoReturn

from headwater.node.observing import Enrolled, NotEnrolled, Observer, nobody
from headwater.node.service import together
from headwater.schemas.errors import ConfigError
from headwater.schemas.links import BrokerSettings
from headwater.schemas.messages import EnrolmentAnswer, EnrolmentRequest
from headwater.schemas.settings import EnrolmentSettings
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode, encode
from headwater.transport.session import Caller, Connect, Connection, Ear, LinkDown, Session, with_ears
from headwater.trust import enrolment
from headwater.trust.authority import Authority
from headwater.trust.files import read_file
from headwater.trust.folder import Folder
from headwater.trust.problems import Untrusted
from headwater.trust.tokens import TokenRecord, TokenRefused, used_for

log = logging.getLogger("headwater.cloud")

MAX_WAITING: Final = 64
MAX_A_MINUTE: Final = 240
MAX_ASKED_SIZE_BYTES: Final = 8 * 1024
MAX_CLEARING: Final = 4096
"""Topics that are to be cleared; more are heard again at the next connection, as far as a broker kept them."""


class Desk:
    """Answers whoever asks for a certificate by a token. `answer` blocks; the rest belongs to one event loop."""

    def __init__(self, folder: Folder, authority: Authority, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._authority = authority
        self._now = now

    def answer(self, token_id: str, asked: EnrolmentRequest) -> EnrolmentAnswer:
        """Raises ConfigError where the folder is of no use just now."""
        record: TokenRecord | None = None
        try:
            with self._folder.locked():
                record = self._folder.token(token_id)
                verdict = enrolment.judge(record, asked, self._now())
                assert record is not None
                if verdict == "first":
                    self._folder.keep_token(used_for(record, asked.request))
            return self._granted(record, asked, is_new=verdict == "first")
        except (TokenRefused, Untrusted) as refused:
            log.warning("token %s, which asks to be %s, was refused: %s", token_id, asked.node, refused)
            return enrolment.refuse(record, asked, str(refused))

    def _granted(self, record: TokenRecord, asked: EnrolmentRequest, *, is_new: bool) -> EnrolmentAnswer:
        node = record.node
        if is_new:
            certificate = self._folder.sign(
                self._authority, asked.request, self._now(), node=node, hosts=record.hosts, renew=True
            )
            until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
            log.info("%s enrolled by token %s; its certificate counts until %s", node, record.token_id, until)
        else:
            file = self._folder.certificate_of(node)
            certificate = enrolment.granted_before(read_file(file, "issued") if file.exists() else None, asked)
        return enrolment.grant(record, asked, certificate, (self._authority.certificate,))


class Enrolling:
    """The desk on a connection to the broker."""

    def __init__(self, fleet: str, desk: Desk, saw: Observer = nobody) -> None:
        self._topics = Topics(fleet)
        self._desk = desk
        self._saw = saw
        self.connection: Connection | None = None
        self._waiting: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(MAX_WAITING)
        self._answered_at: deque[float] = deque(maxlen=MAX_A_MINUTE)
        self._clearing: asyncio.Queue[str] = asyncio.Queue(MAX_CLEARING)

    @property
    def filter(self) -> str:
        return self._topics.all_enrolments("request")

    def beside(self, connect: Connect) -> Connect:
        """Connections on which this desk hears too, and answers on the newest of them."""

        def made(caller: Caller) -> Connection:
            self.connection = with_ears(connect, Ear(self.filter, self.hear))(caller)
            return self.connection

        return made

    def hear(self, topic: str, payload: bytes, retained: bool) -> None:
        """Have a request answered, unless there are too many: whoever waits asks again."""
        token_id = self._topics.token_of(topic)
        if token_id is None or not payload:
            return
        if not self._clearing.full():
            self._clearing.put_nowait(token_id)
        if retained or len(payload) > MAX_ASKED_SIZE_BYTES:
            return
        now = time.monotonic()
        is_much = len(self._answered_at) == MAX_A_MINUTE and now - self._answered_at[0] < 60.0
        if is_much or self._waiting.full():
            log.debug("a request of token %s was dropped: too many ask", token_id)
            return
        self._answered_at.append(now)
        self._waiting.put_nowait((token_id, payload))

    async def run(self) -> None:
        """Answer, and clear up, until cancelled."""
        await together(self._answer(), self._clear())

    async def _clear(self) -> NoReturn:
        while True:
            token_id = await self._clearing.get()
            if self.connection is not None:
                # What was kept comes before the link is said to be up; and again, where that goes down meanwhile.
                await self.connection.wait_connected()
                with contextlib.suppress(LinkDown):
                    await self.connection.publish(self._topics.enrolment(token_id, "request"), b"", retain=True)

    async def _answer(self) -> NoReturn:
        while True:
            token_id, payload = await self._waiting.get()
            try:
                asked = decode(payload, EnrolmentRequest)
                answer = await asyncio.to_thread(self._desk.answer, token_id, asked)
                refused = answer.refusal
                self._saw(NotEnrolled(asked.node, token_id, refused) if refused else Enrolled(asked.node, token_id))
                if self.connection is not None:
                    await self.connection.publish(self._topics.enrolment(token_id, "answer"), encode(answer))
            except WireError as error:
                log.warning("token %s: dropped what is no request: %s", token_id, error)
            except ConfigError as error:
                log.error("enrolment: %s", error)
            except LinkDown as error:
                log.info("an answer to token %s was lost with the link; it will ask again: %s", token_id, error)


def open_desk(settings: EnrolmentSettings, fleet: str, saw: Observer = nobody) -> Enrolling:
    """Raises ConfigError where the authority's folder cannot be used."""
    folder = Folder(settings.authority)
    authority = folder.authority(_passphrase(settings))
    with folder.locked():
        return Enrolling(fleet, Desk(folder, authority, lambda: datetime.now(UTC)), saw)


def _passphrase(settings: EnrolmentSettings) -> str | None:
    if settings.passphrase_file is None:
        return None
    try:
        return settings.passphrase_file.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        raise ConfigError(
            f"enrolment.passphrase_file: {settings.passphrase_file} cannot be read, or is empty; put the passphrase in "
            "its first line"
        ) from None


async def serve_alone(enrolling: Enrolling, broker: BrokerSettings, fleet: str, node: str) -> None:
    """Answer on a connection of its own. Raises BrokerUnreachable or AccessRefused."""

    async def nothing_to_say() -> None:
        """Nobody asks who answers."""

    def nothing_else(topic: str, payload: bytes, retained: bool) -> None:
        """All that comes is requests."""

    caller = Caller(fleet=fleet, node=node, client=node, filters=(), on_message=nothing_else, on_connect=nothing_to_say)
    await together(enrolling.beside(partial(Session, broker))(caller).run(), enrolling.run())
