"""Law: the first thing anyone runs shows the whole idea in a minute, and leaves something to go on with."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds to train.")] = 40,
    folder: Annotated[Path, typer.Option(help="Where the history and the logs go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another run.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Watch a fleet learn: 9 people's smartwatches, 2 gateways, a cloud, all on this machine.

    Ctrl-C ends everything cleanly.
    """
    from headwater.testbed.demo import run_demo

    raise typer.Exit(run_demo(rounds=rounds, folder=folder, seed=seed, as_json=as_json))
