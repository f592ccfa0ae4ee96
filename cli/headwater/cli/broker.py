"""Law: whoever runs a broker gets its rules and passwords from here, for the embedded one and for Mosquitto alike."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from headwater.schemas.acl import fleet_acl
from headwater.schemas.errors import ConfigError

app = typer.Typer(
    help="The embedded broker, and the rules and passwords of any broker.", no_args_is_help=True, add_completion=False
)
FleetName = Annotated[str, typer.Option(help="Name of the fleet.")]
Parents = Annotated[list[str], typer.Option("--parent", help="A node that gathers children at this broker; repeat.")]
Viewers = Annotated[list[str], typer.Option("--viewer", help="A user who may read the round topics; repeat.")]
Predictions = Annotated[
    bool, typer.Option("--predictions", help="The viewers may also read what devices predict of their live data.")
]


@app.command("start")
def start(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 1883,
    password_file: Annotated[Path | None, typer.Option(help="Users, made by `headwater broker password`.")] = None,
    fleet: Annotated[str | None, typer.Option(help="Enforce the rules of this fleet.")] = None,
    parent: Parents = ["cloud"],  # noqa: B006
    viewer: Viewers = [],  # noqa: B006
    predictions: Predictions = False,
) -> None:
    """Run the embedded broker in this process, until Ctrl-C.

    Example: headwater broker start --port 1883
    """
    from headwater.transport.broker import BrokerConfig, serve

    config = BrokerConfig(
        host=host,
        port=port,
        password_file=str(password_file) if password_file else None,
        acl=fleet_acl(fleet, parents=parent, viewers=viewer, predictions=predictions) if fleet else None,
    )
    serve(config, lambda bound: print(f"listening on {host}:{bound}", flush=True))


@app.command("acl")
def acl(
    fleet: FleetName = "fleet",
    parent: Parents = ["cloud"],  # noqa: B006
    viewer: Viewers = [],  # noqa: B006
    predictions: Predictions = False,
) -> None:
    """Print the rules of a broker as a Mosquitto acl_file.

    Example: headwater broker acl --fleet plant --parent gw1 > acl
    """
    from headwater.transport.mosquitto import acl_file

    try:
        rules = fleet_acl(fleet, parents=parent, viewers=viewer, predictions=predictions)
        typer.echo(acl_file(rules), nl=False)
    except ValueError as error:
        raise ConfigError(str(error)) from None


@app.command("password")
def password(
    file: Annotated[Path, typer.Argument(help="The password file to add to.")],
    user: Annotated[str, typer.Argument(help="The user: the node's name.")],
) -> None:
    """Add a user of the embedded broker; the password is asked for, or read from standard input.

    Example: headwater broker password users pump-7
    """
    from headwater.transport.broker.auth import hash_password

    secret = typer.prompt("Password", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not secret:
        raise ConfigError("password: is empty; give one")
    kept = [line for line in _lines(file) if line.partition(":")[0] != user]
    file.touch(mode=0o600)
    file.write_text("\n".join([*kept, f"{user}:{hash_password(secret)}"]) + "\n", encoding="utf-8")


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
