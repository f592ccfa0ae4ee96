"""Law: `headwater device DEVICE.toml` runs the agent; what else there is to do about a device has a name."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from headwater.cli import services
from headwater.schemas.errors import ConfigError, HeadwaterError

FETCH_TIMEOUT_S: Final = 1800.0
"""For every package of a board, some hundred megabytes, over a thin link."""


class _AgentUnlessNamed(TyperGroup):
    """A group in which everything that names no command is for the agent."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named else ["run", *args])


app = typer.Typer(
    cls=_AgentUnlessNamed,
    help="Run a device agent: it trains on its own data and sends weighted sums. `run` may be left out.\n\n"
    "Example: headwater device docs/examples/device.toml --node pump-7",
    add_completion=False,
)
app.command("run")(services.device)


@app.command("doctor")
def doctor(
    config: services.ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
    listen_s: Annotated[
        float | None, typer.Option(min=0, help="How long to listen for the parent; by default over a heartbeat.")
    ] = None,
) -> None:
    """Say what may stand in a device's way, and the mend: clock, disk, heat, data, broker, certificates, parent.

    Ends with 0 where nothing does, else as the agent would: 1 this board, 2 configuration, 3 broker, 4 access, 5 data.

    Example: headwater device doctor /etc/headwater/device.toml
    """
    from headwater.device.doctor import examine

    findings = examine.doctor(config, environment=os.environ, listen_s=listen_s)
    typer.echo(examine.as_json(findings) if as_json else examine.text(findings))
    raise typer.Exit(examine.exit_code_of(findings))


@app.command("image")
def image(
    output: Annotated[Path, typer.Option(help="Folder for the card's files; it must be new or empty.")],
    node: Annotated[str, typer.Option(help="Name of the node, and of the board.")],
    config: Annotated[
        Path | None, typer.Option(help="A device.toml without its node, for every board of this kind.")
    ] = None,
    fleet: Annotated[str, typer.Option(help="Without --config: name of the fleet.")] = "fleet",
    parent: Annotated[str, typer.Option(help="Without --config: name of the parent node.")] = "cloud",
    broker: Annotated[str | None, typer.Option(help="Without --config: host of the broker.")] = None,
    port: Annotated[int, typer.Option(help="Without --config: its port, of certificates.")] = 8883,
    enrolment_port: Annotated[int, typer.Option(help="Without --config: its port, of tokens.")] = 8884,
    token_file: Annotated[Path | None, typer.Option(help="One-time token, from `headwater pki token`.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate of the fleet's authority.")] = None,
    wheel: Annotated[Path | None, typer.Option(help="Headwater's wheel; without it the board asks its index.")] = None,
    carry: Annotated[bool, typer.Option("--carry", help="With --wheel: every package goes onto the card too.")] = False,
    python: Annotated[str, typer.Option(help="With --carry: the board's Python.")] = "3.11",
    login: Annotated[
        str | None, typer.Option(help="User who may come in by SSH, with --ssh-key; by cloud-init.")
    ] = None,
    ssh_key: Annotated[Path | None, typer.Option(help="File of that user's public key.")] = None,
    wifi: Annotated[
        str | None, typer.Option(help="A wireless network, with --wifi-password-file; by cloud-init.")
    ] = None,
    wifi_password_file: Annotated[Path | None, typer.Option(help="File of its password.")] = None,
    wifi_country: Annotated[str, typer.Option(help="Whose rules the radio keeps.")] = "GB",
) -> None:
    """Write what an SD card must hold so that its board joins the fleet by itself.

    Example: headwater device image --node pump-7 --config plant.toml --token-file token --ca ca.pem --output card
    """
    from headwater.device.image import Board, Joins, Login, Wireless, card, settings_for, settings_of

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output: {output} is not empty; give a new folder")
    if carry and wheel is None:
        raise ConfigError("--carry: needs --wheel, for the board is to have this very agent; give its file")
    if config is not None:
        settings = settings_for(node, _text("--config", config))
    elif broker is not None:
        settings = settings_of(node, Joins(broker, port, enrolment_port, fleet, parent), has_authority=ca is not None)
    else:
        raise ConfigError("--config: missing; give it, or --broker for settings to begin with")
    board = Board(
        node=node,
        settings=settings,
        version=version("headwater"),
        token=_line("--token-file", token_file) if token_file else None,
        authority=_text("--ca", ca) if ca else None,
        login=Login(login, _line("--ssh-key", ssh_key)) if login else None,
        wireless=Wireless(wifi, _line("--wifi-password-file", wifi_password_file), wifi_country) if wifi else None,
    )
    _lay(output, card(board))
    if wheel is not None:
        _lay_wheel(wheel, output / "headwater", python if carry else None)
    typer.echo(f"{output}: the card of {node}; what to do with it is in {output / 'headwater.txt'}")
    if board.of_cloud_init:
        typer.echo(f"{' and '.join(board.of_cloud_init)}: for images with cloud-init (Raspberry Pi OS from 2025-11 on)")


def _lay_wheel(wheel: Path, folder: Path, carried_for: str | None) -> None:
    """The wheel, and where a board's Python is given every package that it needs."""
    (folder / "wheel").mkdir()
    shutil.copy(wheel, folder / "wheel")
    if carried_for is not None:
        _fetch(wheel, folder / "wheelhouse", carried_for)


def _lay(output: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A token is in it, and perhaps a password of the air.
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")


def _fetch(wheel: Path, folder: Path, python: str) -> None:
    from headwater.device.image import fetching

    command = [sys.executable, "-m", "pip", *fetching(wheel, folder, python)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise HeadwaterError(
            f"--carry: pip has not fetched all packages after {FETCH_TIMEOUT_S:g} s; look whether its index answers, "
            "and begin anew with another --output"
        ) from None
    if done.returncode:
        raise HeadwaterError(f"--carry: {done.stderr.strip()}")


def _line(option: str, path: Path | None) -> str:
    return _text(option, path).strip()


def _text(option: str, path: Path | None) -> str:
    if path is None:
        raise ConfigError(f"{option}: missing; give the file")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: {error}; give a readable file") from None
