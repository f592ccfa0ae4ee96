"""Law: a bridge hears the fleet on one broker and tells another; what was told already is not told again.

Of what changes oftener than `TELL_EVERY_S` the newest is told. What waits is a set of names, so it has a bound.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final, NoReturn, Protocol

from headwater.bridges.book import Book
from headwater.bridges.home_assistant import HomeAssistant
from headwater.bridges.thingsboard import ThingsBoard
from headwater.node.news import News
from headwater.node.service import together
from headwater.schemas.settings import BridgeSettings
from headwater.schemas.wire import WireError
from headwater.transport.link import LinkDown, Publication
from headwater.transport.listener import Listener
from headwater.transport.outlet import Outlet

log = logging.getLogger("headwater.bridges")

TELL_EVERY_S: Final = 1.0


class Words(Protocol):
    """Another system's way of saying what a book has."""

    def greeting(self) -> Publication | None: ...

    def farewell(self) -> Publication | None: ...

    def told(self, book: Book, name: str) -> Iterable[Publication]: ...


async def serve(settings: BridgeSettings) -> None:
    """Bridge a fleet to another system until told to stop. Raises BrokerUnreachable or AccessRefused for either broker,
    at the first connection."""
    words: Words
    if settings.system == "home-assistant":
        words = HomeAssistant(settings.fleet, version("headwater"), settings.prefix)
    else:
        words = ThingsBoard(settings.fleet, time.time)
    await Bridge(settings, words).run()


class Bridge:
    """A fleet's book, and the two connections between which it is carried.

    Args:
        words: how the other system is told.
    """

    def __init__(self, settings: BridgeSettings, words: Words) -> None:
        self._words = words
        self._book = Book(settings.fleet)
        self._news = News()
        self._waiting: set[str] = set()
        self._told: dict[str, int] = {}
        client = f"{settings.client}-{settings.fleet}"
        self._source = Listener(
            settings.broker,
            client=f"{client}-ear",
            topics=self._book.filters,
            on_message=self._on_message,
            patient=False,
        )
        self._outlet = Outlet(settings.target, client=client, on_connect=self._greet, will=words.farewell())

    async def run(self) -> None:
        """Until cancelled. Raises BrokerUnreachable or AccessRefused for either broker."""
        await together(self._source.run(), self._outlet.run(), self._tell())

    async def _greet(self) -> None:
        """Another broker may know nothing: all is told anew."""
        greeting = self._words.greeting()
        if greeting is not None:
            await self._outlet.publish(greeting)
        self._told.clear()
        self._waiting |= {"", *self._book.nodes}
        self._news.tell()

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            changed = self._book.take(topic, payload)
        except WireError as error:
            log.warning("dropped a message on %s: %s", topic, error)
            return
        if changed:
            self._waiting |= changed
            self._news.tell()

    async def _tell(self) -> NoReturn:
        while True:
            if not self._waiting:
                await self._news.wait()
            await self._outlet.wait_connected()
            names, self._waiting = self._waiting, set()
            try:
                for name in sorted(names):
                    await self._tell_of(name)
                    names = names - {name}
            except LinkDown as error:
                log.info("what is to be told waits for the link: %s", error)
                self._waiting |= names
            await asyncio.sleep(TELL_EVERY_S)

    async def _tell_of(self, name: str) -> None:
        for publication in self._words.told(self._book, name):
            # What is retained stays there, so the same again would say nothing.
            content = hash(publication.payload)
            if publication.retain and self._told.get(publication.topic) == content:
                continue
            await self._outlet.publish(publication)
            if publication.retain:
                self._told[publication.topic] = content
                if not publication.payload:
                    with contextlib.suppress(KeyError):
                        del self._told[publication.topic]
