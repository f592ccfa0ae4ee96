"""Law: an object goes out once to the whole cohort; whoever misses pieces of it is served just those, in turn."""

import logging
from typing import Final

from headwater.node.sending import send_chunks
from headwater.node.tasks import Background
from headwater.schemas.messages import ObjectRef, Want
from headwater.schemas.topics import Topics
from headwater.schemas.wire import reference
from headwater.transport.objects import ObjectStore, chunks
from headwater.transport.session import Connection, LinkDown

log = logging.getLogger("headwater.node")

MAX_SERVED_AT_ONCE: Final = 4
MAX_WAITING_WANTS: Final = 1024


class Provider:
    """A parent's models and bundles on their way down."""

    def __init__(self, session: Connection, topics: Topics, node: str, store: ObjectStore, tasks: Background) -> None:
        self._session = session
        self._topics = topics
        self._node = node
        self._store = store
        self._tasks = tasks
        self._broadcast: set[bytes] = set()
        self._wants: dict[tuple[str, bytes], Want] = {}
        self._wheel: tuple[ObjectRef, bytes] | None = None
        self._serving = 0

    def keep(self, wheel: bytes) -> None:
        """Serve this release's wheel, in place of the last one's, however many models come and go in the store."""
        self._wheel = (reference(wheel), wheel)

    def _payload(self, ref: ObjectRef) -> bytes | None:
        if self._wheel is not None and self._wheel[0] == ref:
            return self._wheel[1]
        return self._store.get(ref)

    def has(self, ref: ObjectRef) -> bool:
        return ref in self._store

    async def broadcast(self, refs: tuple[ObjectRef, ...]) -> None:
        """Each of them that did not go out already, to everyone."""
        topic = self._topics.down(self._node, "chunk")
        named = {ref.sha256 for ref in refs}
        for ref in refs:
            payload = self._store.get(ref)
            if payload is None or ref.sha256 in self._broadcast:
                continue
            self._broadcast = named & (self._broadcast | {ref.sha256})
            try:
                await send_chunks(self._session, topic, chunks(payload))
            except LinkDown as error:
                log.info("a broadcast broke off, the children will ask: %s", error)

    def wanted(self, node: str, want: Want) -> None:
        """One want a child and object waits at most; a later one replaces it."""
        if (node, want.object.sha256) not in self._wants and len(self._wants) >= MAX_WAITING_WANTS:
            return
        self._wants[node, want.object.sha256] = want
        if self._serving < MAX_SERVED_AT_ONCE and self._tasks.start(self._serve()):
            self._serving += 1

    async def _serve(self) -> None:
        try:
            await self._serve_all()
        finally:
            self._serving -= 1

    async def _serve_all(self) -> None:
        while self._wants:
            (node, sha256), want = next(iter(self._wants.items()))
            del self._wants[node, sha256]
            payload = self._payload(want.object)
            if payload is None:
                continue
            try:
                await send_chunks(self._session, self._topics.inbox(node, "chunk"), chunks(payload, want.missing))
            except LinkDown as error:
                log.info("chunks for %s broke off, it will ask again: %s", node, error)
