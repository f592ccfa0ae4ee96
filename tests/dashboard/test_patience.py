"""A page that loses a part of itself, or its socket, while it loads: it comes all the same, or says why it waits.

A machine whose network changes, as when a container starts, has its browsers drop what is under way.
"""

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Route, WebSocketRoute

from headwater.testbed.machine import free_port
from support.browsers import Shown, shown, tab

SOON_MS = 15_000
"""A browser tells of a lost socket after 20 s."""

PARTS = ("static/dompurify", "components/[^/]+/keyboard.js", "/fleet.js", "components/[^/]+/timer.js")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    with shown(tmp_path_factory.mktemp("alone"), "plant", {"cloud": free_port()}) as opened:
        yield opened


def test_a_page_whose_socket_was_lost_has_another(browser: Browser, alone: Shown) -> None:
    met: list[WebSocketRoute] = []

    def first_is_lost(socket: WebSocketRoute) -> None:
        met.append(socket)
        if len(met) > 1:
            socket.connect_to_server()

    with tab(browser, alone.url) as watched:
        watched.page.route_web_socket(re.compile("_nicegui_ws"), first_is_lost)
        watched.page.goto(alone.url)
        watched.page.wait_for_selector("main h1", timeout=SOON_MS)
    assert len(met) == 2


@pytest.mark.parametrize("part", PARTS)
def test_a_page_that_lost_a_part_is_loaded_again(browser: Browser, alone: Shown, part: str) -> None:
    met: list[str] = []

    def first_is_lost(route: Route) -> None:
        met.append(route.request.url)
        route.abort("internetdisconnected") if len(met) == 1 else route.continue_()

    with tab(browser, alone.url) as watched:
        watched.page.route(re.compile(part), first_is_lost)
        watched.page.goto(alone.url)
        watched.page.wait_for_function("typeof patience === 'object' && patience.isWhole()", timeout=SOON_MS)
        watched.see(".hw-banner", "has been away since")
        watched.complaints.clear()
    assert len(met) == 2


def test_a_page_behind_a_proxy_whose_name_nobody_gave_says_so(browser: Browser, alone: Shown) -> None:
    with proxy(urlsplit(alone.url).port or 0) as port, tab(browser, f"http://fleet.localhost:{port}") as watched:
        watched.page.goto(watched.url)
        watched.see(".hw-waiting", "access.hosts = ['fleet.localhost']")
        watched.complaints.clear()


@contextmanager
def proxy(behind: int) -> Iterator[int]:
    """One that asks by an address, as proxies do where nobody tells them otherwise."""

    class Handed(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", behind)) as there:
                back = threading.Thread(target=hand_on, args=(there, self.request), daemon=True)
                back.start()
                hand_on(self.request, there, b"Host: fleet.localhost", b"Host: 127.0.0.1")
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handed) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def hand_on(one: socket.socket, other: socket.socket, said: bytes = b"", instead: bytes = b"") -> None:
    with suppress(OSError):
        while data := one.recv(65_536):
            other.sendall(data.replace(said, instead) if said else data)
        other.shutdown(socket.SHUT_WR)


def test_a_page_that_gets_nothing_is_loaded_again_twice_and_then_waits(browser: Browser, alone: Shown) -> None:
    with tab(browser, alone.url) as watched:
        watched.page.add_init_script(
            "sessionStorage.getItem('headwater-loaded-again') ?? sessionStorage.setItem('headwater-loaded-again', 2)"
        )
        watched.page.route_web_socket(re.compile("_nicegui_ws"), lambda socket: None)
        watched.page.goto(alone.url)
        watched.page.evaluate("patience.WAITS_MS = [1, 1]")
        watched.see(".hw-waiting", "no connection")
        assert watched.page.evaluate("sessionStorage.getItem('headwater-loaded-again')") == "2"
        watched.complaints.clear()
