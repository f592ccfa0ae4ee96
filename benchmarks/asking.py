"""Law: who asks does so at an even pace, and an answer that is none ends the measurement."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import httpx

PATIENCE_S: Final = 10.0
START_S: Final = 60.0


def answers(client: httpx.Client, url: str) -> bool:
    """Whether it does, as soon as its service has started."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            client.get(url)
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def asking(urls: Sequence[str], hz: float) -> Iterator[None]:
    """GET each in turn, `hz` requests a second, in a thread until the block ends; first wait until all of them answer.

    Raises:
        SystemExit: at the block's end, where an answer was no 200, or so many did not come in time.
    """
    over, faults, answered = threading.Event(), list[str](), 0

    def ask() -> None:
        nonlocal answered
        with httpx.Client(timeout=PATIENCE_S) as client:
            for number, url in enumerate(itertools.cycle(urls)):
                if over.wait(max(0.0, began + number / hz - time.monotonic())):
                    return
                try:
                    client.get(url).raise_for_status()
                except httpx.HTTPError as error:
                    faults.append(str(error))
                    return
                answered += 1

    with httpx.Client(timeout=PATIENCE_S) as client:
        for url in urls:
            if not answers(client, url):
                raise SystemExit(f"asking {url}: no answer within {START_S:g} s")
    began = time.monotonic()
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE_S + 1)
    asked_s = time.monotonic() - began
    if faults:
        raise SystemExit(f"asking {urls[0]}: {faults[0]}")
    if answered < 0.7 * hz * asked_s:
        raise SystemExit(f"asking {urls[0]}: {answered} answers in {asked_s:.1f} s, where {hz:g} a second were wanted")
