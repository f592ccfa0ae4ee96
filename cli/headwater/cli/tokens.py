"""Law: a token of the HTTP API is shown once, when it is made; what is kept is its hash."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from headwater.cli.answers import AsJson, answer
from headwater.schemas.errors import ConfigError

app = typer.Typer(help="Tokens of the cloud's HTTP API.", no_args_is_help=True, add_completion=False)

File = Annotated[Path, typer.Option("--file", help="The file of tokens; it is http.tokens of the cloud's settings.")]
Owner = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is.")]
DEFAULT = Path("tokens.toml")


@app.command("add")
def add(
    name: Owner,
    role: Annotated[
        Literal["viewer", "operator"],
        typer.Option(help="A viewer reads; an operator also starts, stops, pauses and resumes."),
    ] = "viewer",
    file: File = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a token, and show it once. A coordinator that runs takes it at once.

    Example: headwater token add grafana --role viewer --file tokens.toml
    """
    from headwater.cloud.api.tokens import new_secret, of_secret, read, write

    known = read(file) if file.exists() else ()
    if any(token.name == name for token in known):
        raise ConfigError(f"name: {name!r} has a token in {file}; remove it first, or take another name")
    secret = new_secret()
    write(file, (*known, of_secret(name, role, secret)))
    answer(as_json, {"name": name, "role": role, "token": secret}, secret)


@app.command("list")
def list_(file: File = DEFAULT, as_json: AsJson = False) -> None:
    """List whose tokens there are, and their roles.

    Example: headwater token list --file tokens.toml
    """
    from headwater.cloud.api.tokens import read

    tokens = read(file)
    told = [{"name": token.name, "role": token.role} for token in tokens]
    answer(as_json, told, "\n".join(f"{token.name:<32} {token.role}" for token in tokens) or "no tokens yet")


@app.command("remove")
def remove(name: Owner, file: File = DEFAULT, as_json: AsJson = False) -> None:
    """Take a token back. A coordinator that runs refuses it at once.

    Example: headwater token remove grafana --file tokens.toml
    """
    from headwater.cloud.api.tokens import read, write

    known = read(file)
    kept = tuple(token for token in known if token.name != name)
    if len(kept) == len(known):
        there = ", ".join(token.name for token in known) or "nobody"
        raise ConfigError(f"name: {name!r} has no token in {file}; there are those of {there}")
    write(file, kept)
    answer(as_json, {"name": name, "removed": True}, f"{name}: removed")
