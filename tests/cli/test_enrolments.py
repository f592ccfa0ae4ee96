"""`headwater pki token`, `pki serve` and `headwater enrol`: one line that is shown once, and boards that join by it."""

import contextlib
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli.app import app
from headwater.schemas.errors import ConfigError
from headwater.trust.folder import Folder
from headwater.trust.tokens import read_token
from support.fortress import FLEET, fortress
from support.waiting import eventually

DEVICE = """fleet = "{fleet}"
node = "pump-7"
[broker]
host = "localhost"
port = {nodes}
[broker.tls]
ca = "trust/ca.pem"
certificate = "trust/pump-7.pem"
key = "trust/pump-7.key"
[enrol]
token_file = "token"
port = {enrolment}
[data.d]
kind = "file"
path = "data.csv"
features = ["x"]
target = "y"
classes = 2
"""


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    folder = Folder(tmp_path / "pki")
    folder.create("plant", datetime.now(UTC))
    return folder


def test_a_token_is_one_line_of_which_the_folder_keeps_nothing_that_opens(pki: Folder) -> None:
    token = read_token(run("pki", "token", "pump-7", "--valid-h", "2", "--host", "10.0.0.7"))
    record = pki.token(token.token_id)
    assert record is not None
    assert (record.node, record.role, record.hosts) == ("pump-7", "device", ("10.0.0.7",))
    assert timedelta(hours=1.9) < record.valid_until - datetime.now(UTC) <= timedelta(hours=2)
    assert token.secret.hex() not in (pki.path / "tokens" / f"{token.token_id}.json").read_text()


def test_a_token_in_a_file_is_its_owners_alone(pki: Folder) -> None:
    assert "for pump-7, once, until" in run("pki", "token", "pump-7", "--output", "token")
    assert stat.S_IMODE(Path("token").stat().st_mode) == 0o600
    assert read_token(Path("token").read_text())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["pki", "token", "pump-7", "--valid-h", "0"], "valid-h: 0 is not above 0", id="no-time"),
        pytest.param(["pki", "token", "pump-7", "--valid-h", "99999"], "at most 8784", id="too-long"),
        pytest.param(["pki", "token", "pump/7"], "node: use 1 to 64 letters.*it is pump/7", id="name"),
        pytest.param(["pki", "token", "pump-7", "--role", "king"], "role: input should be .*it is king", id="role"),
        pytest.param(["pki", "token", "pump-7", "--folder", "none"], "none.*give a readable file", id="no-authority"),
        pytest.param(["pki", "serve", "--folder", "none"], "none.*give a readable file", id="serve-no-authority"),
        pytest.param(["enrol", "plain.toml"], r"enrol: is not in the settings; add a table \[enrol\]", id="no-table"),
        pytest.param(["enrol", "device.toml"], "make a token by `headwater pki token NODE`", id="no-token"),
    ],
)
def test_what_is_wrong_is_said_with_its_mend(pki: Folder, arguments: list[str], says: str) -> None:
    text = DEVICE.format(fleet=FLEET, nodes=1, enrolment=1)
    Path("device.toml").write_text(text)
    Path("plain.toml").write_text(text.replace('[enrol]\ntoken_file = "token"\nport = 1\n', ""))
    with pytest.raises(ConfigError, match=says):
        run(*arguments)


@pytest.mark.live
def test_a_service_of_its_own_answers_where_the_cloud_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with fortress("mosquitto", tmp_path, parents=["cloud"]) as place, contextlib.ExitStack() as stack:
        assert place.authority is not None
        papers, ports = place.papers("cloud"), place.ports
        command = [sys.executable, "-m", "headwater.cli.main", "pki", "serve", "--fleet", FLEET, "--node", "cloud"]
        command += ["--broker-host", "localhost", "--broker-port", str(ports["nodes"]), "--ca", str(papers.ca)]
        command += ["--certificate", str(papers.certificate), "--key", str(papers.key)]
        log = stack.enter_context((tmp_path / "serve.log").open("wb"))
        service = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, env=os.environ)
        stack.callback(service.wait, 20)
        stack.callback(service.terminate)
        run("pki", "token", "pump-7", "--output", "token")
        Path("device.toml").write_text(DEVICE.format(fleet=FLEET, **ports))
        eventually(lambda: "connected to" in (tmp_path / "serve.log").read_text())
        assert "trust/pump-7.pem: enrolled" in run("enrol", "device.toml")
        assert "is there already, nothing was asked" in run("enrol", "device.toml")
        assert not Path("token").exists()
