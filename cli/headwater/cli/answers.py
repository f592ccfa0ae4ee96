"""Law: what a command answers is a sentence for people, or with --json the same for programs; what it makes goes into
the file that --output names.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from headwater.schemas.errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def answer(as_json: bool, value: Any, text: str) -> None:
    typer.echo(json.dumps(value, default=str) if as_json else text)


def write_output(path: Path, payload: bytes) -> None:
    """Raises ConfigError where nobody may write there."""
    try:
        path.write_bytes(payload)
    except OSError as error:
        raise ConfigError(f"output: {path}: {error.strerror}; choose another file") from None
