"""A real browser beside a real dashboard, and somebody who tells it what nodes tell."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from headwater.dashboard.view.fold import Message
from headwater.testbed.machine import ToolMissing, free_port, program, wait_for_port
from headwater.testbed.processes import Processes, Started
from support.postgres import missing

SEEN_MS = 20_000
"""How long a thing that must show up is waited for: the machine has neighbours."""

_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Skips a test, or on CI fails it, where there is none."""
    try:
        where = program("chromium", "chromium")
    except ToolMissing:
        missing("chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=list(_QUIET))
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Shown:
    """A dashboard's process and its address."""

    process: Started
    url: str


@contextlib.contextmanager
def shown(folder: Path, fleet: str, ports: Mapping[str, int], **settings: Any) -> Iterator[Shown]:
    """A dashboard that listens to these brokers."""
    port = free_port()
    brokers = {name: {"port": broker, "max_retry_wait_s": 1.0} for name, broker in ports.items()}
    with Processes(folder) as processes:
        started = processes.start("dashboard", {"fleet": fleet, "port": port, "brokers": brokers, **settings})
        wait_for_port(port, 30.0)
        yield Shown(started, f"http://127.0.0.1:{port}")
        assert "Traceback" not in started.log.read_text()


@dataclass
class Watched:
    """A tab, and what it asked for and complained of."""

    page: Page
    url: str
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)
        self.page.wait_for_selector("main h1", timeout=SEEN_MS)

    def see(self, selector: str, text: str = "") -> None:
        """Wait until an element that has this text can be seen."""
        found = self.page.locator(selector)
        (found.filter(has_text=text) if text else found).first.wait_for(timeout=SEEN_MS)

    def until(self, condition: str) -> None:
        """Wait until an expression holds."""
        self.page.wait_for_function(condition, timeout=SEEN_MS)

    def figure(self, name: str) -> str:
        """The value above this name."""
        return (
            self.page.locator(".hw-figure", has=self.page.locator("dt", has_text=name)).locator("dd").first.inner_text()
        )


@contextlib.contextmanager
def tab(browser: Browser, url: str, **context: Any) -> Iterator[Watched]:
    """A tab of its own; whatever it asked of another host, or complained of, fails the test."""
    opened = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "timezone_id": "Europe/Berlin"} | context
    )
    watched = Watched(opened.new_page(), url)
    page, ours = watched.page, (url, url.replace("http", "ws", 1), "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(ours) else watched.foreign.append(asked.url))
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.on("console", lambda said: watched.complaints.append(said.text) if said.type == "error" else None)
    try:
        yield watched
        assert not watched.foreign, watched.foreign
        assert not blamed(watched.complaints), watched.complaints
    finally:
        opened.close()


def blamed(complaints: list[str]) -> list[str]:
    """Without those that come of the machine's network having changed, as when a container starts."""
    if not any("ERR_NETWORK_CHANGED" in said for said in complaints):
        return complaints
    of_it = ("ERR_NETWORK_CHANGED", "Failed to fetch dynamically imported module")
    return [said for said in complaints if not any(words in said for words in of_it)]


class Teller:
    """Says to a broker what nodes say; comes back when the broker does."""

    def __init__(self, port: int) -> None:
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, "teller")
        self._client.reconnect_delay_set(1, 1)
        self._client.max_queued_messages_set(0)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def say(self, *messages: Message, retain: bool = True) -> None:
        for message in messages:
            self._client.publish(message.topic, message.payload, qos=1, retain=retain)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def telling(port: int) -> Iterator[Teller]:
    teller = Teller(port)
    try:
        yield teller
    finally:
        teller.close()


@contextlib.contextmanager
def again_and_again(do: Any, every_s: float) -> Iterator[None]:
    """Call `do` with 0, 1, 2 … beside the test."""
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            do(number)
            number += 1
            over.wait(every_s)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def soon(what: Any, timeout_s: float = SEEN_MS / 1000) -> None:
    """Wait until a call gives something true."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            pytest.fail("waited too long")
        time.sleep(0.1)
