"""Law: a service is configured by a TOML file, the environment over it, and flags over both; no flag holds a secret."""

import json
import os
import webbrowser
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from headwater.cli.histories import without_password
from headwater.schemas.config import Key, Resolved, explain, load
from headwater.schemas.loading import loading
from headwater.schemas.settings import BridgeSettings, CloudSettings, DashboardSettings, DeviceSettings, GatewaySettings

S = TypeVar("S", BridgeSettings, CloudSettings, DashboardSettings, DeviceSettings, GatewaySettings)

SERVICES: tuple[type[BaseModel], ...] = (
    BridgeSettings,
    CloudSettings,
    DashboardSettings,
    DeviceSettings,
    GatewaySettings,
)

ConfigFile = Annotated[Path | None, typer.Argument(metavar="CONFIG.toml", help="Its settings; see docs/examples.")]
Fleet = Annotated[str | None, typer.Option(help="Name of the fleet.")]
Node = Annotated[str | None, typer.Option(help="Name of this node.")]
ParentNode = Annotated[str | None, typer.Option("--parent", help="Name of the parent node.")]
BrokerHost = Annotated[str | None, typer.Option(help="Host of its broker.")]
BrokerPort = Annotated[int | None, typer.Option(help="Port of its broker.")]
BrokerUser = Annotated[str | None, typer.Option(help="User at its broker; the password comes from a file.")]
PasswordFile = Annotated[Path | None, typer.Option("--broker-password-file", help="File that holds the password.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, typer.Option(help="text, or json for collectors.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Show every value and its origin, and end.")]
AsJson = Annotated[bool, typer.Option("--json", help="With --print-config: as JSON.")]


def device(
    config: ConfigFile = None,
    fleet: Fleet = None,
    node: Node = None,
    parent: ParentNode = None,
    broker_host: BrokerHost = None,
    broker_port: BrokerPort = None,
    broker_user: BrokerUser = None,
    broker_password_file: PasswordFile = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Run a device agent: it trains on its own data and sends weighted sums.

    Example: headwater device docs/examples/device.toml --node pump-7
    """
    flags = _common(fleet, node, log_level, log_format) | {("parent",): parent}
    flags |= _link("broker", broker_host, broker_port, broker_user, broker_password_file)
    resolved = _resolve(DeviceSettings, config, flags)
    if print_config:
        _print(resolved, as_json)
        return
    with loading():
        from headwater.device.service import serve

    _run(resolved.value, resolved.value.node, serve)


def gateway(
    config: ConfigFile = None,
    fleet: Fleet = None,
    node: Node = None,
    parent: ParentNode = None,
    uplink_host: Annotated[str | None, typer.Option(help="Host of the parent's broker.")] = None,
    uplink_port: Annotated[int | None, typer.Option(help="Port of the parent's broker.")] = None,
    site_host: Annotated[str | None, typer.Option(help="Host of the cluster's own broker.")] = None,
    site_port: Annotated[int | None, typer.Option(help="Port of the cluster's own broker.")] = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Run a gateway: it adds up its cluster and passes the sum on.

    Example: headwater gateway docs/examples/gateway.toml
    """
    flags = _common(fleet, node, log_level, log_format) | {("parent",): parent}
    flags |= _link("uplink", uplink_host, uplink_port) | _link("site", site_host, site_port)
    resolved = _resolve(GatewaySettings, config, flags)
    if print_config:
        _print(resolved, as_json)
        return
    with loading():
        from headwater.gateway.service import serve

    _run(resolved.value, resolved.value.node, serve)


def cloud(
    config: ConfigFile = None,
    fleet: Fleet = None,
    node: Node = None,
    database: Annotated[
        str | None,
        typer.Option(help="SQLAlchemy URL without a password, e.g. sqlite:///h.db.", callback=without_password),
    ] = None,
    broker_host: BrokerHost = None,
    broker_port: BrokerPort = None,
    broker_user: BrokerUser = None,
    broker_password_file: PasswordFile = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Run the cloud coordinator: it works on the runs that `headwater run start` asks for.

    Example: headwater cloud docs/examples/cloud.toml
    """
    flags = _common(fleet, node, log_level, log_format) | {("database",): database}
    flags |= _link("broker", broker_host, broker_port, broker_user, broker_password_file)
    resolved = _resolve(CloudSettings, config, flags)
    if print_config:
        _print(resolved, as_json)
        return
    with loading():
        from headwater.cloud.service import serve

    _run(resolved.value, resolved.value.node, serve)


def bridge(
    system: Annotated[str, typer.Argument(help="home-assistant or thingsboard.")],
    config: ConfigFile = None,
    fleet: Fleet = None,
    broker_host: BrokerHost = None,
    broker_port: BrokerPort = None,
    broker_user: BrokerUser = None,
    broker_password_file: PasswordFile = None,
    target_host: Annotated[str | None, typer.Option(help="Host of the other system's broker.")] = None,
    target_port: Annotated[int | None, typer.Option(help="Port of the other system's broker.")] = None,
    target_user: Annotated[str | None, typer.Option(help="User there; ThingsBoard's gateway access token.")] = None,
    target_password_file: Annotated[Path | None, typer.Option(help="File that holds the password there.")] = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Tell another system what the fleet tells people: its nodes show up there by themselves.

    Example: headwater bridge home-assistant --fleet plant --target-host homeassistant.local
    """
    flags: dict[Key, object] = {("system",): system, ("fleet",): fleet}
    flags |= {("log", "level"): log_level, ("log", "format"): log_format}
    flags |= _link("broker", broker_host, broker_port, broker_user, broker_password_file)
    flags |= _link("target", target_host, target_port, target_user, target_password_file)
    resolved = _resolve(BridgeSettings, config, flags)
    if print_config:
        _print(resolved, as_json)
        return
    with loading():
        from headwater.bridges.service import serve

    _run(resolved.value, f"bridge to {system}", serve)


def dashboard(
    config: ConfigFile = None,
    fleet: Fleet = None,
    broker_host: Annotated[str | None, typer.Option(help="Host of the cloud's broker.")] = None,
    broker_port: Annotated[int | None, typer.Option(help="Port of the cloud's broker.")] = None,
    api: Annotated[str | None, typer.Option(help="Address of the cloud's HTTP API.", metavar="URL")] = None,
    host: Annotated[str | None, typer.Option(help="Where it answers; elsewhere than here it wants access.")] = None,
    port: Annotated[int | None, typer.Option(help="The port that a browser asks.")] = None,
    opens: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    print_config: PrintConfig = False,
    as_json: AsJson = False,
) -> None:
    """Show a fleet in the browser: its tree, its runs, its devices, alive.

    Example: headwater dashboard --broker-port 1883 --open
    """
    flags: dict[Key, object] = {("fleet",): fleet, ("api",): api, ("host",): host, ("port",): port}
    flags |= {("log", "level"): log_level, ("log", "format"): log_format}
    flags |= {("brokers", "cloud", "host"): broker_host, ("brokers", "cloud", "port"): broker_port}
    resolved = _resolve(DashboardSettings, config, flags)
    if print_config:
        _print(resolved, as_json)
        return
    with loading():
        from headwater.dashboard.service import serve

    _run(resolved.value, "dashboard", partial(serve, tell=_told(opens)))


def _told(opens: bool) -> Callable[[str], None]:
    """Says where the dashboard is, and opens it where that was asked for."""

    def tell(url: str) -> None:
        typer.echo(f"watch it: {url}")
        if opens:
            webbrowser.open(url)

    return tell


def _common(fleet: str | None, node: str | None, level: str | None, format_: str | None) -> dict[Key, object]:
    return {("fleet",): fleet, ("node",): node, ("log", "level"): level, ("log", "format"): format_}


def _link(
    name: str, host: str | None, port: int | None, user: str | None = None, password_file: Path | None = None
) -> dict[Key, object]:
    file = str(password_file) if password_file else None
    return {(name, "host"): host, (name, "port"): port, (name, "user"): user, (name, "password_file"): file}


def _resolve(model: type[S], config: Path | None, flags: Mapping[Key, object]) -> Resolved[S]:
    return load(model, config, environment=os.environ, flags=flags, others=SERVICES)


def _run(settings: S, name: str, serve: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    from headwater.node.logs import set_up_logging
    from headwater.node.service import run_service

    set_up_logging(settings.log, name)
    raise typer.Exit(run_service(lambda: serve(settings)))


def _print(resolved: Resolved[Any], as_json: bool) -> None:
    rows = explain(resolved)
    if as_json:
        typer.echo(json.dumps({key: {"value": value, "from": origin} for key, value, origin in rows}, indent=1))
        return
    width, values = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    for key, value, origin in rows:
        typer.echo(f"{key:<{width}}  {value:<{values}}  {origin}")
