"""Law: a token is shown once, to whoever makes it; who asks with it makes its own key."""

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from headwater.schemas.errors import ConfigError

Authority = Annotated[Path, typer.Option("--folder", help="The authority's folder, as `headwater pki init` made it.")]
MAX_VALID_H = 24.0 * 366
_RANDOM_SIZE_BYTES = 28


def token(
    node: Annotated[str, typer.Argument(help="The node that may enrol with it.")],
    folder: Authority = Path("pki"),
    role: Annotated[str, typer.Option(help="device or gateway.")] = "device",
    valid_h: Annotated[float, typer.Option("--valid-h", help="Hours until it ends.")] = 24.0,
    host: Annotated[list[str], typer.Option("--host", help="A name or address for its certificate; repeat.")] = [],  # noqa: B006
    output: Annotated[Path | None, typer.Option("--output", help="A file for it, instead of the screen.")] = None,
) -> None:
    """Make a one-time token, by which a new node gets its certificate.

    Example: headwater pki token pump-7 --valid-h 24 --output pump-7.token
    """
    from pydantic import ValidationError

    from headwater.schemas.config import refused
    from headwater.trust.files import SECRET, write_file
    from headwater.trust.folder import Folder
    from headwater.trust.problems import Untrusted
    from headwater.trust.tokens import TokenRecord, make_token

    if not 0 < valid_h <= MAX_VALID_H:
        raise ConfigError(f"valid-h: {valid_h:g} is not above 0 and at most {MAX_VALID_H:g}")
    place, until = Folder(folder), datetime.now(UTC) + timedelta(hours=valid_h)
    try:
        made, record = make_token(node, role, until, secrets.token_bytes(_RANDOM_SIZE_BYTES), hosts=tuple(host))  # type: ignore[arg-type]
    except Untrusted as error:
        raise ConfigError(str(error)) from None
    except ValidationError as error:
        raise refused(TokenRecord, error, "token") from None
    place.certificate()
    with place.locked():
        place.keep_token(record)
    if output is None:
        typer.echo(made.text())
        return
    write_file(output, f"{made.text()}\n".encode(), SECRET)
    typer.echo(f"{output}: for {node}, once, until {until:%Y-%m-%d %H:%M} UTC")


def serve(
    folder: Authority = Path("pki"),
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "fleet",
    node: Annotated[str, typer.Option(help="The user who answers at the broker.")] = "enrolment",
    broker_host: Annotated[str, typer.Option(help="Host of the broker.")] = "127.0.0.1",
    broker_port: Annotated[int, typer.Option(help="Port of the broker.")] = 8883,
    ca: Annotated[Path | None, typer.Option(help="The authority that the broker is checked by.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="That user's certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="Its password, where the broker has passwords.")] = None,
    passphrase_file: Annotated[Path | None, typer.Option(help="Opens the authority's key, where it is sealed.")] = None,
) -> None:
    """Answer whoever asks for a certificate by a token, where the cloud is not to hold the authority.

    Example: headwater pki serve --ca pki/ca.pem --certificate pki/issued/enrolment.pem --key pki/issued/enrolment.key
    """
    from headwater.cloud.enrolling import open_desk, serve_alone
    from headwater.node.logs import set_up_logging
    from headwater.node.service import run_service
    from headwater.schemas.links import BrokerSettings, TlsSettings
    from headwater.schemas.settings import EnrolmentSettings, LogSettings

    tls = TlsSettings(ca=ca, certificate=certificate, key=key) if ca or certificate else None
    user = None if certificate else node
    broker = BrokerSettings(host=broker_host, port=broker_port, user=user, password_file=password_file, tls=tls)
    settings = EnrolmentSettings(authority=folder, passphrase_file=passphrase_file)
    desk = open_desk(settings, fleet)
    set_up_logging(LogSettings(), node)
    raise typer.Exit(run_service(lambda: serve_alone(desk, broker, fleet, node)))


def enrol(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The node's settings, with [enrol].")],
    gateway: Annotated[bool, typer.Option("--gateway", help="They are a gateway's.")] = False,
) -> None:
    """Get this node its certificate by its one-time token, as its service does at the first start, and end.

    Example: headwater enrol device.toml
    """
    import os

    from headwater.cli.services import SERVICES
    from headwater.node.enrolling import enrol_if_new
    from headwater.schemas.config import load
    from headwater.schemas.settings import DeviceSettings, GatewaySettings

    if gateway:
        far = load(GatewaySettings, config, environment=os.environ, others=SERVICES).value
        asking, tls = enrol_if_new(far.enrol, far.fleet, far.node, far.uplink, "uplink"), far.uplink.tls
        is_asked = far.enrol is not None
    else:
        near = load(DeviceSettings, config, environment=os.environ, others=SERVICES).value
        asking, tls = enrol_if_new(near.enrol, near.fleet, near.node, near.broker), near.broker.tls
        is_asked = near.enrol is not None
    is_new = asyncio.run(asking)
    if not is_asked:
        raise ConfigError("enrol: is not in the settings; add a table [enrol] with token_file")
    where = tls.certificate if tls else None
    typer.echo(f"{where}: {'enrolled' if is_new else 'is there already, nothing was asked'}")
