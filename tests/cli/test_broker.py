"""`headwater broker`: the files of a fleet's broker, as Mosquitto takes them, and what is wrong said with its mend."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli.app import app
from headwater.schemas.errors import ConfigError
from headwater.testbed.machine import free_port
from headwater.transport.broker import BrokerConfig
from headwater.transport.fleet_broker import CONFIG
from headwater.trust.folder import Folder
from support.brokers import started
from support.guests import Guest, Papers

CONFIG_OF_FILES = ["config", "x", "--ca", "ca.pem", "--certificate", "broker.pem", "--key", "broker.key"]


def run(*arguments: str, entered: str | None = None) -> str:
    done = CliRunner().invoke(app, ["broker", *arguments], input=entered, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def pki(tmp_path: Path) -> Folder:
    pki = Folder(tmp_path / "pki")
    now = datetime.now(UTC)
    pki.create("plant", now)
    for name in ("broker", "cloud"):
        pki.issue(pki.authority(), name, now, hosts=("localhost",))
    return pki


@pytest.mark.live
def test_what_is_written_lets_nodes_and_viewers_in(tmp_path: Path, pki: Folder) -> None:
    nodes, viewers, enrolment = free_port(), free_port(), free_port()
    place = tmp_path / "broker"
    said = run(
        *("config", str(place), "--fleet", "plant", "--host", "127.0.0.1", "--viewer", "eve"),
        *("--ca", str(pki.certificate_file), "--revoked", str(pki.revoked_file)),
        *("--certificate", str(pki.certificate_of("broker")), "--key", str(pki.key_of("broker"))),
        *("--port", str(nodes), "--viewer-port", str(viewers), "--enrolment-port", str(enrolment)),
    )
    assert str(place / CONFIG) in said
    run("password", "--mosquitto", str(place / "viewers.users"), "eve", entered="secret\n")
    ca = pki.certificate_file
    with started(place, nodes, (place / CONFIG).read_text()):
        cloud = Papers(certificate=pki.certificate_of("cloud"), key=pki.key_of("cloud"), ca=ca)
        for port, papers in ((nodes, cloud), (viewers, Papers(user="eve", password="secret", ca=ca))):
            with Guest(port, papers, "guest") as guest:
                assert guest.let_in, guest.why_ended
        for port, papers in (
            (viewers, Papers(user="eve", password="enrol", ca=ca)),
            (nodes, Papers(user="cloud", ca=ca)),
        ):
            with Guest(port, papers, "guest") as guest:
                assert not guest.let_in


def test_children_come_from_flags_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "children.toml").write_text('gw1 = ["d2"]\n')
    said = run("acl", "--parent", "gw1", "--child", "gw1=d1", "--children", str(tmp_path / "children.toml"))
    for child in ("d1", "d2"):
        assert f"user {child}\ntopic read hw/1/fleet/node/gw1/down/+" in said
    assert "pattern read hw/1/fleet/node/gw1/down/+" not in said


def test_a_configuration_may_be_written_before_its_certificates_are(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca.pem").touch()
    done = CliRunner().invoke(app, ["broker", *CONFIG_OF_FILES], catch_exceptions=False)
    assert (done.exit_code, (tmp_path / "x" / CONFIG).exists()) == (0, True)
    missing = [line.split(":")[1].strip() for line in done.stderr.splitlines() if "is not there" in line]
    assert missing == ["certificate", "key"]


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(["--host", "localhost"], id="loopback"),
        pytest.param(["--host", "0.0.0.0", "--password-file", "users"], id="passwords"),
        pytest.param(["--host", "0.0.0.0", "--anyone"], id="said-to-be-meant"),
    ],
)
def test_a_broker_starts_where_nobody_comes_in_unseen(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[BrokerConfig] = []
    monkeypatch.setattr("headwater.transport.broker.serve", lambda config, ready: started.append(config))
    run("start", *flags)
    assert [config.host for config in started] == [flags[1]]


def test_the_rules_of_the_door_for_enrolment(tmp_path: Path) -> None:
    assert "pattern write hw/1/plant/enrol/%c/request" in run("acl", "--fleet", "plant", "--enrolment")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["acl", "--child", "gw9=d1"], "children: 'gw9' is none of the parents", id="stray-parent"),
        pytest.param(["acl", "--child", "cloud=d/1"], "child: 'd/1': use 1 to 64 letters", id="child"),
        pytest.param(["acl", "--viewer", "eve\ntopic readwrite #"], "viewer: 'eve.*: use", id="viewer"),
        pytest.param(["acl", "--enrolment-by", "a b"], "enrolment_by: 'a b': use", id="enrolment-by"),
        pytest.param(["acl", "--fleet", "a/b"], "fleet: 'a/b' cannot be a topic level; use 1 to", id="fleet"),
        pytest.param(["acl", "--fleet", "a/b", "--enrolment"], "fleet: 'a/b' cannot be a topic level", id="enrolment"),
        pytest.param(["acl", "--child", "cloud"], "child: 'cloud' is not PARENT=NODE,NODE", id="nobody-named"),
        pytest.param(["acl", "--child", "cloud= ,"], "child: 'cloud= ,' is not PARENT=NODE,NODE", id="nobody-behind"),
        pytest.param(["acl", "--child", "=d1"], "child: '=d1' is not PARENT=NODE,NODE", id="nobody-above"),
        pytest.param([*CONFIG_OF_FILES, "--child", "cloud"], "child: 'cloud' is not PARENT=NODE", id="config-nobody"),
        pytest.param(["start", "--fleet", "f", "--child", "cloud"], "child: 'cloud' is not PARENT=", id="start-nobody"),
        pytest.param(["start", "--port", "70000"], r"port: .* 65535 \(it is 70000\)", id="start-port"),
        pytest.param(["start", "--fleet", ""], "fleet: '' cannot be a topic level", id="start-fleet"),
        pytest.param(
            ["start", "--host", "0.0.0.0"], "host: 0.0.0.0 can be reached by others.* --password-file, or --anyone", id="open"
        ),
        pytest.param(
            ["start", "--password-file", "none"], "cannot read 'none' .*; write it with `headwater broker pass", id="no-users"
        ),
        pytest.param(
            ["start", "--password-file", "file"], "'file', line 1: not 'user:hash'.*; take it out, and", id="no-users-in-it"
        ),
        pytest.param([*CONFIG_OF_FILES, "--viewer", "a b"], r"viewers.0: use 1 to 64 .*\(it is a b\)", id="viewer-words"),
        pytest.param([*CONFIG_OF_FILES, "--port", "70000"], r"port: .* 65535 \(it is 70000\)", id="config-port"),
        pytest.param(["config", "file", *CONFIG_OF_FILES[2:]], "file: cannot be made .* give another folder", id="config-file"),
        pytest.param(["password", "users", "a:b"], "user: 'a:b' can be none; use 1 to 64", id="user-colon"),
        pytest.param(["password", "users", ""], "user: '' can be none", id="user-empty"),
        pytest.param(["password", "users", "a\nb", "--mosquitto"], r"user: 'a\\nb' can be none", id="user-lines"),
        pytest.param(["password", ".", "u"], "file: . cannot be read .*give a readable file", id="users-folder"),
        pytest.param(["password", "file/users", "u"], "file/users: cannot be written .* give a folder", id="users-nowhere"),
        pytest.param(["acl", "--children", "none.toml"], "children: none.toml: .* give a file", id="no-file"),
        pytest.param(
            [*CONFIG_OF_FILES, "--bridge", "gw1"], "bridge: needs", id="bridge"
        ),
        pytest.param(
            [*CONFIG_OF_FILES, "--bridge", "gw1", "--bridge-certificate", "d", "--bridge-key", "e"],
            "bridge: 'gw1' is not GATEWAY=HOST:PORT",
            id="bridge-form",
        ),
        pytest.param(
            [*CONFIG_OF_FILES, "--port", "0"], "port: .* greater", id="port"
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_mend(arguments: list[str], says: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no:hash\n")
    with pytest.raises(ConfigError, match=says):
        run(*arguments, entered="secret\n")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "nothing is written before all was looked at"
