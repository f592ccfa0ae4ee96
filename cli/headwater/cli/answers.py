"""Law: what a command answers is a sentence for people, or with --json the same for programs."""

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def answer(as_json: bool, value: Any, text: str) -> None:
    typer.echo(json.dumps(value, default=str) if as_json else text)
