"""What a run begins with is read and tried where the run is asked for: a cloud elsewhere could not."""

import io

import numpy as np
import pytest

from headwater.cloud.asking import ask
from headwater.cloud.history import History
from headwater.cloud.preparation import parameters_in, prepare
from headwater.schemas.errors import ConfigError
from headwater.schemas.run import RunDescription
from support.histories import DESCRIPTION, NOW

SHAPES = [(2, 64), (64,), (64, 2), (2,)]
VALUES = [np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for shape in SHAPES]


def npz(*arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()


def about(initial: str, **changes: object) -> RunDescription:
    return DESCRIPTION.model_copy(update={"initial": initial, **changes})


def asked(history: History, initial: str, file: bytes | None = None, run: str = "new") -> None:
    ask(history, "plant", about(initial), None, file, run=run, now=NOW, salt="")


@pytest.fixture
def history(history: History) -> History:
    """With a run that has a model, one of another model, one that waits, and one that was stopped while it did."""
    other = DESCRIPTION.model_copy(update={"model": DESCRIPTION.model.model_copy(update={"hidden": (3,)})})
    for run, description in (("like", DESCRIPTION), ("unlike", other)):
        history.enqueue_run(run, "plant", description, None, NOW)
        history.claim_next_run("plant", NOW)
        prepared = prepare(run, description, None)
        history.record_start(run, prepared.forward, prepared.bundle, prepared.model, NOW)
        history.finish_run(run, "finished", "", NOW)
    for run in ("waits", "stopped"):
        history.enqueue_run(run, "plant", DESCRIPTION, None, NOW)
    history.request("stopped", "stop", NOW)
    return history


@pytest.mark.parametrize(
    ("initial", "file", "says"),
    [
        ("run:nonesuch", None, "initial: run 'nonesuch': no such run; the newest are "),
        ("run:stopped", None, "initial: run 'stopped' has stopped before it had a model; give another one, or random"),
        ("run:unlike", None, r"initial: parameters of shapes \[\(2, 3\), .* take a model like it"),
        ("run:like", npz(*VALUES), "initial: 'run:like' brings no file; leave it out"),
        ("random", npz(*VALUES), "initial: 'random' brings no file; leave it out"),
        ("p.npz", None, "initial: 'p.npz' is a file, and only `headwater run start` reads it"),
        ("p.npz", b"torn", "initial: p.npz: no NPZ file of numbers; write one with numpy.savez"),
        ("p.npz", npz(*VALUES)[:200], "initial: p.npz: no NPZ file of numbers"),
        ("p.npz", npz(np.array(["text"])), "initial: p.npz: no NPZ file of numbers"),
        ("p.npz", npz(np.full(2, np.nan)), "initial: p.npz: holds NaN or infinity"),
        ("p.npz", npz(*VALUES[:2]), r"initial: parameters of shapes \[\(2, 64\), \(64,\)\] where the model has"),
    ],
)
def test_what_a_run_cannot_begin_with_is_told_at_once(
    history: History, initial: str, file: bytes | None, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        asked(history, initial, file)
    assert "new" not in {run.id for run in history.list_runs()}


@pytest.mark.parametrize("initial", ["run:like", "run:waits"], ids=["it has a model", "it may yet have one"])
def test_a_run_may_go_on_from_one_that_has_a_model_or_will(history: History, initial: str) -> None:
    asked(history, initial)
    assert history.show_run("new").state == "queued"
    assert history.initial_of("new") is None


def test_the_parameters_of_a_file_are_kept_until_the_run_has_begun(history: History) -> None:
    asked(history, "p.npz", npz(*VALUES))
    kept = history.initial_of("new")
    assert kept is not None
    assert all(np.array_equal(found, value) for found, value in zip(parameters_in(kept), VALUES, strict=True))
    history.record_start("new", b"forward", b"bundle", b"model 0", NOW)
    assert history.initial_of("new") is None
