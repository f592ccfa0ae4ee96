"""Law: runs are asked for and read through the history; a coordinator need not be awake to be asked."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from headwater.cli.answers import AsJson, answer, write_output
from headwater.cli.histories import DEFAULT, Database, opened
from headwater.schemas.config import load
from headwater.schemas.errors import ConfigError, RunFailed
from headwater.schemas.limits import MAX_COUNT
from headwater.schemas.patterns import check_form
from headwater.schemas.run import OnnxModel, RunDescription

if TYPE_CHECKING:
    from headwater.cloud.history import History, RoundRecord, RunRecord
    from headwater.cloud.history.states import Request
    from headwater.schemas.http import Run

app = typer.Typer(help="Start, follow, pause, stop and export runs.", no_args_is_help=True, add_completion=False)

LOOK_EVERY_S: Final = 0.5

RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run; the newest if left out.")]


@app.command("start")
def start(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.toml", help="The run's description; see docs/examples/run.toml.")
    ],
    database: Database = DEFAULT,
    fleet: Annotated[str, typer.Option(envvar="HEADWATER_FLEET", help="The fleet that works on it.")] = "fleet",
    id_: Annotated[str | None, typer.Option("--id", help="Name the run; by default its time and name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a fleet for a run. It begins when those before it have ended.

    Example: headwater run start docs/examples/run.toml
    """
    for field, name in (("--id", id_), ("--fleet", fleet)):
        if name is not None:
            check_form(field, name)
    description = load(RunDescription, file).value
    forward = _beside(file, "model.path", description.model.path if isinstance(description.model, OnnxModel) else None)
    initial = _beside(file, "initial", description.initial_file)
    from headwater.cloud.asking import ask

    with opened(database, creates=True) as history:
        record = ask(
            history,
            fleet,
            description,
            forward,
            initial,
            run=id_,
            now=datetime.now(UTC),
            salt=os.urandom(2).hex(),
        )
        run = _told_of(history, record)
    waits = f" ({run.waits_for})" if run.waits_for else ""
    answer(as_json, _brief(run), f"{run.run}: queued{waits}; follow it with: headwater run watch {run.run}")


@app.command("list")
def list_(
    database: Database = DEFAULT,
    fleet: Annotated[str | None, typer.Option(help="Only this fleet's runs.")] = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    from headwater.node.logs import printable

    with opened(database) as history:
        runs = _all_told_of(history, history.list_runs(fleet))
    heads = [f"{r.run:<32} {r.state:<9} {r.round:>5}/{r.rounds:<5} {r.fleet:<12}" for r in runs]
    lines = [printable(f"{head} {r.failure or r.waits_for}".rstrip()) for head, r in zip(heads, runs, strict=True)]
    answer(as_json, [_brief(run) for run in runs], "\n".join(lines) or "no runs yet; headwater run start FILE.toml")


@app.command("show")
def show(run: RunName = None, database: Database = DEFAULT, as_json: AsJson = False) -> None:
    """Show a run and its rounds."""
    with opened(database) as history:
        record = _chosen(history, run)
        rounds = history.rounds_of(record.id)
        run_ = _told_of(history, record)
    head = f"{run_.run}: {run_.state}, round {run_.round} of {run_.rounds}"
    why = run_.failure or run_.waits_for
    lines = [head + (f" ({why})" if why else ""), *map(_line, rounds)]
    answer(as_json, _brief(run_) | {"rounds": [_told(r) for r in rounds]}, "\n".join(lines))


@app.command("watch")
def watch(run: RunName = None, database: Database = DEFAULT, as_json: AsJson = False) -> None:
    """Follow a run until it ends, a line a round; ends with 8 where the run failed."""
    from headwater.cloud.history.states import ENDED

    with opened(database) as history:
        record = _chosen(history, run)
        told, waited = 0, ""
        while True:
            record = history.show_run(record.id)
            waited = _say_why(history, record, waited, as_json)
            rounds = history.rounds_of(record.id)
            for round_ in rounds[told:]:
                answer(as_json, _told(round_), _line(round_))
            told = len(rounds)
            if record.state in ENDED:
                break
            _pause()
        run_ = _told_of(history, record)
    if record.state == "failed":
        raise RunFailed(f"run {record.id}: failed: {record.failure}")
    answer(as_json, _brief(run_), f"{record.id}: {record.state}")


def _say_why(history: "History", record: "RunRecord", told: str, as_json: bool) -> str:
    """Tell people why a run does not go on, where that has changed."""
    why = "paused; go on with: headwater run resume" if record.state == "paused" else ""
    why = _told_of(history, record).waits_for if record.state == "queued" else why
    if why and why != told and not as_json:
        typer.echo(f"{record.id}: {record.state}: {why}" if record.state == "queued" else f"{record.id}: {why}")
    return why


@app.command("stop")
def stop(run: RunName = None, database: Database = DEFAULT, as_json: AsJson = False) -> None:
    """Stop a run: a queued or paused one at once, a running one after its round."""
    _ask("stop", run, database, as_json)


@app.command("pause")
def pause(run: RunName = None, database: Database = DEFAULT, as_json: AsJson = False) -> None:
    """Pause a run after its round; it keeps its fleet until it goes on or is stopped."""
    _ask("pause", run, database, as_json)


@app.command("resume")
def resume(run: RunName = None, database: Database = DEFAULT, as_json: AsJson = False) -> None:
    """Let a paused run go on in the round that comes next."""
    _ask("resume", run, database, as_json)


def _ask(request: "Request", run: str | None, database: str, as_json: bool) -> None:
    with opened(database) as history:
        record = history.request(_chosen(history, run).id, request, datetime.now(UTC))
        told = _told_of(history, record)
    answer(as_json, _brief(told), f"{record.id}: {_SAID.get((request, record.state), record.state)}")


_SAID: Final = {
    ("stop", "running"): "stops after its round",
    ("stop", "paused"): "stops",
    ("pause", "running"): "pauses after its round; go on with: headwater run resume",
}


@app.command("export")
def export(
    run: RunName = None,
    database: Database = DEFAULT,
    round_: Annotated[
        int | None,
        typer.Option("--round", min=0, max=MAX_COUNT, help="The round whose model it is; the last by default."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Of several models that coexist the one to write, by its name.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; by default RUN-ROUND.onnx.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also write it in eight bits, as RUN-ROUND.int8.onnx.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="With --int8: examples, an .npz with x, or a device's .toml; else the normaliser's."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Measure on these: an .npz with x and y, or a device's .toml (its test part).")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="mlflow or tensorboard: tell the run, round by round, with its model.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="With --to: MLflow's URL (or sqlite:///FILE), or TensorBoard's folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the model of a round as ONNX, ready for inference; or tell a whole run to an experiment tracker.

    Example: headwater run export --round 10 --output model.onnx --int8 --data device.toml
    """
    from headwater.cli.exports import eight_bits, examples_of, measured
    from headwater.cloud.exporting import exported

    if to is not None:
        only_a_model = {"output": output, "int8": int8 or None, "calibrate": calibrate, "data": data, "round": round_}
        _track(
            run,
            database,
            to,
            target,
            [name for name, value in only_a_model.items() if value is not None],
            cluster,
            as_json,
        )
        return
    if target is not None:
        raise ConfigError(f"target: {target!r} without --to; add --to mlflow or --to tensorboard")
    if calibrate and not int8:
        raise ConfigError("calibrate: eight bits are calibrated, and none were asked for; add --int8")
    with opened(database) as history:
        record = _chosen(history, run)
        version, payload = exported(history, record.id, round_, cluster)
    description = record.description
    examples = examples_of("data", data, description.data, "test") if data else None
    calibration = examples_of("calibrate", calibrate, description.data, "train") if calibrate else None
    path = output or Path(f"{record.id}-{version}.onnx")
    plain = measured(payload, description.objective, examples)
    told: dict[str, Any] = {"run": record.id, "round": version, "path": str(path)} | plain.told()
    lines = [f"{path}: the model of round {version}, {plain.line()}"]
    write_output(path, payload)
    if int8:
        small, basis = eight_bits(payload, calibration)
        beside, result = path.with_suffix(".int8.onnx"), measured(small, description.objective, examples)
        write_output(beside, small)
        told["int8"] = {"path": str(beside), "ranges": basis} | result.told()
        lines.append(f"{beside}: in eight bits (ranges: {basis}), {result.line()}")
    answer(as_json, told, "\n".join(lines))


def _track(
    run: str | None,
    database: str,
    to: str,
    target: str | None,
    only_a_model: list[str],
    cluster: str | None,
    as_json: bool,
) -> None:
    """Tell a run to an experiment tracker. Raises ConfigError."""
    from headwater.cli.tracking import TRACKERS, Tracker, experiment_of, target_of, tell
    from headwater.cloud.exporting import exported

    if to not in TRACKERS:
        raise ConfigError(f"to: {to!r} is no tracker; there are {', '.join(TRACKERS)}")
    if only_a_model:
        raise ConfigError(f"{only_a_model[0]}: is for a model alone; leave it or --to out")
    tracker = cast(Tracker, to)
    with opened(database) as history:
        record = _chosen(history, run)
        rounds = history.rounds_of(record.id)
        version, model = None, None
        with suppress(RunFailed):
            version, model = exported(history, record.id, None, cluster)
    where = target_of(tracker, target)
    name = tell(tracker, where, experiment_of(record, rounds, version, model))
    told = len({one.round for one in rounds if one.state == "closed"})
    answer(
        as_json,
        {"run": record.id, "to": to, "target": where, "as": name, "rounds": told},
        f"{record.id}: {told} rounds told to {to} at {where}, as {name}",
    )


def _pause() -> None:
    """A moment; Ctrl-C ends the watching, not the run."""
    try:
        time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _chosen(history: "History", run: str | None) -> "RunRecord":
    if run:
        return history.show_run(run)
    newest = history.list_runs()
    if not newest:
        raise RunFailed("no runs yet; headwater run start FILE.toml")
    return newest[0]


def _beside(file: Path, field: str, name: str | None) -> bytes | None:
    """What a file of the owner's holds that the description `file` names, from its own folder. Raises ConfigError."""
    if name is None:
        return None
    path = file.parent / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: {field}: {path}: {error.strerror}; give the path from the file's folder") from None


def _told_of(history: "History", record: "RunRecord") -> "Run":
    (run,) = _all_told_of(history, (record,))
    return run


def _all_told_of(history: "History", records: "Iterable[RunRecord]") -> "tuple[Run, ...]":
    """As the HTTP API tells of them."""
    from headwater.cloud.api.answers import fleet_of, run_of

    now = datetime.now(UTC)
    fleets = [fleet_of(record, now) for record in history.reading.fleets()]
    return tuple(run_of(record, fleets) for record in records)


def _brief(run: "Run") -> dict[str, Any]:
    told = run.model_dump(mode="json")
    # `show` lists the rounds under their own name.
    return told | {"of": told.pop("rounds")}


def _told(round_: "RoundRecord") -> dict[str, Any]:
    from headwater.cloud.api.answers import round_of

    return round_of(round_).model_dump(mode="json")


def _line(round_: "RoundRecord") -> str:
    loss = "-" if round_.loss is None else f"{round_.loss:.4f}"
    accuracy = "-" if round_.accuracy is None else f"{round_.accuracy:.4f}"
    line = (
        f"round {round_.round:>4} {round_.task:<10} {round_.state:<7} {round_.received}/{round_.cohort} in, "
        f"{round_.devices} devices, loss {loss}, accuracy {accuracy}, {round_.elapsed_s:.2f} s"
    )
    from headwater.core.figures import in_words

    over_devices = in_words({"test": round_.test, "personal": round_.personal, "local": round_.local})
    return f"{line}; {over_devices}" if over_devices else line
