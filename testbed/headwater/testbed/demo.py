"""Law: the demo shows the gap, honestly: each alone against all together, on everyone's test part and on a stranger.

Nine people's smartwatches in two gyms learn to tell seven exercises apart. The tenth person takes no part, and is only
tested on. Data are read by the device processes; the testbed reads them again to judge the models.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from headwater.cloud.history import open_history
from headwater.cloud.preparation import forward_model
from headwater.device.sources import load
from headwater.node.service import INTERRUPTED
from headwater.schemas.errors import ConfigError, HeadwaterError, RunFailed
from headwater.schemas.messages import Model
from headwater.schemas.run import RunDescription
from headwater.schemas.sources import WatchSource
from headwater.schemas.statuses import RunStatus
from headwater.schemas.tensors import Array, decode_tensors, parameter_specs
from headwater.schemas.wire import decode_object
from headwater.testbed.baselines import Judge, alone, together, trainer_of
from headwater.testbed.observer import Observer
from headwater.testbed.tree import Standing, Tree, standing
from headwater.testbed.view import View

PEOPLE: Final = tuple(range(1, 10))
STRANGER: Final = 10
EVERYONE: Final = "everyone's test part"
UNSEEN: Final = "the unseen person"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo found. Accuracies by test set; `alone` by device."""

    run: str
    rounds: int
    fleet: dict[str, float]
    alone: dict[str, dict[str, float]]
    bytes: dict[str, dict[str, int]]
    wall_s: float
    database: str

    def local_mean(self, test: str) -> float:
        return sum(accuracy[test] for accuracy in self.alone.values()) / len(self.alone)


def run_demo(*, rounds: int, folder: Path, seed: int, as_json: bool) -> int:
    """Run the whole demo; returns the exit code."""
    console = Console(stderr=as_json)
    description = _description(rounds, seed)
    try:
        _clear(folder)
    except OSError as error:
        print(f"headwater: --folder {folder}: {error.strerror}; choose another folder", file=sys.stderr)
        return ConfigError.exit_code
    # An interrupt by SIGTERM ends the processes as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = asyncio.run(_watch(description, folder, console))
    except KeyboardInterrupt:
        console.print("\nstopped; every process has ended.", highlight=False)
        return INTERRUPTED
    except HeadwaterError as error:
        print(f"headwater: {error}", file=sys.stderr)
        return error.exit_code
    _report(outcome, console)
    if as_json:
        print(json.dumps(_as_json(outcome, description)), flush=True)
    return 0


def _clear(folder: Path) -> None:
    """Take away what an earlier demo left there, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = ("cloud", *demo_tree().gateways, *demo_tree().devices)
    for name in [f"{node}.{kind}" for node in nodes for kind in ("toml", "log")]:
        (folder / name).unlink(missing_ok=True)
    for end in ("", "-wal", "-shm"):
        (folder / f"history.db{end}").unlink(missing_ok=True)


def demo_tree() -> Tree:
    """Nine devices, one person each, below two gateways."""
    names = {person: f"watch-{person}" for person in PEOPLE}
    return Tree(
        fleet="demo",
        clusters={
            "gym-north": tuple(names[person] for person in PEOPLE[:5]),
            "gym-south": tuple(names[person] for person in PEOPLE[5:]),
        },
        data={name: {"watch": {"kind": "watch", "persons": [person]}} for person, name in names.items()},
    )


def _description(rounds: int, seed: int) -> RunDescription:
    return RunDescription.model_validate(
        {
            "name": "exercises",
            "data": "watch",
            "rounds": rounds,
            "seed": seed,
            "model": {"kind": "mlp", "features": 72, "classes": 7, "hidden": (64,), "normalise": True},
            "local": {"epochs": 1, "batch_size": 16, "learning_rate": 0.1},
            "cohort": {"deadline_s": 20.0, "min_children": 2},
        }
    )


async def _watch(description: RunDescription, folder: Path, console: Console) -> Outcome:
    started = monotonic()
    tree = demo_tree()
    processes = 1 + 2 * len(tree.gateways) + 1 + len(tree.devices)
    console.print(f"Starting {processes} processes: 3 brokers, a cloud, 2 gateways, 9 devices …", highlight=False)
    halt = threading.Event()
    judging = asyncio.create_task(asyncio.to_thread(_alone, description, halt.is_set))
    with contextlib.ExitStack() as stack:
        # asyncio waits for its threads at the end: one that nobody needs any more must hear of it.
        stack.callback(halt.set)
        fleet = stack.enter_context(standing(tree, folder))
        observer = Observer(tree.fleet, fleet.ports)
        following = asyncio.create_task(observer.follow())
        try:
            await observer.wait_ready(fleet)
            run, status = await _one_run(description, fleet, observer, console)
            if status.state != "finished":
                raise RunFailed(f"run {run}: {status.state}: {status.detail}; see the logs in {folder}")
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        links = _links(observer)
        judge, others = await judging
    return Outcome(
        run=run,
        rounds=description.rounds,
        fleet=judge.accuracy(_final(fleet.database, run, judge)),
        alone=others,
        bytes=links,
        wall_s=monotonic() - started,
        database=fleet.database,
    )


async def _one_run(
    description: RunDescription, fleet: Standing, observer: Observer, console: Console
) -> tuple[str, RunStatus]:
    now = datetime.now(UTC)
    history = await asyncio.to_thread(open_history, fleet.database)
    run = f"{now:%Y%m%d-%H%M%S}-demo"
    try:
        await asyncio.to_thread(history.enqueue_run, run, fleet.tree.fleet, description, None, now)
    finally:
        history.close()
    with View(fleet.tree, observer, description.rounds, console) as view:
        return run, await observer.wait_run(run, fleet, view.look)


def _alone(description: RunDescription, halted: Callable[[], bool]) -> tuple[Judge, dict[str, dict[str, float]]]:
    """Each device's own model, judged."""
    data = {person: load("watch", WatchSource(kind="watch", persons=(person,))) for person in (*PEOPLE, STRANGER)}
    trainer, initial = trainer_of(description, forward_model(description, None))
    judge = Judge(trainer, {EVERYONE: together(list(data.values())), UNSEEN: data[STRANGER]})
    models = {
        f"watch-{person}": alone(trainer, initial, description, f"watch-{person}", data[person], halted)
        for person in PEOPLE
    }
    return judge, {name: judge.accuracy(model) for name, model in models.items()}


def _final(database: str, run: str, judge: Judge) -> tuple[Array, ...]:
    history = open_history(database)
    try:
        _, payload = history.model_of(run)
    finally:
        history.close()
    manifest = judge.trainer.manifest
    return decode_tensors(decode_object(payload, Model).tensors, parameter_specs(manifest.parameters))


def _links(observer: Observer) -> dict[str, dict[str, int]]:
    """Payload bytes of all rounds, by the parent at whose links they were counted."""
    links: dict[str, dict[str, int]] = {}
    for status in (*observer.closed, *observer.closed_clusters):
        link = links.setdefault(f"{status.parent} and its children", {"down": 0, "up": 0})
        link["down"] += status.bytes_down
        link["up"] += status.bytes_up
    return links


def _report(outcome: Outcome, console: Console) -> None:
    table = Table(title=f"Accuracy after {outcome.rounds} rounds", title_justify="left")
    table.add_column("model")
    for test in (EVERYONE, UNSEEN):
        table.add_column(f"on {test}", justify="right")
    for name, accuracy in outcome.alone.items():
        table.add_row(f"{name} alone", *(f"{accuracy[test]:.3f}" for test in (EVERYONE, UNSEEN)), style="dim")
    table.add_row("one device alone, mean", *(f"{outcome.local_mean(test):.3f}" for test in (EVERYONE, UNSEEN)))
    table.add_row("the fleet", *(f"{outcome.fleet[test]:.3f}" for test in (EVERYONE, UNSEEN)), style="bold green")
    console.print(table)
    for link, counts in outcome.bytes.items():
        console.print(f"  {link}: {counts['down']:,} bytes down, {counts['up']:,} up", highlight=False)
    console.print(
        f"\nTook {outcome.wall_s:.0f} s. No recording left its device: what travelled were models and weighted sums.\n"
        f"The history lies in {outcome.database}. Next, try:\n\n"
        f"  export HEADWATER_DATABASE={outcome.database}\n"
        f"  {_command()} run show\n"
        f"  {_command()} run export --output exercises.onnx\n"
        f"  {_command()} demo --rounds 10 --seed 1\n",
        highlight=False,
        soft_wrap=True,
    )


def _command() -> str:
    """How the reader's shell finds this program: by its name, or where the set-up put it."""
    if shutil.which("headwater"):
        return "headwater"
    program = Path(sys.executable).with_name("headwater")
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _as_json(outcome: Outcome, description: RunDescription) -> dict[str, Any]:
    return {
        "rounds": outcome.rounds,
        "devices": len(PEOPLE),
        "gateways": len(demo_tree().gateways),
        "accuracy": {
            "local_mean": round(outcome.local_mean(EVERYONE), 4),
            "global": round(outcome.fleet[EVERYONE], 4),
            "unseen_person": round(outcome.fleet[UNSEEN], 4),
            "local_mean_unseen_person": round(outcome.local_mean(UNSEEN), 4),
        },
        "wall_s": round(outcome.wall_s, 2),
        "bytes": outcome.bytes,
        "history": outcome.database,
        "run_id": outcome.run,
        "seed": description.seed,
    }
