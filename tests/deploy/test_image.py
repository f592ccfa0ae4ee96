"""A card: what its board is told, that cloud-init understands it, and that the board joins from it and keeps no secret."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headwater.cli import devices
from headwater.device.conditions import has_rules
from headwater.device.image import AT_FIRST_BOOT, Board, Joins, Login, Wireless, card, settings_for, settings_of
from headwater.schemas.config import Invalid, resolve
from headwater.schemas.errors import HeadwaterError
from headwater.schemas.settings import DeviceSettings
from headwater.trust.folder import Folder
from headwater.trust.tokens import make_token
from support.boards import DEPLOY, board, packages
from support.fortress import Fortress, fortress
from support.postgres import missing
from support.waiting import eventually

SHARED = """\
parent = "gw1"
state = "/var/lib/headwater"
[broker]
host = "broker.plant"
[data.vibration]
kind = "file"
path = "/var/lib/headwater/vibration.csv"
features = ["x", "y"]
target = "state"
labels = ["ok", "worn"]
"""
ENROLMENT_TOKEN = "/var/lib/headwater/enrolment-token"
TOKEN = "hw1-token-of-pump-7"
PUMP = Board(
    node="pump-7",
    settings=settings_for("pump-7", SHARED),
    version="1.2.3",
    token=TOKEN,
    authority="-----BEGIN CERTIFICATE-----\n",
    login=Login("anna", "ssh-ed25519 AAAA anna@desk"),
    wireless=Wireless("plant", "radio-secret", "DE"),
)


def cloud_config(of: Board) -> dict[str, object]:
    first, _, rest = card(of)["user-data"].partition("\n")
    assert first == "#cloud-config"
    told = json.loads(rest)
    assert isinstance(told, dict)
    return told


def test_the_settings_of_many_boards_differ_in_the_node_alone() -> None:
    told = tomllib.loads(card(PUMP)["headwater/device.toml"])
    assert (told.pop("node"), told) == ("pump-7", tomllib.loads(SHARED))


def test_a_board_without_a_file_of_settings_is_told_where_it_gets_its_certificate() -> None:
    text = settings_of("pump-8", Joins("broker.plant", fleet="plant", parent="gw1"), has_authority=True)
    told = tomllib.loads(text)
    assert (told["node"], told["parent"], told["fleet"]) == ("pump-8", "gw1", "plant")
    assert (told["broker"]["host"], told["broker"]["port"]) == ("broker.plant", 8883)
    assert told["broker"]["tls"] == told["trust"]
    assert told["enrol"] == {"token_file": ENROLMENT_TOKEN, "port": 8884, "ca": "/etc/headwater/ca.pem"}
    # Nobody stands by at a first start to take out a rule whose sensor the board has not.
    assert not has_rules(resolve(DeviceSettings, text=text).value.conditions)


@pytest.mark.parametrize(
    ("node", "shared", "says"),
    [
        pytest.param("pump-7", 'node = "x"\n' + SHARED, "take it out of the file", id="two names"),
        pytest.param("pump_7", SHARED, "no name for a machine", id="no host name"),
        pytest.param("pump/7", SHARED, "node", id="no node"),
        pytest.param("pump-7", SHARED.replace("state", "sate"), "did you mean state?", id="a slip"),
    ],
)
def test_settings_that_no_board_could_use_are_refused(node: str, shared: str, says: str) -> None:
    with pytest.raises(Invalid, match=says.replace("?", r"\?")):
        settings_for(node, shared)


def test_the_token_is_in_the_folder_that_goes_away_and_nowhere_else() -> None:
    assert [name for name, content in card(PUMP).items() if TOKEN in content] == ["headwater/token"]
    assert [name for name, content in card(PUMP).items() if "radio-secret" in content] == ["network-config"]


@pytest.mark.parametrize(
    "of", [PUMP, Board("pump-7", PUMP.settings, "1.2.3")], ids=["all of it", "no more than needed"]
)
def test_cloud_init_understands_what_it_is_told(of: Board, tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        missing("cloud-init", "apt-get install cloud-init")
    (tmp_path / "user-data").write_text(card(of)["user-data"])
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", tmp_path / "user-data"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid" in done.stdout


def test_what_cloud_init_does_not_know_is_noticed(tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        missing("cloud-init", "apt-get install cloud-init")
    (tmp_path / "user-data").write_text("#cloud-config\n" + json.dumps(cloud_config(PUMP) | {"runcmd": 7}))
    done = subprocess.run(
        ["cloud-init", "schema", "--config-file", tmp_path / "user-data"], capture_output=True, timeout=60
    )
    assert done.returncode != 0


def test_nobody_comes_in_by_a_password() -> None:
    told = cloud_config(PUMP)
    assert told["ssh_pwauth"] is False
    (user,) = told["users"]  # type: ignore[misc]
    assert (user["name"], user["lock_passwd"]) == ("anna", True)
    assert "users" not in cloud_config(Board("pump-7", PUMP.settings, "1.2.3"))


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        pytest.param(replace(PUMP, wireless=None), "--login:", id="login"),
        pytest.param(replace(PUMP, login=None), "--wifi:", id="wifi"),
        pytest.param(PUMP, "--login and --wifi:", id="both"),
    ],
)
def test_what_cloud_init_alone_does_is_not_promised_to_images_without_it(of: Board, asked: str) -> None:
    files = card(of)
    assert "firstrun.sh" not in files
    assert AT_FIRST_BOOT not in files["headwater.txt"]
    assert f"which alone carries out\n   {asked} this card is not for them" in files["headwater.txt"]


def test_a_card_that_asks_for_neither_is_for_older_images_too() -> None:
    files = card(replace(PUMP, login=None, wireless=None))
    assert "echo pump-7 >/etc/hostname" in files["firstrun.sh"]
    assert AT_FIRST_BOOT in files["headwater.txt"]


@pytest.mark.parametrize("script", ["install.sh", "join.sh", "firstrun.sh"])
def test_the_scripts_are_plain_sh(script: str) -> None:
    done = subprocess.run(["dash", "-n", DEPLOY / script], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_writes_a_card_once(tmp_path: Path) -> None:
    (tmp_path / "plant.toml").write_text(SHARED)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "agent.whl").write_text("a wheel")
    command = [sys.executable, "-m", "headwater.cli.main", "device", "image", "--node", "pump-7"]
    command += ["--config", "plant.toml", "--token-file", "token", "--wheel", "agent.whl", "--output", "card"]
    first, again = (subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert "the card of pump-7" in first.stdout
    assert (tmp_path / "card" / "headwater" / "wheel" / "agent.whl").read_text() == "a wheel"
    assert (tmp_path / "card" / "headwater" / "token").stat().st_mode & 0o077 == 0
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_the_command_says_which_images_a_login_is_for(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ssh-ed25519 AAAA anna@desk\n")
    command = [sys.executable, "-m", "headwater.cli.main", "device", "image", "--node", "pump-7", "--output", "card"]
    command += ["--broker", "broker.plant", "--login", "anna", "--ssh-key", "key"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "--login: for images with cloud-init" in done.stdout) == (0, True), done.stderr


CLOUD = """\
fleet = "plant"
[broker]
host = "localhost"
port = {port}
tls = {{ ca = "{ca}", certificate = "{certificate}", key = "{key}" }}
[enrolment]
authority = "{authority}"
"""
CSV = "x_rms,y_rms,z_rms,temperature,state\n" + "".join(f"{i},1,2,3,{'ok' if i < 20 else 'worn'}\n" for i in range(40))


def test_packages_that_never_come_are_waited_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "FETCH_TIMEOUT_S", 0.01)
    wheel = tmp_path / "headwater-1.2.3-py3-none-any.whl"
    wheel.touch()
    asked = ["image", "--node", "pump-7", "--broker", "b", "--wheel", str(wheel), "--carry", "--output"]
    told = CliRunner().invoke(devices.app, [*asked, str(tmp_path / "card")])
    assert isinstance(told.exception, HeadwaterError)
    assert "--carry: pip has not fetched all packages after 0.01 s" in str(told.exception)


@contextmanager
def enrolling(place: Fortress, folder: Path) -> Iterator[Folder]:
    """A cloud at the fortress's broker, which trades tokens for certificates."""
    authority = place.authority
    assert authority is not None
    papers = {"certificate": authority.certificate_of("cloud"), "key": authority.key_of("cloud")}
    text = CLOUD.format(port=place.ports["nodes"], ca=authority.certificate_file, authority=folder / "pki", **papers)
    (folder / "cloud.toml").write_text(text)
    command = [sys.executable, "-m", "headwater.cli.main", "cloud", "cloud.toml"]
    with subprocess.Popen(command, cwd=folder) as cloud:
        try:
            yield authority
        finally:
            cloud.terminate()


def written(of: Board, folder: Path, wheel: Path) -> Path:
    """A card as the command writes it, with every package on it."""
    for name, content in card(of).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "headwater" / "wheel").mkdir()
    shutil.copy(wheel, folder / "headwater" / "wheel")
    shutil.move(wheel.parent, folder / "headwater" / "wheelhouse")
    return folder


@pytest.mark.live
@pytest.mark.timeout(500)
def test_a_board_joins_from_its_card_by_a_token_that_nobody_finds_afterwards(tmp_path: Path) -> None:
    wheel = packages(tmp_path / "wheelhouse")
    with fortress("mosquitto", tmp_path) as place, enrolling(place, tmp_path) as authority:
        token, record = make_token("d1", "device", datetime.now(UTC) + timedelta(hours=1), os.urandom(28))
        authority.keep_token(record)
        joins = Joins("127.0.0.1", place.ports["nodes"], place.ports["enrolment"], "plant", "gw1")
        settings = settings_of("d1", joins, has_authority=True)
        d1 = Board(
            "d1",
            settings,
            "0",
            token.text(),
            authority.certificate_file.read_text(),
        )
        with board(written(d1, tmp_path / "card", wheel), systemd=True) as fresh:
            fresh.sh("mkdir -p /boot/firmware /var/lib/headwater && cp -r /src/. /boot/firmware")
            fresh.sh("echo 'console=tty1 systemd.run=x' > /boot/firmware/cmdline.txt")
            fresh.write("/var/lib/headwater/vibration.csv", CSV)
            fresh.in_a_container()
            # A container's engine lays these two over those of the board.
            fresh.sh("umount /etc/hosts /etc/hostname && sh /boot/firmware/firstrun.sh")
            assert fresh.sh("cat /etc/hostname /boot/firmware/cmdline.txt").split("\n") == ["d1", "console=tty1"]
            # As the second boot does.
            fresh.sh("systemctl daemon-reload && systemctl --no-block start headwater-join")
            eventually(lambda: fresh.shown("ActiveState") == "active", timeout_s=400)
            assert "enrolled as d1" in fresh.journal()
            assert "connected to 127.0.0.1" in fresh.journal()
            left = "ls -d /boot/firmware/headwater /etc/systemd/system/headwater-join.service " + ENROLMENT_TOKEN
            assert fresh.run("sh", "-c", left, check=False).stdout == ""
            assert fresh.run("grep", "-r", token.text(), "/boot", "/etc", "/var", "/opt", check=False).returncode == 1
            assert fresh.sh("stat -c '%a %U' /var/lib/headwater/trust/node.key") == "600 headwater"
