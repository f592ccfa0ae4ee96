"""Law: what is imported stays until the process ends, so nobody looks through it for garbage, now or later."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around the imports of a process that is to start soon: an agent's take a ninth less time, and no collection
    after them walks through what they made."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
