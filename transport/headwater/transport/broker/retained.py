"""Law: the last retained message of each topic, bounded in number and in bytes, found by filter without a scan."""

from collections.abc import Iterator
from typing import NamedTuple


class Retained(NamedTuple):
    topic: str
    payload: bytes
    qos: int

    @property
    def size_bytes(self) -> int:
        return len(self.topic.encode()) + len(self.payload)


class _Level:
    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Level] = {}
        self.message: Retained | None = None


class RetainedStore:
    """A tree of topic levels. A message that would exceed a bound is refused; the one before it stays."""

    def __init__(self, max_count: int, max_size_bytes: int) -> None:
        self._max_count, self._max_size_bytes = max_count, max_size_bytes
        self._root = _Level()
        self.count = 0
        self.size_bytes = 0

    def keep(self, message: Retained) -> bool:
        """Stores `message`, or clears its topic where the payload is empty. False when a bound forbids it."""
        old = self.get(message.topic)
        if not message.payload:
            if old is not None:
                self._remove(old)
            return True
        count = self.count + (old is None)
        size_bytes = self.size_bytes + message.size_bytes - (old.size_bytes if old else 0)
        if count > self._max_count or size_bytes > self._max_size_bytes:
            return False
        level = self._root
        for name in message.topic.split("/"):
            level = level.children.setdefault(name, _Level())
        level.message = message
        self.count, self.size_bytes = count, size_bytes
        return True

    def get(self, topic: str) -> Retained | None:
        level: _Level | None = self._root
        for name in topic.split("/"):
            level = level.children.get(name) if level else None
        return level.message if level else None

    def matching(self, topic_filter: str) -> Iterator[Retained]:
        """The messages whose topics `topic_filter` matches. Do not change the store meanwhile."""
        return self._walk(self._root, topic_filter.split("/"), 0)

    def _remove(self, message: Retained) -> None:
        path = [self._root]
        names = message.topic.split("/")
        for name in names:
            path.append(path[-1].children[name])
        path[-1].message = None
        for parent, name, level in reversed(list(zip(path, names, path[1:], strict=False))):
            if level.message or level.children:
                break
            del parent.children[name]
        self.count -= 1
        self.size_bytes -= message.size_bytes

    def _walk(self, level: _Level, names: list[str], depth: int) -> Iterator[Retained]:
        if depth == len(names):
            if level.message:
                yield level.message
            return
        name = names[depth]
        if name not in ("+", "#"):
            if name in level.children:
                yield from self._walk(level.children[name], names, depth + 1)
            return
        if name == "#" and level.message:
            yield level.message
        for child_name, child in level.children.items():
            if level is not self._root or not child_name.startswith("$"):
                yield from self._walk(child, names, depth if name == "#" else depth + 1)
