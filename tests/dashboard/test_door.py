"""By which names a dashboard is asked for, and how many it keeps a place for."""

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from headwater.dashboard.door import (
    KNOCK,
    MAX_KEPT,
    MAX_VIEWERS,
    SOCKET,
    Asked,
    Crowd,
    names_of,
    no_place,
    wrong_name,
)
from headwater.schemas.settings import DashboardSettings
from headwater.testbed.machine import free_port
from support.browsers import Shown, shown, soon

NAMES = names_of("Pi.example", "0.0.0.0", ["Fleet.example"])
OPEN = {"open": True, "hosts": ["fleet.example"]}
EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def open_to_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A dashboard on every address of this machine, whose settings say that everyone may look."""
    folder = tmp_path_factory.mktemp("open")
    with shown(folder, "plant", {"cloud": free_port()}, host="0.0.0.0", access=OPEN) as opened:
        yield opened


# ── by which name ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host",
    [
        "localhost:8080",
        "LocalHost",
        "localhost.",
        "127.0.0.1:8090",
        "[::1]:8090",
        "[fe80::1]",
        "192.168.1.7:8090",
        "pi.example",
        "pi:8090",
        "pi.local:8090",
        "fleet.example",
        "fleet.example:443",
    ],
)
def test_these_names_lead_nowhere_else(host: str) -> None:
    assert wrong_name(Asked("/", host), NAMES) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8090",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notfleet.example",
        "[evil.example]",
        "127.0.0.1:8090:1",
        "fleet.example@evil.example",
    ],
)
def test_a_strangers_name_is_refused_with_the_mend(host: str) -> None:
    refused = wrong_name(Asked("/", host), NAMES)
    assert refused is not None
    assert refused.status == 403
    assert "access.hosts" in refused.said


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_an_address_means_itself(address: IPv4Address | IPv6Address) -> None:
    host = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    assert wrong_name(Asked("/", f"{host}:8090"), NAMES) is None


@pytest.mark.parametrize(
    ("origin", "is_let_in"),
    [
        ("http://10.0.0.1:8090", True),
        ("https://10.0.0.1:8090", True),
        ("https://fleet.example", True),
        ("http://10.0.0.1:3000", False),
        ("http://10.0.0.2:8090", False),
        ("http://localhost:8090", False),
        ("http://pi.local:3000", False),
        (EVIL, False),
        ("null", False),
    ],
)
def test_a_socket_comes_from_a_page_of_the_dashboards_own(origin: str, is_let_in: bool) -> None:
    """Another page may stand at an address, too, or at another port of this machine."""
    assert (wrong_name(Asked(SOCKET, "10.0.0.1:8090", origin), NAMES) is None) == is_let_in


def test_a_foreign_page_reads_nothing_where_everyone_may_look(open_to_all: Shown) -> None:
    said = httpx.get(open_to_all.url, headers={"Host": "evil.example"})
    assert (said.status_code, "access.hosts = ['evil.example']" in said.text) == (403, True)
    codes = [
        httpx.get(open_to_all.url + path, headers=told).status_code
        for path, told in (
            ("/", {}),
            ("/", {"Host": "localhost:8080"}),
            ("/", {"Host": "fleet.example", "Origin": "https://fleet.example"}),
            (SOCKET + "socket.io/?EIO=4&transport=polling", {"Origin": EVIL}),
            (SOCKET + "socket.io/?EIO=4&transport=polling", {"Host": "evil.example", "Origin": EVIL}),
            ("/healthz", {"Host": "evil.example"}),
        )
    ]
    assert codes == [200, 200, 200, 403, 403, 200]


@pytest.mark.parametrize(("host", "origin"), [("localhost", EVIL), ("evil.example", EVIL), ("evil.example", None)])
def test_a_foreign_page_has_no_socket(open_to_all: Shown, host: str, origin: str | None) -> None:
    page = httpx.get(open_to_all.url)
    with pytest.raises(InvalidStatus) as refused:
        socket_of(open_to_all.url, page.text, host, origin)
    assert refused.value.response.status_code == 403
    assert b"access.hosts" in refused.value.response.body


@pytest.mark.parametrize("origin", [None, "https://fleet.example"])
def test_a_page_behind_a_proxy_has_its_socket(open_to_all: Shown, origin: str | None) -> None:
    """One that asks by the address behind it as well as one that hands the name on."""
    for host in ("127.0.0.1", "fleet.example"):
        page = httpx.get(open_to_all.url, headers={"Host": host})
        socket_of(open_to_all.url, page.text, host, origin).close()


def socket_of(url: str, page: str, host: str = "localhost", origin: str | None = None) -> ClientConnection:
    """What a page does when it is opened."""
    found = re.search(r"""["']client_id["']: ?["']([^"']+)""", page)
    assert found is not None, page
    asked = f"EIO=4&transport=websocket&client_id={found[1]}&tab_id=t{found[1]}&document_id=d&implicit_handshake=true"
    port = urlsplit(url).port
    opened = connect(
        f"ws://{host}:{port}{SOCKET}socket.io/?{asked}",
        sock=socket.create_connection(("127.0.0.1", port or 0)),
        origin=Origin(origin) if origin else None,
    )
    opened.recv(timeout=20)
    opened.send("40")
    assert str(opened.recv(timeout=20)).startswith("40")
    return opened


# ── how many ────────────────────────────────────────────────────────────────────────────────────────────────────

FULL = Crowd(viewers=MAX_VIEWERS, pages=MAX_VIEWERS, sockets=MAX_VIEWERS)
LEFT = Crowd(viewers=0, pages=MAX_KEPT, sockets=0)
SILENT = Crowd(viewers=0, pages=0, sockets=MAX_KEPT)


@pytest.mark.parametrize(
    ("path", "crowd", "has_place"),
    [
        ("/", Crowd(MAX_VIEWERS - 1, MAX_VIEWERS - 1, MAX_VIEWERS - 1), True),
        ("/", FULL, False),
        ("/", LEFT, False),
        ("/node/d1", FULL, False),
        ("/_nicegui/3/static/nicegui.js", FULL, True),
        (SOCKET + "socket.io/", FULL, True),
        (SOCKET + "socket.io/", SILENT, False),
        (KNOCK, FULL, True),
        (KNOCK, SILENT, False),
    ],
)
def test_who_has_a_page_has_a_socket_and_nobody_has_too_many(path: str, crowd: Crowd, has_place: bool) -> None:
    assert (no_place(Asked(path, "localhost"), crowd) is None) == has_place


def test_a_socket_that_is_there_goes_on_however_many_there_are() -> None:
    assert no_place(Asked(SOCKET + "socket.io/", "localhost", goes_on=True), SILENT) is None


@pytest.mark.timeout(180)
def test_who_comes_above_the_bound_is_told_and_a_page_that_leaves_gives_its_place_back(open_to_all: Shown) -> None:
    pages: list[str] = []
    with httpx.Client(timeout=60) as client:

        def come() -> httpx.Response:
            return client.get(open_to_all.url)

        while (said := come()).status_code == 200:
            pages.append(said.text)
            assert len(pages) <= MAX_VIEWERS, "there is no bound"
        assert said.status_code == 503
        assert f"{MAX_VIEWERS} pages of this dashboard are open" in said.text
        with socket_of(open_to_all.url, pages[-1]):
            assert come().status_code == 503, "its place is taken"
        soon(lambda: come().status_code == 200)


def test_the_settings_take_names_only() -> None:
    def hosts(*names: str) -> tuple[str, ...]:
        return DashboardSettings.model_validate({"access": {"hosts": names}}).access.hosts

    assert hosts("fleet.example", "pi") == ("fleet.example", "pi")
    for wrong in ("https://fleet.example", "fleet.example:443", "*", "", "fleet.example/x"):
        with pytest.raises(ValueError, match="hosts"):
            hosts(wrong)
