"""Law: what a card must hold so that its board joins by itself is a mapping of names to contents; nothing is written.

    user-data, meta-data, network-config   cloud-init: Raspberry Pi OS from 2025-11 on, Ubuntu, Armbian
    firstrun.sh                            Raspberry Pi OS before that, where neither login nor radio is asked for
    headwater/                             the installer, the settings, and the token until it was used

The token is in the folder alone, which the board removes; cloud-init keeps what it was told, and is told no secret of
the fleet's.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import headwater.device
from headwater.schemas.config import Invalid, resolve
from headwater.schemas.settings import DeviceSettings

BOOT: Final = "/boot/firmware"
JOIN: Final = "headwater-join.service"
AT_FIRST_BOOT: Final = (
    f"systemd.run={BOOT}/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target"
)
PLATFORMS: Final = tuple(f"manylinux_{glibc}_aarch64" for glibc in ("2_17", "2_27", "2_28"))
"""What pip is to look for; Raspberry Pi OS bookworm has glibc 2.36."""

EXTRAS: Final = ("device", "trust", "update")
CARRIED: Final = ("install.sh", "join.sh", JOIN)
_NODE: Final = re.compile(r"(?m)^\s*node\s*=")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Login:
    """Who may come in by SSH, with which public key; nobody has a password."""

    user: str
    ssh_key: str


@dataclass(frozen=True, slots=True)
class Wireless:
    """The network of the air. `country` is that of the radio's rules, like DE."""

    name: str
    password: str
    country: str


@dataclass(frozen=True, slots=True)
class Joins:
    """Which fleet a board joins: below which parent, at whose broker, and at which port it trades its token."""

    host: str
    port: int = 8883
    enrolment_port: int = 8884
    fleet: str = "fleet"
    parent: str = "cloud"


@dataclass(frozen=True, slots=True)
class Board:
    """One board to be.

    `settings` is its device.toml, `version` that of the agent, `token` the one line of its enrolment token.
    """

    node: str
    settings: str
    version: str
    token: str | None = None
    authority: str | None = None
    login: Login | None = None
    wireless: Wireless | None = None

    @property
    def of_cloud_init(self) -> tuple[str, ...]:
        """The options that cloud-init alone carries out."""
        asked = {"--login": self.login, "--wifi": self.wireless}
        return tuple(option for option, value in asked.items() if value is not None)


def fetching(wheel: Path, folder: Path, python: str) -> tuple[str, ...]:
    """pip's arguments that bring everything a board needs into a folder, pip itself included."""
    platforms = (f"--platform={platform}" for platform in PLATFORMS)
    what = f"{wheel}[{','.join(EXTRAS)}]"
    only = ("--only-binary=:all:", f"--python-version={python}", *platforms)
    return ("download", "--quiet", "--dest", str(folder), *only, what, "pip")


def deploy_file(name: str) -> str:
    """A file of `device/deploy`: it lies in the wheel, or in the repository beside this room."""
    package = Path(headwater.device.__file__).parent
    there = (package / "deploy" / name, package.parents[1] / "deploy" / name)
    return next(path for path in there if path.exists()).read_text(encoding="utf-8")


def settings_of(node: str, joins: Joins, *, has_authority: bool) -> str:
    """A board's device.toml, whose data are still to be its owner's. Raises Invalid."""
    ca = 'ca = "/etc/headwater/ca.pem"\n' if has_authority else ""
    # A text is written alike in TOML and JSON, and so is a number.
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(joins).items()}
    text = deploy_file("image.toml").format(node=json.dumps(node), enrolment_ca=ca, **values)
    return checked(text, node)


def settings_for(node: str, shared: str) -> str:
    """The device.toml of one board of many that share the rest. Raises Invalid."""
    if _NODE.search(shared.partition("\n[")[0]):
        raise Invalid([f"--config: node: it is given to each board by --node {node}; take it out of the file"])
    return checked(f"node = {json.dumps(node)}\n{shared}", node)


def checked(settings: str, node: str) -> str:
    """The same text, of settings that a device takes. Raises Invalid."""
    resolve(DeviceSettings, text=settings, name="device.toml")
    if not _HOST.fullmatch(node):
        raise Invalid([f"--node: {node!r} is no name for a machine; use letters, digits and '-'"])
    return settings


def card(board: Board) -> Mapping[str, str]:
    """The files of the boot partition, by their path below it."""
    files = {f"headwater/{name}": deploy_file(name) for name in CARRIED}
    files |= {"headwater/device.toml": board.settings, "headwater/version": board.version + "\n"}
    if board.token is not None:
        files["headwater/token"] = board.token + "\n"
    if board.authority is not None:
        files["headwater/ca.pem"] = board.authority
    if not board.of_cloud_init:
        # It makes no user and joins no network; a board that waits in vain for either is worse than none.
        files["firstrun.sh"] = deploy_file("firstrun.sh").replace("@NODE@", board.node)
    return files | {
        "user-data": "#cloud-config\n" + _json(_user_data(board)),
        "meta-data": _json({"instance-id": f"headwater-{board.node}", "local-hostname": board.node}),
        "network-config": _json(_network(board.wireless)),
        "headwater.txt": _read_me(board),
    }


def _user_data(board: Board) -> dict[str, Any]:
    """Of YAML's ways to write it JSON is one."""
    unit = f"/etc/systemd/system/{JOIN}"
    data: dict[str, Any] = {
        "hostname": board.node,
        "manage_etc_hosts": True,
        "ssh_pwauth": False,
        "write_files": [{"path": unit, "content": deploy_file(JOIN), "permissions": "0644"}],
        "runcmd": [
            ["systemctl", "daemon-reload"],
            ["systemctl", "enable", "--now", "--no-block", JOIN],
        ],
    }
    if board.login is not None:
        data["users"] = [
            {
                "name": board.login.user,
                "groups": "sudo",
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "ssh_authorized_keys": [board.login.ssh_key],
            }
        ]
    return data


def _network(wireless: Wireless | None) -> dict[str, Any]:
    network: dict[str, Any] = {"version": 2, "ethernets": {"eth0": {"dhcp4": True, "optional": True}}}
    if wireless is not None:
        network["wifis"] = {
            "wlan0": {
                "dhcp4": True,
                "optional": True,
                "regulatory-domain": wireless.country,
                "access-points": {wireless.name: {"password": wireless.password}},
            }
        }
    return network


def _read_me(board: Board) -> str:
    return f"""\
This makes the board {board.node} of a Headwater fleet.

1. Write a 64-bit Raspberry Pi OS Lite to a card.
2. Copy everything beside this file to the card's first partition (bootfs), over what is there.
3. Raspberry Pi OS of 2025-11 or newer, Ubuntu: done. {_without_cloud_init(board)}
4. Put the card in and switch the board on. It installs the agent, trades its token for a certificate, and joins; the
   folder headwater/ goes away by itself.
"""


def _without_cloud_init(board: Board) -> str:
    if board.of_cloud_init:
        return f"""Older ones have no cloud-init, which alone carries out
   {" and ".join(board.of_cloud_init)}: this card is not for them. Take a newer one, or make the card without."""
    return f"""Older ones have no cloud-init; put at the end of the one line in
   cmdline.txt, after a blank:
   {AT_FIRST_BOOT}"""


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
