"""Law: whether a model can be trained is said before a fleet is asked, in plain words, with what it will cost."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from headwater.cli.answers import AsJson, answer, write_output
from headwater.cli.model_reports import in_bytes, report, run_toml, shared, told, verdict
from headwater.schemas.config import resolve
from headwater.schemas.errors import ConfigError, ModelError
from headwater.schemas.manifest import Objective
from headwater.schemas.patterns import PLAIN, check_form
from headwater.schemas.run import RunDescription

if TYPE_CHECKING:
    from headwater.core.graph import Compiled
    from headwater.core.graph.gate import Verification

app = typer.Typer(help="Check, import and draw models.", no_args_is_help=True, add_completion=False)

DRAW_TIMEOUT_S: Final = 60.0
PICTURES: Final = (".svg", ".png", ".pdf")

File = Annotated[Path, typer.Argument(metavar="FILE.onnx", help="A forward model: one input x, one output.")]
ObjectiveName = Annotated[str, typer.Option("--objective", help=f"One of {', '.join(get_args(Objective))}.")]
Classes = Annotated[int, typer.Option(min=0, help="How many classes labels have; 0: as many as the model gives.")]
Batch = Annotated[int, typer.Option(min=1, max=65_536, help="Examples of a step.")]
Frozen = Annotated[list[str], typer.Option("--frozen", help="Parameters that do not train, as a name pattern; repeat.")]
Personal = Annotated[
    list[str], typer.Option("--personal", help="Parameters that never leave their device, as a pattern; repeat.")
]
Optimiser = Annotated[str, typer.Option(help="The local optimiser, which decides on the memory of a step.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """How a model is to be trained."""

    objective: str = "cross_entropy"
    classes: int = 0
    frozen: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    optimiser: str = "sgd"


@app.command("check")
def check(
    file: File,
    objective: ObjectiveName = "cross_entropy",
    classes: Classes = 0,
    batch: Batch = 32,
    frozen: Frozen = [],  # noqa: B006
    personal: Personal = [],  # noqa: B006
    optimiser: Optimiser = "sgd",
    as_json: AsJson = False,
) -> None:
    """Say whether and how a model can be trained, and what that costs.

    Operations: two for each multiplication of a product, one for each element of what other operators make; a training
    step is taken for three times the forward pass. Memory is an estimate, within a factor of two.

    Example: headwater model check model.onnx --objective mse --frozen 'body.*' --batch 16
    """
    from headwater.core.cost import cost

    with _about(file):
        asked = Asked(objective, classes, tuple(frozen), tuple(personal), optimiser)
        compiled, verification = _verified(_read(file), asked)
    price = cost(compiled, batch)
    answer(as_json, told(compiled, verification, price), report(file, compiled, verification, price))


@app.command("import")
def import_(
    file: File,
    objective: ObjectiveName = "cross_entropy",
    name: Annotated[str | None, typer.Option(help="The run's name; by default the file's.")] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; by default NAME/model.onnx.")] = None,
    data: Annotated[str, typer.Option(help="The devices' data key that the run is about.")] = "data",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the run.")] = 40,
    as_json: AsJson = False,
) -> None:
    """Check a model, write it anew as a run takes it, and a run.toml beside it that `headwater run start` takes.

    Example: headwater model import model.onnx --objective mse --name bearings --data vibration
    """
    from headwater.models import imported

    payload = _read(file)
    name = name or file.stem
    if output is None and (name in (".", "..") or Path(name).name != name):
        raise ConfigError(f"name: {name!r} is no folder's name; leave out what leads elsewhere, or give --output")
    for field, said in (("name", name), ("data", data)):
        check_form(field, said, PLAIN)
    path = output or Path(name) / "model.onnx"
    run = path.with_name("run.toml")
    if path == run:
        raise ConfigError(
            f"output: {path} is where the run's description goes; give the model another name, as model.onnx"
        )
    for new in (path, run):
        if new.exists():
            raise ConfigError(f"output: {new} is there already; choose another --output or --name, or move it away")
    with _about(file):
        result = imported(payload)
        compiled, verification = _verified(result.model, Asked(objective))
    description = run_toml(name, data, rounds, objective, path.name, compiled.manifest)
    resolve(RunDescription, text=description, name=str(run))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(result.model)
        run.write_text(description, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output: {path}: {error.strerror}; choose another file") from None
    changes = result.changes or ("nothing had to change",)
    lines = [
        f"{file}: {verdict(verification)}",
        *(f"  {change}" for change in (*changes, *shared(compiled))),
        f"{path}: the model, {in_bytes(len(result.model))}",
        f"{run}: the run; set data to your devices' key, then: headwater run start {run}",
    ]
    result_told = {"model": str(path), "run": str(run), "changes": list(result.changes), "shared": shared(compiled)}
    answer(as_json, result_told | asdict(verification), "\n".join(lines))


@app.command("draw")
def draw(
    file: File,
    output: Annotated[
        Path | None, typer.Option(help="By its ending: .txt, .mmd (Mermaid), .dot, or .svg, .png, .pdf by Graphviz.")
    ] = None,
) -> None:
    """Draw a model: its layers from the top, their shapes and parameters; to the terminal unless told otherwise.

    Example: headwater model draw model.onnx --output model.mmd
    """
    from headwater.core.drawing import FORMS, as_dot, as_text
    from headwater.core.graph.forward import read_forward

    with _about(file):
        forward = read_forward(_read(file))
    if output is None:
        typer.echo(as_text(forward))
    elif output.suffix in FORMS:
        write_output(output, FORMS[output.suffix](forward).encode())
    elif output.suffix in PICTURES:
        write_output(output, _by_graphviz(as_dot(forward), output.suffix))
    else:
        raise ConfigError(f"output: {output}: no known ending; take one of {', '.join((*FORMS, *PICTURES))}")


def _by_graphviz(dot: str, ending: str) -> bytes:
    program = shutil.which("dot")
    if program is None:
        raise ConfigError(f"output: {ending} needs Graphviz's dot, which is not installed; install it, or take .mmd")
    command = [program, f"-T{ending[1:]}"]
    done = subprocess.run(command, input=dot.encode(), capture_output=True, timeout=DRAW_TIMEOUT_S, check=False)
    if done.returncode:
        raise ConfigError(f"output: dot failed ({done.stderr.decode(errors='replace').strip()[:200]}); take .mmd")
    return done.stdout


# ── reading and writing ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _about(file: Path) -> Iterator[None]:
    """A refusal names the model's file."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; give an ONNX file") from None


def _verified(payload: bytes, asked: Asked) -> "tuple[Compiled, Verification]":
    """Raises UnsupportedModel with the refusal."""
    import numpy as np

    from headwater.core.graph import compile_bundle
    from headwater.core.graph.gate import verify
    from headwater.core.models import NORMALISER
    from headwater.schemas.run import LocalTraining
    from headwater.schemas.run import Optimiser as Known

    for field, value, known in (
        ("objective", asked.objective, get_args(Objective)),
        ("optimiser", asked.optimiser, get_args(Known)),
    ):
        if value not in known:
            raise ConfigError(f"{field}: {value!r} is none of {', '.join(known)}; choose one")
    compiled = compile_bundle(
        payload,
        objective=asked.objective,  # type: ignore[arg-type]
        name="model",
        classes=asked.classes,
        frozen=(*NORMALISER, *asked.frozen),
        personal=asked.personal,
        local=LocalTraining(optimiser=asked.optimiser),  # type: ignore[arg-type]
    )
    return compiled, verify(compiled, rng=np.random.default_rng(0))
