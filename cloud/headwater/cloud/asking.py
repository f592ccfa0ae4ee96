"""Law: a run that cannot begin is refused when it is asked for, whichever way it is asked."""

import io
import zipfile
import zlib
from datetime import datetime

import numpy as np

from headwater.cloud.history import History, RunRecord
from headwater.cloud.history.faults import NotThere
from headwater.cloud.history.states import ENDED
from headwater.cloud.preparation import check_shapes, compiled_for, forward_model, parameters_in
from headwater.core.aggregate import Parameters
from headwater.schemas.errors import ConfigError, RunFailed
from headwater.schemas.messages import Model
from headwater.schemas.patterns import PLAIN, check_form
from headwater.schemas.run import OnnxModel, RunDescription
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode


def ask(
    history: History,
    fleet: str,
    description: RunDescription,
    forward: bytes | None,
    initial: bytes | None = None,
    *,
    run: str | None,
    now: datetime,
    salt: str,
) -> RunRecord:
    """Queue a run.

    Args:
        forward: the ONNX file of a model of kind `onnx`.
        initial: the .npz file that the description's `initial` names.
        run: its name, by default its time and the description's name.
        salt: a few characters of chance, by which two of the same second differ.

    Raises:
        ConfigError: the model and its files do not belong together, a name is none, or there is nothing to begin with.
        UnsupportedModel: the owner's model cannot be trained.
        Conflict: there is a run of this name.
    """
    run = run_id(description.name, now, salt) if run is None else run
    for field, value in (("run", run), ("fleet", fleet)):
        check_form(field, value)
    for field in ("name", "data"):
        check_form(field, getattr(description, field), PLAIN)
    _check_forward(description, forward)
    own = _owners(description, initial)
    begins_with = own if description.initial_run is None else _last_of(history, description.initial_run)
    _check_model(description, forward, begins_with)
    model = None if own is None else encode(Model(run=run, version=0, tensors=encode_tensors(own)))
    return history.enqueue_run(run, fleet, description, forward, now, initial=model)


def run_id(name: str, now: datetime, salt: str) -> str:
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in name).strip("-")[:24] or "run"
    return f"{now:%Y%m%d-%H%M%S}-{plain}-{salt}"


def _check_forward(description: RunDescription, forward: bytes | None) -> None:
    is_brought = isinstance(description.model, OnnxModel)
    if forward is not None and not is_brought:
        raise ConfigError(f"forward: a model of kind {description.model.kind!r} brings no file; leave it out")
    if forward is None and is_brought:
        raise ConfigError("forward: missing; a model of kind 'onnx' brings its file along")


def _owners(description: RunDescription, initial: bytes | None) -> Parameters | None:
    """The parameters in the owner's file. Raises ConfigError."""
    file = description.initial_file
    if file is None:
        if initial is not None:
            raise ConfigError(f"initial: {description.initial!r} brings no file; leave it out")
        return None
    if initial is None:
        raise ConfigError(
            f"initial: {file!r} is a file, and only `headwater run start` reads it, where it is; start it so, or give "
            "run:RUN"
        )
    try:
        with np.load(io.BytesIO(initial), allow_pickle=False) as arrays:
            parameters = tuple(np.asarray(arrays[name], dtype=np.float32) for name in arrays.files)
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise ConfigError(f"initial: {file}: no NPZ file of numbers; write one with numpy.savez") from None
    if not all(np.isfinite(values).all() for values in parameters):
        raise ConfigError(f"initial: {file}: holds NaN or infinity; write the parameters of a model that is well")
    return parameters


def _last_of(history: History, run: str) -> Parameters | None:
    """The parameters that a run has come to; None while it may yet come to some. Raises ConfigError."""
    try:
        record = history.show_run(run)
    except NotThere as error:
        raise ConfigError(f"initial: {error}") from None
    try:
        return parameters_in(history.model_of(run)[1])
    except NotThere:
        if record.state not in ENDED:
            return None
    raise ConfigError(f"initial: run {run!r} has {record.state} before it had a model; give another one, or random")


def _check_model(description: RunDescription, forward: bytes | None, initial: Parameters | None) -> None:
    """Raises UnsupportedModel, or ConfigError where these are no parameters of it. A described model can be trained."""
    if forward is None and initial is None:
        return
    manifest = compiled_for(description, forward_model(description, forward)).manifest
    if initial is None:
        return
    try:
        check_shapes(manifest, initial)
    except RunFailed as error:
        raise ConfigError(str(error)) from None
