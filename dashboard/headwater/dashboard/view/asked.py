"""Law: a run that somebody writes into a browser is read like a run's file, and all that is wrong is said at once."""

import json
from typing import Final

from headwater.schemas.config import Invalid, checked, resolve
from headwater.schemas.errors import ConfigError
from headwater.schemas.run import OnnxModel, RunDescription

MAX_TEXT_LENGTH: Final = 256 * 1024


def described(text: str, *, has_forward: bool) -> RunDescription:
    """A run's description from TOML, or from JSON.

    Raises:
        ConfigError: the sentences that say what is wrong, one a line; or a model of kind onnx came without its file.
    """
    if not text.strip():
        raise ConfigError("the description is empty; paste a run.toml, or choose the file")
    if len(text) > MAX_TEXT_LENGTH:
        raise ConfigError(f"the description has {len(text)} characters; {MAX_TEXT_LENGTH} at most")
    description = (
        _from_json(text) if text.lstrip().startswith("{") else resolve(RunDescription, text=text, name="run").value
    )
    if isinstance(description.model, OnnxModel) and not has_forward:
        raise ConfigError("model.path: the ONNX file is on your machine; choose it below")
    return description


def _from_json(text: str) -> RunDescription:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid([f"run: {error}; this is no JSON"]) from None
    return checked(RunDescription, data, "run")
