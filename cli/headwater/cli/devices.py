"""Law: `headwater device DEVICE.toml` runs the agent; what else there is to do about a device has a name."""

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headwater.cli import services


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
