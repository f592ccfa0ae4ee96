"""Law: whoever runs a broker gets its rules and passwords from here, for the embedded one and for Mosquitto alike."""

import os
import secrets
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import BaseModel, ValidationError

from headwater.schemas.acl import Acl, enrolment_acl, fleet_acl
from headwater.schemas.errors import ConfigError
from headwater.trust.files import PUBLIC, SECRET, make_folder, read_file, write_file

BROKERS_SECRET: Final = 0o640
"""A broker runs under a user of its own, which reads it as one of the file's group."""

app = typer.Typer(
    help="The embedded broker, and the rules, passwords and configuration of any broker.",
    no_args_is_help=True,
    add_completion=False,
)
FleetName = Annotated[str, typer.Option(help="Name of the fleet.")]
Parents = Annotated[list[str], typer.Option("--parent", help="A node that gathers children at this broker; repeat.")]
Children = Annotated[
    list[str],
    typer.Option("--child", help="PARENT=NODE,NODE,…: nobody else is a child of this parent; repeat."),
]
ChildrenFile = Annotated[
    Path | None, typer.Option("--children", help='The same in a TOML file: gw1 = ["pump-1", "pump-2"].')
]
Barred = Annotated[
    list[str], typer.Option("--bar", help="A node that may do nothing any more, also on a connection it has; repeat.")
]
Gateways = Annotated[
    list[str],
    typer.Option("--gateway", help="Who tells of a cluster's rounds; by default any node may, of its own; repeat."),
]
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
    child: Children = [],  # noqa: B006
    children: ChildrenFile = None,
    gateway: Gateways = [],  # noqa: B006
    bar: Barred = [],  # noqa: B006
    viewer: Viewers = [],  # noqa: B006
    predictions: Predictions = False,
    anyone: Annotated[
        bool, typer.Option("--anyone", help="No password, also for other machines: who reaches it may come in.")
    ] = False,
) -> None:
    """Run the embedded broker in this process, until Ctrl-C.

    Example: headwater broker start --port 1883
    """
    from headwater.schemas.settings import is_loopback
    from headwater.transport.broker import BrokerConfig, serve

    if password_file is None and not anyone and not is_loopback(host):
        raise ConfigError(
            f"host: {host} can be reached by others, and there is no password; give --password-file, or --anyone where "
            "everyone in that network may read and write"
        )
    named = _children(child, children)
    rules = None if fleet is None else _rules(fleet, parent, named, gateway, bar, viewer, predictions)
    users = str(password_file) if password_file else None
    with _sentences(BrokerConfig):
        config = BrokerConfig(host=host, port=port, password_file=users, acl=rules)
    serve(config, lambda bound: print(f"listening on {host}:{bound}", flush=True))


@app.command("acl")
def acl(
    fleet: FleetName = "fleet",
    parent: Parents = ["cloud"],  # noqa: B006
    child: Children = [],  # noqa: B006
    children: ChildrenFile = None,
    gateway: Gateways = [],  # noqa: B006
    bar: Barred = [],  # noqa: B006
    viewer: Viewers = [],  # noqa: B006
    predictions: Predictions = False,
    enrolment: Annotated[
        bool, typer.Option("--enrolment", help="Instead, those of the listener where certificates are asked for.")
    ] = False,
    enrolment_by: Annotated[str | None, typer.Option(help="The user who answers such requests.")] = None,
) -> None:
    """Print the rules of a broker as a Mosquitto acl_file.

    Example: headwater broker acl --fleet plant --parent gw1 --child gw1=pump-1,pump-2 > acl
    """
    from headwater.transport.mosquitto import acl_file

    if enrolment:
        with _sentences():
            rules = enrolment_acl(fleet)
        typer.echo(acl_file(rules), nl=False)
        return
    rules = _rules(fleet, parent, _children(child, children), gateway, bar, viewer, predictions, enrolment_by)
    typer.echo(acl_file(rules), nl=False)


@app.command("config")
def config(
    output: Annotated[Path, typer.Argument(help="The folder to write; Mosquitto reads it from there.")],
    ca: Annotated[Path, typer.Option(help="The authority that nodes have their certificates from: ca.pem.")],
    certificate: Annotated[Path, typer.Option(help="The broker's own certificate.")],
    key: Annotated[Path, typer.Option(help="Its key.")],
    revoked: Annotated[Path | None, typer.Option(help="The authority's list of revoked ones: crl.pem.")] = None,
    fleet: FleetName = "fleet",
    parent: Parents = ["cloud"],  # noqa: B006
    child: Children = [],  # noqa: B006
    children: ChildrenFile = None,
    gateway: Gateways = [],  # noqa: B006
    bar: Barred = [],  # noqa: B006
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Port for nodes, who show a certificate.")] = 8883,
    enrolment_port: Annotated[int, typer.Option(help="Port for who asks for a certificate; 0 for none.")] = 8884,
    enrolment_by: Annotated[str, typer.Option(help="The user who answers them.")] = "cloud",
    viewer: Viewers = [],  # noqa: B006
    viewer_port: Annotated[int, typer.Option(help="Port for viewers, who have passwords.")] = 8885,
    predictions: Predictions = False,
    data: Annotated[Path | None, typer.Option(help="Folder for what outlives a restart.")] = None,
    bridge: Annotated[
        str | None, typer.Option(help="GATEWAY=HOST:PORT: pass this gateway's messages on to its parent's broker.")
    ] = None,
    bridge_parent: Annotated[str, typer.Option(help="That gateway's parent.")] = "cloud",
    bridge_certificate: Annotated[Path | None, typer.Option(help="That gateway's certificate.")] = None,
    bridge_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
) -> None:
    """Write Mosquitto's configuration, rules and passwords for a fleet with certificates.

    Example: headwater broker config broker --ca pki/ca.pem --revoked pki/crl.pem
    --certificate pki/issued/broker.pem --key pki/issued/broker.key
    """
    described = {
        "fleet": fleet,
        "folder": output.absolute(),
        "parents": tuple(parent),
        "children": _children(child, children),
        "gateways": tuple(gateway) or None,
        "barred": tuple(bar),
        "host": host,
        "port": port,
        "tls": {
            "certificate": certificate.absolute(),
            "key": key.absolute(),
            "ca": ca.absolute(),
            "revoked": revoked.absolute() if revoked else None,
        },
        "enrolment_port": enrolment_port or None,
        "enrolment_by": enrolment_by,
        "viewer_port": viewer_port if viewer else None,
        "viewers": tuple(viewer),
        "predictions": predictions,
        "data": data.absolute() if data else None,
    }
    if bridge is not None:
        if bridge_certificate is None or bridge_key is None:
            raise ConfigError("bridge: needs the gateway's own --bridge-certificate and --bridge-key")
        passing = {
            "fleet": fleet,
            "parent": bridge_parent,
            "client": f"bridge.{secrets.token_hex(16)}",
            "ca": ca.absolute(),
            "certificate": bridge_certificate.absolute(),
            "key": bridge_key.absolute(),
        }
        described["bridges"] = (passing | _bridge(bridge),)
    _write(described)
    given = {
        "ca": ca,
        "certificate": certificate,
        "key": key,
        "revoked": revoked,
        "bridge-certificate": bridge_certificate,
        "bridge-key": bridge_key,
    }
    for name, file in given.items():
        # No refusal: the broker may run on another machine, and its certificate be made later.
        if file is not None and not os.path.exists(file):
            said = f"{name}: {file} is not there, as far as can be seen; Mosquitto does not start without it"
            typer.echo(f"headwater: {said}", err=True)


def _write(described: dict[str, object]) -> None:
    from headwater.transport.fleet_broker import CONFIG, VIEWERS, FleetBroker, files

    with _sentences(FleetBroker):
        broker = FleetBroker.model_validate(described)
        made = files(broker, os.urandom)
    make_folder(broker.folder)
    for name, file in made.items():
        write_file(broker.folder / name, file.text.encode(), BROKERS_SECRET if file.is_secret else PUBLIC)
    users = broker.folder / VIEWERS
    if broker.viewer_port and not users.exists():
        write_file(users, b"", BROKERS_SECRET)
    typer.echo(f"mosquitto -c {broker.folder / CONFIG}")
    for viewer in broker.viewers:
        typer.echo(f"headwater broker password --mosquitto {users} {viewer}")


@contextmanager
def _sentences(model: type[BaseModel] = Acl) -> Iterator[None]:
    """ConfigError for a name that can be none, and for what `model` refuses."""
    from headwater.schemas.config import refused

    try:
        yield
    except ValidationError as error:
        raise refused(model, error, "broker") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _bridge(text: str) -> dict[str, object]:
    gateway, _, where = text.partition("=")
    host, _, port = where.rpartition(":")
    if not (gateway and host and port.isdecimal()):
        raise ConfigError(f"bridge: {text!r} is not GATEWAY=HOST:PORT")
    return {"gateway": gateway, "host": host, "port": int(port)}


def _children(named: list[str], file: Path | None) -> dict[str, tuple[str, ...]]:
    """By parent. Raises ConfigError for what is no list of names."""
    found: dict[str, tuple[str, ...]] = {}
    for one in named:
        parent, _, listed = one.partition("=")
        names = tuple(name.strip() for name in listed.split(",") if name.strip())
        if not parent or not names:
            # Taken for a list of nobody, it would lock all of them out.
            raise ConfigError(f"child: {one!r} is not PARENT=NODE,NODE,…; name who may be this parent's child")
        found[parent] = (*found.get(parent, ()), *names)
    if file is None:
        return found
    try:
        in_file = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f'children: {file}: {error}; give a file with lines like gw1 = ["pump-1"]') from None
    for parent, nodes in in_file.items():
        if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
            raise ConfigError(f'children: {file}: {parent} is no list of names; write {parent} = ["pump-1"]')
        found[parent] = (*found.get(parent, ()), *nodes)
    return found


def _rules(
    fleet: str,
    parents: list[str],
    children: dict[str, tuple[str, ...]],
    gateways: list[str],
    barred: list[str],
    viewers: list[str],
    predictions: bool,
    enrolment: str | None = None,
) -> Acl:
    with _sentences():
        return fleet_acl(
            fleet,
            parents=parents,
            children=children,
            gateways=gateways or None,
            barred=barred,
            viewers=viewers,
            predictions=predictions,
            enrolment=enrolment,
        )


@app.command("password")
def password(
    file: Annotated[Path, typer.Argument(help="The password file to add to.")],
    user: Annotated[str, typer.Argument(help="The user: the node's name.")],
    mosquitto: Annotated[bool, typer.Option("--mosquitto", help="In Mosquitto's format.")] = False,
) -> None:
    """Add a user of the embedded broker, or of Mosquitto; the password is asked for, or read from standard input.

    Example: headwater broker password users pump-7
    """
    from headwater.transport.broker.auth import checked_user

    with _sentences():
        checked_user(user)
    others = [line for line in _lines(file) if line.partition(":")[0] != user]
    secret = typer.prompt("Password", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not secret:
        raise ConfigError("password: is empty; give one")
    line = _mosquittos(user, secret) if mosquitto else _embedded(user, secret)
    # Who may read it stays as it is: a broker runs under a user of its own.
    mode = file.stat().st_mode & 0o777 if file.exists() else SECRET
    write_file(file, ("\n".join([*others, line]) + "\n").encode(), mode)


def _mosquittos(user: str, secret: str) -> str:
    from headwater.transport.fleet_broker import SALT_SIZE_BYTES
    from headwater.transport.mosquitto import password_file

    return password_file({user: secret}, {user: os.urandom(SALT_SIZE_BYTES)}).rstrip("\n")


def _embedded(user: str, secret: str) -> str:
    from headwater.transport.broker.auth import hash_password

    return f"{user}:{hash_password(secret)}"


def _lines(file: Path) -> list[str]:
    try:
        return read_file(file, "file").decode().splitlines() if file.exists() else []
    except UnicodeDecodeError:
        raise ConfigError(f"file: {file} is no UTF-8 text, so no password file; give another") from None
