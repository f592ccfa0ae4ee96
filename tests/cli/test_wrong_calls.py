"""A wrong call of `run`, `release`, `token` or `model` ends in one sentence with its exit code, and leaves nothing behind."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from headwater.cli.main import main
from headwater.cloud.history import open_history
from headwater.cloud.preparation import parameters_in
from headwater.core.models import mlp
from headwater.schemas.base import RunId
from support.histories import NOW, queued_unchecked, started
from support.wheels import small

RUN = 'name = "n"\ndata = "d"\nrounds = 2\n[model]\nkind = "mlp"\nfeatures = 2\nclasses = 2\n'
WORDS = "use 1 to 64 letters, digits, '_', '.' or '-', the first of them a letter or a digit"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a command is called that has a run's file, a wheel, a key and a model."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HEADWATER_DATABASE", "HEADWATER_FLEET"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "on.toml").write_text(f'initial = "none.npz"\n{RUN}')
    (tmp_path / "good.whl").write_bytes(small("2.0"))
    (tmp_path / "odd.whl").write_bytes(small("odd"))
    (tmp_path / "torn.whl").write_bytes(small("2.0")[:-30])
    (tmp_path / "a file").write_text("")
    (tmp_path / "m.onnx").write_bytes(mlp(2, (4,), 2, rng=np.random.default_rng(0)))
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command in this process: its exit code, what it said, and what it said of what is wrong."""

    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["headwater", *arguments])
        try:
            code = main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


PUBLISH = ("release", "publish", "good.whl", "--key", "keys/release.key")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "start", "run.toml", "--id", "a/b c"), 2, f"--id: 'a/b c': {WORDS}"),
        (("run", "start", "run.toml", "--id", "a" * 300), 2, WORDS),
        (("run", "start", "run.toml", "--id", ""), 2, f"--id: '': {WORDS}"),
        (("run", "start", "run.toml", "--fleet", "a/b"), 2, f"--fleet: 'a/b': {WORDS}"),
        (("run", "start", "none.toml"), 2, "none.toml: [Errno 2] No such file or directory"),
        (("run", "start", "far/on.toml"), 2, "far/on.toml: initial: far/none.npz: No such file or directory"),
        (("run", "list"), 7, "database sqlite:///headwater.db: there is no such file; name the cloud's by --database"),
        (("run", "watch", "--database", "sqlite:///slip.db"), 7, "database sqlite:///slip.db: there is no such file"),
        (("release", "status", "--database", "sqlite:///slip.db"), 7, "slip.db: there is no such file"),
        (("run", "list", "--database", "postgresql://u:s3cret@h/x"), 2, "put the URL into HEADWATER_DATABASE"),
        (("run", "list", "--database", "postgresql://h/x?password=s3cret"), 2, "put the URL into HEADWATER_DATABASE"),
        (("cloud", "--database", "postgresql://u:s3cret@h/x"), 2, "put the URL into HEADWATER_DATABASE"),
        (("run", "list", "--database", "postgresql://h:port/x"), 7, "database: no SQLAlchemy URL; give sqlite:///FILE"),
        (("token", "add", "eve", "--file", "/dev/null/x"), 2, "/dev/null/x: cannot be written (Not a directory)"),
        ((*PUBLISH, "--fleet", "a/b"), 2, f"--fleet: 'a/b': {WORDS}"),
        ((*PUBLISH, "--canary", "x y"), 2, f"--canary: canaries.0: {WORDS} (it is x y)"),
        ((*PUBLISH, "--stage", "5"), 2, "--stage: shares.0: input should be less than or equal to 1 (it is 5.0)"),
        ((*PUBLISH, "--soak-s", "inf"), 2, "--soak-s: soak_s: input should be a finite number"),
        (("release", "publish", "odd.whl", *PUBLISH[3:]), 2, "odd.whl: Version: 'odd': use 1 to 64 letters"),
        (("release", "publish", "torn.whl", *PUBLISH[3:]), 2, "torn.whl: is no wheel"),
        (("release", "publish", "good.whl", "--key", "none.key"), 2, "--key: none.key cannot be read"),
        (("release", "rollback", "1.0", "--key", "none.key"), 2, "--key: none.key cannot be read"),
        (("release", "keys", "/dev/null/x"), 2, "/dev/null/x: cannot be made (Not a directory); give another"),
        (("release", "keys", "a file"), 2, "a file: cannot be made (File exists); give another folder"),
        (("model", "import", "m.onnx", "--name", "../up"), 2, "name: '../up' is no folder's name"),
        (("model", "import", "m.onnx", "--name", ".."), 2, "name: '..' is no folder's name"),
        (("model", "import", "m.onnx", "--name", "a\nb"), 2, "name: 'a\\nb': give some text, and leave control"),
        (("model", "import", "m.onnx", "--data", ""), 2, "data: '': give some text"),
        (
            ("model", "import", "m.onnx", "--output", "run.toml"),
            2,
            "output: run.toml is where the run's description goes",
        ),
        (("model", "import", "m.onnx", "--rounds", "9999999"), 2, "run.toml:4: rounds: input should be less than"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_a_wrong_call_is_one_sentence_and_leaves_nothing(
    folder: Path, call: Call, arguments: tuple[str, ...], code: int, says: str
) -> None:
    assert call("release", "keys", "keys")[0] == 0
    before = sorted(folder.parent.rglob("*"))
    ended, said, wrong = call(*arguments)
    assert (ended, said) == (code, "")
    assert says in wrong
    assert "s3cret" not in wrong
    assert wrong.startswith("headwater: ")
    assert sorted(folder.parent.rglob("*")) == before


def test_what_no_command_has_looked_for_is_a_sentence_too(
    call: Call, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def unforeseen(*_: object) -> bool:
        TypeAdapter(RunId).validate_python("a b")
        return True

    monkeypatch.setattr("headwater.cli.runs.check_form", unforeseen)
    ended, _, wrong = call("run", "start", "run.toml")
    assert (ended, wrong.count("\n")) == (1, 1)
    assert WORDS in wrong


def test_runs_that_older_software_queued_by_names_that_are_none_are_listed_and_can_be_stopped(
    folder: Path, call: Call
) -> None:
    with closing(open_history("sqlite:///headwater.db")) as history:
        queued_unchecked(history, "a/b c", "plant")
        queued_unchecked(history, "elsewhere", "my fleet")
    code, said, _ = call("run", "list")
    assert (code, [line.split()[0] for line in said.splitlines()]) == (0, ["elsewhere", "a/b"])
    assert "nobody can coordinate it, fleet: 'my fleet'" in said
    assert call("run", "start", "run.toml", "--id", "r1")[0] == 0
    for run in ("a/b c", "elsewhere"):
        assert call("run", "stop", run) == (0, f"{run}: stopped\n", "")


def test_a_file_to_begin_with_lies_beside_the_description(folder: Path, call: Call) -> None:
    shapes = ((2, 64), (64,), (64, 2), (2,))
    np.savez(folder / "far" / "none.npz", *(np.ones(shape) for shape in shapes))
    assert call("run", "start", "far/on.toml", "--id", "r1")[0] == 0
    with closing(open_history("sqlite:///headwater.db")) as history:
        kept = history.initial_of("r1")
    assert kept is not None
    assert [values.shape for values in parameters_in(kept)] == list(shapes)


def test_the_list_says_why_a_run_has_failed(folder: Path, call: Call) -> None:
    with closing(open_history("sqlite:///headwater.db")) as history:
        started(history)
        history.finish_run("r1", "failed", "round 1: no quorum in 5 attempts;\x1b[2J see the refusals", NOW)
    code, said, _ = call("run", "list")
    assert (code, said.count("\n")) == (0, 1)
    assert said.rstrip().endswith(" plant        round 1: no quorum in 5 attempts;\\x1b[2J see the refusals")
