"""Who may look, where a dashboard answers, and how it ends."""

import base64
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from headwater.dashboard.history import History
from headwater.dashboard.service import guard
from headwater.schemas.config import load
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import DashboardSettings
from headwater.testbed.machine import free_port
from support.browsers import Shown, shown


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A dashboard whose broker is nowhere."""
    with shown(tmp_path_factory.mktemp("alone"), "plant", {"cloud": free_port()}) as opened:
        yield opened


def test_a_page_comes_without_a_broker(alone: Shown) -> None:
    assert httpx.get(alone.url).status_code == 200


def test_no_page_of_another_name_is_answered_on_loopback(alone: Shown) -> None:
    """Else a foreign page could have its own name mean this machine, and read along."""
    assert httpx.get(alone.url, headers={"Host": "evil.example"}).status_code == 403


def ended(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "headwater.cli.main", "dashboard", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, said = ended("--port", str(taken.getsockname()[1]))
    assert code == 2
    assert "give a free port" in said


@pytest.mark.parametrize("api", ["http://cloud:http", "http://[::"])
def test_an_address_that_is_none_is_said(api: str) -> None:
    with pytest.raises(ConfigError, match=r"api: .* give an address as http://cloud:8080"):
        History(api, "plant")


def test_who_can_be_reached_by_others_wants_a_password_or_a_word() -> None:
    code, said = ended("--host", "0.0.0.0", "--port", str(free_port()))
    assert code == 2
    assert "access.password_file" in said


def test_a_password_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    access = {"password_file": str(tmp_path / "password")}
    with shown(tmp_path, "plant", {"cloud": free_port()}, access=access) as opened:
        codes = [
            httpx.get(opened.url, headers=told).status_code
            for told in (
                {},
                {"Authorization": "Basic %%%"},
                {"Authorization": "Bearer open"},
                {"Authorization": "Basic " + base64.b64encode(b"me:open").decode()},
                {"Authorization": "Basic " + base64.b64encode("me:ünsinn".encode()).decode()},
                {"Authorization": "Basic " + base64.b64encode(b"me:open sesame").decode()},
            )
        ]
        assert httpx.get(opened.url + "/healthz").status_code == 200, "a watchman needs no password"
    assert codes == [401, 401, 401, 401, 401, 200]


def test_a_dashboard_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    with shown(tmp_path, "plant", {"cloud": free_port()}) as opened:
        opened.process.process.send_signal(signal.SIGINT)
        assert opened.process.process.wait(15) == 130
    assert "watch it: http://127.0.0.1:" in opened.process.log.read_text()
    assert "Traceback" not in opened.process.log.read_text()


def test_an_empty_password_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    settings = DashboardSettings.model_validate_json(f'{{"access": {{"password_file": "{tmp_path / "empty"}"}}}}')
    with pytest.raises(ConfigError, match="is empty"):
        guard(settings)


def test_the_example_holds() -> None:
    example = Path(__file__).parents[2] / "docs" / "examples" / "dashboard.toml"
    assert load(DashboardSettings, example).value == DashboardSettings()
