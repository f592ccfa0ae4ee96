"""Law: the demo shows the gap, honestly: each alone against all together, on everyone's test part and on a stranger.

A scenario says who learns what. Data are read by the device processes; the testbed reads them again to judge models.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import numpy as np
from rich.console import Console

from headwater.cloud.history import open_history
from headwater.cloud.history.records import RoundRecord
from headwater.core.local.method import Arrays
from headwater.device.memory import chosen_of, in_use
from headwater.device.sources import Dataset, load
from headwater.device.sources.prepared import data_folder, part_file, part_of
from headwater.device.state import LocalState, training_state
from headwater.node.service import INTERRUPTED
from headwater.schemas.errors import ConfigError, DataError, HeadwaterError, RunFailed
from headwater.schemas.messages import Model
from headwater.schemas.run import RunDescription
from headwater.schemas.sources import PreparedSource
from headwater.schemas.statuses import RunStatus
from headwater.schemas.tensors import Array, models_of
from headwater.schemas.wire import decode_object
from headwater.testbed.baselines import averaged, together, trainer_of
from headwater.testbed.data.catalogue import known
from headwater.testbed.data.parts import JUDGED
from headwater.testbed.data.preparing import is_prepared
from headwater.testbed.judging import ALARM, Judge, Judged, Test
from headwater.testbed.machine import free_port
from headwater.testbed.observer import Observer
from headwater.testbed.outcome import (
    EACH_ALONE,
    EACH_OWN,
    EVERYONE,
    FLEET,
    Outcome,
    Told,
    as_json,
    spread_measure_of,
    tables,
)
from headwater.testbed.page import FIGURE, PAGE, write_page
from headwater.testbed.processes import STATE
from headwater.testbed.scenarios import DEFAULT, UNSEEN, Scenario, Source
from headwater.testbed.showing import NOTHING, Showing, show
from headwater.testbed.spread import Compared, compared
from headwater.testbed.tree import Standing, standing
from headwater.testbed.view import View


def run_demo(scenario: Scenario, folder: Path, *, with_json: bool, showing: Showing = NOTHING) -> int:
    """Run the whole demo; returns the exit code."""
    console = Console(stderr=with_json)
    # An interrupt by SIGTERM ends the processes as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    async def over(outcome: Outcome) -> None:
        drawn = await asyncio.to_thread(write_page, outcome, folder / PAGE)
        _report(outcome, folder, drawn, console)
        if showing.stays:
            console.print("The fleet stays up for the dashboard, until Ctrl-C.", highlight=False)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    try:
        outcome = played(scenario, folder, console, showing, over)
    except KeyboardInterrupt:
        console.print("\nstopped; every process has ended.", highlight=False)
        return INTERRUPTED
    except HeadwaterError as error:
        print(f"headwater: {error}", file=sys.stderr)
        return error.exit_code
    if with_json:
        print(json.dumps(as_json(outcome)), flush=True)
    return 0


async def _nothing(_: Outcome) -> None:
    """Nobody waits for it while the fleet is up."""


def played(
    scenario: Scenario,
    folder: Path,
    console: Console,
    showing: Showing = NOTHING,
    over: Callable[[Outcome], Awaitable[None]] = _nothing,
) -> Outcome:
    """What came of a scenario whose fleet was started, learned, and was ended once it was `over`.

    Raises:
        DataError: its data were not prepared.
        ConfigError: the folder cannot be written.
        RunFailed, ProcessDied: a part of the fleet failed.
    """
    for name in scenario.prepared:
        if not is_prepared(known(name), data_folder(os.environ, Path.home())):
            raise DataError(f"scenario {scenario.name}: its data are not here yet; headwater data prepare {name}")
    try:
        _clear(scenario, folder)
    except OSError as error:
        raise ConfigError(f"--folder {folder}: {error.strerror}; choose another folder") from None
    return asyncio.run(_watch(scenario, folder, console, showing, over))


def _clear(scenario: Scenario, folder: Path) -> None:
    """Take away what an earlier demo left there, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes = ("cloud", *scenario.clusters, *scenario.devices)
    for name in (PAGE, FIGURE, *(f"{node}.{kind}" for node in nodes for kind in ("toml", "log"))):
        (folder / name).unlink(missing_ok=True)
    for end in ("", "-wal", "-shm"):
        (folder / f"history.db{end}").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Alone:
    """What the devices reach alone, and who judges."""

    judge: Judge
    told: Mapping[str, Told]
    models: Mapping[str, tuple[Array, ...]]
    tests: Mapping[str, Test]


async def _watch(
    scenario: Scenario,
    folder: Path,
    console: Console,
    showing: Showing,
    over: Callable[[Outcome], Awaitable[None]],
) -> Outcome:
    started = monotonic()
    console.print(_starting(scenario, showing), highlight=False)
    halt = threading.Event()
    judging = asyncio.create_task(asyncio.to_thread(_alone, scenario, halt.is_set))
    with contextlib.ExitStack() as stack:
        # asyncio waits for its threads at the end: one that nobody needs any more must hear of it.
        stack.callback(halt.set)
        api = free_port()
        settings = {"cloud": {"http": {"port": api}}} if showing.dashboard else {}
        with _interrupt_first():
            fleet = stack.enter_context(standing(replace(scenario.tree(), settings=settings), folder))
        if showing.dashboard:
            await show(fleet, api, showing, console)
        observer = Observer(fleet.tree.fleet, fleet.ports)
        following = asyncio.create_task(observer.follow())
        try:
            await observer.wait_ready(fleet)
            run, status = await _one_run(scenario.run, fleet, observer, console)
            if status.state != "finished":
                raise RunFailed(f"run {run}: {status.state}: {status.detail}; see the logs in {folder}")
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        outcome = _outcome(scenario, folder, run, fleet, _links(observer), await judging, started)
        await over(outcome)
    return outcome


@contextlib.contextmanager
def _interrupt_first() -> Iterator[None]:
    """An interrupt also ends a child that has no group of its own yet: then it is the reason, not that child."""
    try:
        yield
    except HeadwaterError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError from None
        raise


def _outcome(
    scenario: Scenario,
    folder: Path,
    run: str,
    fleet: Standing,
    links: dict[str, dict[str, int]],
    alone: _Alone,
    started: float,
) -> Outcome:
    rounds, message = _history_of(fleet.database, run)
    models = models_of(alone.judge.trainer.manifest, message)
    return Outcome(
        scenario=scenario,
        run=run,
        fleet=alone.judge.figures(models[0], _threshold(rounds)),
        alone=alone.told,
        curve=_curve(rounds),
        bytes=links,
        wall_s=monotonic() - started,
        database=fleet.database,
        by_device=_by_device(scenario, alone, _kept(scenario, folder, run), message),
    )


def _starting(scenario: Scenario, showing: Showing) -> str:
    gateways, devices = len(scenario.clusters), len(scenario.devices)
    brokers = 1 + gateways
    return (
        f"Starting {brokers + 1 + gateways + devices + showing.dashboard} processes: {brokers} brokers, a cloud, "
        f"{gateways} gateway{'s' if gateways > 1 else ''}, {devices} devices"
        f"{', a dashboard' if showing.dashboard else ''} …"
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


def _alone(scenario: Scenario, halted: Callable[[], bool]) -> _Alone:
    """Each device's own model, judged by its own threshold."""
    tests = {name: test_of(scenario.sources[name]) for name in (*scenario.devices, UNSEEN)}
    trainer, initial = trainer_of(scenario.run)
    judge = Judge(trainer, {EVERYONE: everyones(tests), scenario.stranger: tests[UNSEEN]})
    told, models = {}, {}
    for device in scenario.devices:
        data = tests[device].data
        models[device] = averaged(trainer, initial, scenario.run, {device: data}, halted=halted)
        told[device] = judge.figures(models[device], judge.threshold(models[device], data))
    return _Alone(judge, told, models, tests)


def test_of(source: Source) -> Test:
    """What a source's device has, with the judged examples of its part, which it does not read."""
    data = load(UNSEEN, source)
    if not isinstance(source, PreparedSource):
        return Test(data)
    folder = source.folder or data_folder(os.environ, Path.home())
    found = [part_of(source.name, part_file(folder, source.name, part), JUDGED) for part in source.parts]
    if not all(name in part for part in found for name in JUDGED):
        return Test(data)
    return Test(data, Judged(*(np.concatenate([part[name] for part in found]) for name in JUDGED)))


def everyones(tests: Mapping[str, Test]) -> Test:
    """All of them as one."""
    judged = [test.judged for test in tests.values() if test.judged is not None]
    data: Dataset = together([test.data for test in tests.values()])
    if not judged:
        return Test(data)
    joined = (np.concatenate([getattr(one, name) for one in judged]) for name in ("x", "y", "anomaly"))
    return Test(data, Judged(*joined))


def _kept(scenario: Scenario, folder: Path, run: str) -> dict[str, Arrays]:
    """What the devices keep to themselves; the testbed looks into their folders."""
    states = {device: LocalState(training_state(folder / STATE, device)) for device in scenario.devices}
    return {device: state.kept(run) for device, state in states.items()}


def _by_device(scenario: Scenario, alone: _Alone, kept: Mapping[str, Arrays], message: Model) -> dict[str, Compared]:
    """Each device's own model, the fleet's as it is used there, and its personal one, where the run makes any."""
    judge, manifest = alone.judge, alone.judge.trainer.manifest
    received = {device: _received(scenario, judge, device, message) for device in scenario.devices}
    of_fleet = {device: in_use(manifest, models, chosen_of(kept[device])) for device, models in received.items()}
    named = {EACH_ALONE: alone.models, FLEET: of_fleet}
    if scenario.run.personal.method != "none":
        named[EACH_OWN] = {device: in_use(manifest, models, kept[device]) for device, models in received.items()}
    measure, everyone = spread_measure_of(scenario), judge.tests[EVERYONE]
    return {name: compared(judge, models, alone.tests, everyone, measure) for name, models in named.items()}


def _received(scenario: Scenario, judge: Judge, device: str, message: Model) -> tuple[tuple[Array, ...], ...]:
    """The models that reach a device: all that coexist, or that of its place."""
    models = models_of(judge.trainer.manifest, message)
    if not scenario.run.learning.has_places:
        return models
    place = next(gateway for gateway, devices in scenario.clusters.items() if device in devices)
    return (models[message.clusters.index(place)],)


# ── what the history says ───────────────────────────────────────────────────────────────────────────────────────


def _history_of(database: str, run: str) -> tuple[tuple[RoundRecord, ...], Model]:
    """The rounds that closed, and the last model, or models."""
    history = open_history(database)
    try:
        rounds = tuple(r for r in history.rounds_of(run) if r.state == "closed")
        _, payload = history.model_of(run)
    finally:
        history.close()
    return rounds, decode_object(payload, Model)


def _threshold(rounds: tuple[RoundRecord, ...]) -> float | None:
    """The federated one: the quantile of the errors on all devices' test parts, from the sketch that they added up."""
    told = [r.test.error_quantiles for r in rounds if r.test is not None and r.test.error_quantiles]
    return told[-1][ALARM] if told else None


def _curve(rounds: tuple[RoundRecord, ...]) -> tuple[float, ...]:
    """What each round's model reached on the devices' test parts: its accuracy, else its loss."""
    reached = {r.round: r.test_loss if r.accuracy is None else r.accuracy for r in rounds if r.task == "train"}
    return tuple(value for _, value in sorted(reached.items()) if value is not None)


def _links(observer: Observer) -> dict[str, dict[str, int]]:
    """Payload bytes of all rounds, by the parent at whose links they were counted."""
    links: dict[str, dict[str, int]] = {}
    for status in (*observer.closed, *observer.closed_clusters):
        link = links.setdefault(f"{status.parent} and its children", {"down": 0, "up": 0})
        link["down"] += status.bytes_down
        link["up"] += status.bytes_up
    return links


# ── what people read ────────────────────────────────────────────────────────────────────────────────────────────


def _report(outcome: Outcome, folder: Path, drawn: bool, console: Console) -> None:
    for table in tables(outcome):
        console.print(table)
    for link, counts in outcome.bytes.items():
        console.print(f"  {link}: {counts['down']:,} bytes down, {counts['up']:,} up", highlight=False)
    scenario = outcome.scenario
    again = "demo" if scenario.name == DEFAULT else f"demo {scenario.name}"
    figure = "with its figure" if drawn else "without a figure, which takes: pip install 'headwater[plots]'"
    console.print(
        f"\nTook {outcome.wall_s:.0f} s. No recording left its device: what travelled were models and weighted sums.\n"
        f"A page about it is {folder / PAGE}, {figure}.\n"
        f"The history lies in {outcome.database}. Next, try:\n\n"
        f"  export HEADWATER_DATABASE={outcome.database}\n"
        f"  {_command()} run show\n"
        f"  {_command()} run export --output {scenario.run.name}.onnx\n"
        f"  {_command()} {again} --rounds 10 --seed 1\n",
        highlight=False,
        # Else "headwater[plots]" is taken for a style.
        markup=False,
        soft_wrap=True,
    )


def _command() -> str:
    """How the reader's shell finds this program: by its name, or where the set-up put it."""
    if shutil.which("headwater"):
        return "headwater"
    program = Path(sys.executable).with_name("headwater")
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)
