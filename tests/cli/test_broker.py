"""`headwater broker`: the files of a fleet's broker, as Mosquitto takes them, and what is wrong said with its mend."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli.app import app
from headwater.schemas.errors import ConfigError
from headwater.testbed.machine import free_port
from headwater.transport.fleet_broker import CONFIG
from headwater.trust.folder import Folder
from support.brokers import started
from support.guests import Guest, Papers


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


def test_the_rules_of_the_door_for_enrolment(tmp_path: Path) -> None:
    assert "pattern write hw/1/plant/enrol/%c/request" in run("acl", "--fleet", "plant", "--enrolment")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["acl", "--child", "gw9=d1"], "children: 'gw9' is none of the parents", id="stray-parent"),
        pytest.param(["acl", "--child", "cloud=d/1"], "node: 'd/1' cannot be a topic level", id="name"),
        pytest.param(["acl", "--children", "none.toml"], "children: none.toml: .* give a file", id="no-file"),
        pytest.param(
            ["config", "x", "--ca", "a", "--certificate", "b", "--key", "c", "--bridge", "gw1"], "bridge: needs", id="bridge"
        ),
        pytest.param(
            [*["config", "x", "--ca", "a", "--certificate", "b", "--key", "c", "--bridge", "gw1", "--bridge-certificate", "d", "--bridge-key", "e"]],
            "bridge: 'gw1' is not GATEWAY=HOST:PORT",
            id="bridge-form",
        ),
        pytest.param(
            ["config", "x", "--ca", "a", "--certificate", "b", "--key", "c", "--port", "0"], "port: .* greater", id="port"
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_mend(arguments: list[str], says: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        run(*arguments)
