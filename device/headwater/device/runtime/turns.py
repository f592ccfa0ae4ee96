"""Law: whoever asks first is answered first: a long training or evaluation cannot keep a single prediction waiting.

A plain lock may be taken again by the thread that has just let it go.
"""

import threading
from collections import deque
from types import TracebackType


class Turns:
    """A lock that is handed on in the order in which it was asked for."""

    def __init__(self) -> None:
        self._inner = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def take(self) -> None:
        with self._inner:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def try_take(self) -> bool:
        """Take it if nobody has it."""
        with self._inner:
            free = not self._taken
            self._taken = True
            return free

    def give(self) -> None:
        with self._inner:
            if self._waiting:
                # It stays taken: by the next.
                self._waiting.popleft().set()
            else:
                self._taken = False

    def __enter__(self) -> None:
        self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give()
