"""Law: the first thing anyone runs shows the whole idea in a minute, and leaves something to go on with."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def demo(
    scenario: Annotated[str, typer.Argument(help="What is learned; see --list.")] = "wearables",
    rounds: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Rounds to train; by default the scenario's.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where history, logs and page go; by default runs/demo, or runs/SCENARIO.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed, another run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    dashboard: Annotated[
        bool, typer.Option(help="Show it in a browser too; the fleet then stays up until Ctrl-C, on a terminal.")
    ] = True,
    opens: Annotated[bool, typer.Option("--open", help="Open the browser there.")] = False,
    lists: Annotated[bool, typer.Option("--list", help="Show which scenarios there are.")] = False,
) -> None:
    """Watch a fleet learn: 9 people's smartwatches, 2 gateways, a cloud, all on this machine.

    Its dashboard is on http://127.0.0.1:8090. Other scenarios learn from other data. Ctrl-C ends everything cleanly.

    Example: headwater demo driving
    """
    from headwater.testbed import scenarios
    from headwater.testbed.demo import run_demo
    from headwater.testbed.showing import Showing

    if lists:
        for name in scenarios.names():
            told = scenarios.scenario(name)
            needs = "".join(f"  (first: headwater data prepare {data})" for data in told.prepared)
            typer.echo(f"{name:<10} {told.about}{needs}")
        return
    chosen = scenarios.scenario(scenario)
    changes = {key: value for key, value in (("rounds", rounds), ("seed", seed)) if value is not None}
    chosen = chosen.model_copy(update={"run": chosen.run.model_copy(update=changes)})
    where = folder or Path("runs") / ("demo" if scenario == scenarios.DEFAULT else scenario)
    # Where nobody sits in front of it, it ends by itself.
    stays = dashboard and sys.stdout.isatty() and not as_json
    showing = Showing(dashboard=dashboard, opens=opens, stays=stays)
    raise typer.Exit(run_demo(chosen, where, with_json=as_json, showing=showing))
