"""Law: a run that cannot begin is refused when it is asked for, whichever way it is asked."""

from datetime import datetime

from headwater.cloud.history import History, RunRecord
from headwater.cloud.preparation import compiled_for
from headwater.schemas.errors import ConfigError
from headwater.schemas.patterns import PLAIN, check_form
from headwater.schemas.run import OnnxModel, RunDescription


def ask(
    history: History,
    fleet: str,
    description: RunDescription,
    forward: bytes | None,
    *,
    run: str | None,
    now: datetime,
    salt: str,
) -> RunRecord:
    """Queue a run.

    Args:
        forward: the ONNX file of a model of kind `onnx`.
        run: its name, by default its time and the description's name.
        salt: a few characters of chance, by which two of the same second differ.

    Raises:
        ConfigError: the model and its file do not belong together, or a name is none.
        UnsupportedModel: the owner's model cannot be trained.
        Conflict: there is a run of this name.
    """
    run = run_id(description.name, now, salt) if run is None else run
    for field, value in (("run", run), ("fleet", fleet)):
        check_form(field, value)
    for field in ("name", "data"):
        check_form(field, getattr(description, field), PLAIN)
    _check_forward(description, forward)
    return history.enqueue_run(run, fleet, description, forward, now)


def run_id(name: str, now: datetime, salt: str) -> str:
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in name).strip("-")[:24] or "run"
    return f"{now:%Y%m%d-%H%M%S}-{plain}-{salt}"


def _check_forward(description: RunDescription, forward: bytes | None) -> None:
    if not isinstance(description.model, OnnxModel):
        if forward is not None:
            raise ConfigError(f"forward: a model of kind {description.model.kind!r} brings no file; leave it out")
        return
    if forward is None:
        raise ConfigError("forward: missing; a model of kind 'onnx' brings its file along")
    compiled_for(description, forward)
