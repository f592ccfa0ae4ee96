"""Law: a run goes on to its end while everything around it fails, and what it then says of itself must be true.

Real processes, real brokers, a real database, real sockets; one seed says what fails when. Judged are the receipts that
were heard against SQL, and the final model against one computed from what SQL keeps.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from headwater.cloud.history import open_history
from headwater.schemas.errors import ConfigError, RunFailed
from headwater.schemas.run import RunDescription
from headwater.testbed.faults.disk import can_mount
from headwater.testbed.faults.fleet import CLOUD, FLEET, Battered, Site, battered
from headwater.testbed.faults.ledger import DatabaseAway, Sql, Verdict, Weights, Witness, judged
from headwater.testbed.faults.replay import Replayed, replayed
from headwater.testbed.faults.schedule import Fault, schedule
from headwater.testbed.postgres import Postgres

log = logging.getLogger("headwater.testbed")

RUN: Final = "chaos"
LOOK_EVERY_S: Final = 0.1
SAMPLE_EVERY_S: Final = 1.0
TELL_EVERY_S: Final = 5.0
STUCK_AFTER_S: Final = 180.0
"""Without a new round for so long, while every fault has ended by itself long since, the run is given up."""

TOLERANCE: Final = 1e-6
FEWEST_EXAMPLES: Final = 16
MOST_BELOW_A_GATEWAY: Final = 7
TEST_FRACTION: Final = 0.2


@dataclass(frozen=True, slots=True)
class Stall:
    """The longest time between the commits of two rounds, and the faults that were under way, or had just begun."""

    longest_s: float
    behind_round: int
    faults: tuple[str, ...]


@dataclass(slots=True)
class Memory:
    """Resident bytes over time, by role: the largest process of a role in each sample."""

    samples: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def sample(self, elapsed_s: float, pids: Mapping[str, int]) -> None:
        largest: dict[str, int] = {}
        for name, pid in pids.items():
            with contextlib.suppress(psutil.Error):
                role = name.rstrip("0123456789").split("-")[0]
                largest[role] = max(largest.get(role, 0), psutil.Process(pid).memory_info().rss)
        for role, size_bytes in largest.items():
            self.samples.setdefault(role, []).append((elapsed_s, size_bytes))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run under faults ended. `ended` are processes that ended by themselves, with their exit codes."""

    verdict: Verdict
    replayed: Replayed
    stall: Stall
    memory: Memory
    faults: tuple[Fault, ...]
    ended: tuple[tuple[str, int], ...]
    elapsed_s: float

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not (self.verdict.lost or self.verdict.twice) and self.replayed.worst_error <= TOLERANCE


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs, and the seed of what fails. An update may be `max_staleness` rounds late; with `buffer`, so many
    updates make a version and nobody waits for the cohort."""

    rounds: int
    seed: int
    gateways: int = 3
    devices: int = 6
    max_staleness: int = 2
    edge_rounds: int = 1
    buffer: int = 0

    @property
    def sums_name_devices(self) -> bool:
        """Whether a gateway's weight is that of one round's updates, each once."""
        return self.max_staleness == 0 and self.edge_rounds == 1


async def chaos(
    folder: Path,
    database: str,
    scene: Scene,
    tell: Callable[[str], None] = lambda line: None,
    server: Postgres | None = None,
) -> Outcome:
    """Run a scene to its end; `folder` takes logs and state, `tell` hears how it goes. Where the database has
    a `server`, that is killed as well.

    Raises:
        ConfigError: too many devices for so few gateways.
        RunFailed: the run failed, or no round was committed for `STUCK_AFTER_S`.
    """
    site = _site(folder, scene.gateways, scene.devices)
    faults = schedule(scene.seed, scene.rounds, site.targets(disks=can_mount(), server=server is not None))
    for fault in faults:
        tell(f"planned: {fault}")
    async with battered(folder, site, database, scene.seed, server) as fleet:
        course = _Course(fleet, faults, Sql(database), scene.rounds, tell)
        witness = Witness(FLEET)
        listening = [
            asyncio.create_task(witness.listener(broker.port, name).run()) for name, broker in fleet.brokers.items()
        ]
        await asyncio.to_thread(_enqueue, database, scene)
        await asyncio.to_thread(fleet.start_all)
        try:
            await course.run(witness)
            weights = _weights(site) if scene.sums_name_devices else None
            verdict = await asyncio.to_thread(judged, witness, course.sql, RUN, CLOUD, weights)
            again = await asyncio.to_thread(replayed, course.sql, RUN)
        finally:
            await _ended(listening)
        return Outcome(
            verdict, again, course.stall, course.memory, faults, tuple(fleet.ended), time.monotonic() - course.began_at
        )


class _Course:
    """A run under way: what was committed when, what is broken, what the processes take."""

    def __init__(
        self, fleet: Battered, faults: tuple[Fault, ...], sql: Sql, rounds: int, tell: Callable[[str], None]
    ) -> None:
        self.sql = sql
        self.memory = Memory()
        self.stall = Stall(0.0, 0, ())
        self.began_at = time.monotonic()
        self._fleet = fleet
        self._waiting = list(faults)
        self._rounds = rounds
        self._tell = tell
        self._hits: list[tuple[float, float, Fault]] = []
        self._round = 0
        self._committed_at: float | None = None

    async def run(self, witness: Witness) -> None:
        """Until the run has ended. Raises RunFailed."""
        sampled_at = told_at = 0.0
        hits: list[asyncio.Task[None]] = []
        try:
            while (state := await asyncio.to_thread(self._look)) in ("queued", "running"):
                now = time.monotonic()
                hits += [asyncio.create_task(self._hit(fault)) for fault in self._due()]
                if now - sampled_at >= SAMPLE_EVERY_S:
                    sampled_at = now
                    self._fleet.supervise()
                    self.memory.sample(now - self.began_at, self._fleet.pids())
                if now - told_at >= TELL_EVERY_S:
                    told_at = now
                    self._tell(self._progress(len(witness.receipts)))
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await _ended(hits)
        if state != "finished":
            ((failure,),) = self.sql.rows("SELECT failure FROM runs WHERE id = ?", RUN)
            raise RunFailed(f"the run {state} behind round {self._round}: {failure}")

    def _look(self) -> str:
        """The run's state, with what has been committed since the last look."""
        try:
            ((state, round_),) = self.sql.rows(
                "SELECT state, (SELECT coalesce(max(round), 0) FROM rounds WHERE run = runs.id AND state = 'closed'"
                " AND task = 'train') FROM runs WHERE id = ?",
                RUN,
            )
        except DatabaseAway:
            state, round_ = "running", self._round
        now = time.monotonic()
        since = self._committed_at or self.began_at
        if round_ > self._round:
            if self._committed_at is not None and now - since > self.stall.longest_s:
                self.stall = Stall(now - since, self._round, self._blamed(since, now))
            self._round, self._committed_at = round_, now
        elif now - since > STUCK_AFTER_S:
            raise RunFailed(f"no round for {now - since:.0f} s behind round {self._round}; see the logs")
        return str(state)

    def _due(self) -> list[Fault]:
        due = [fault for fault in self._waiting if fault.round <= self._round and self._committed_at is not None]
        self._waiting = [fault for fault in self._waiting if fault not in due]
        return due

    async def _hit(self, fault: Fault) -> None:
        await asyncio.sleep(fault.after_s)
        began_at = time.monotonic()
        self._hits.append((began_at, began_at + fault.lasts_s, fault))
        self._tell(f"{began_at - self.began_at:7.1f} s  {fault}")
        await self._fleet.strike(fault)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            await self._fleet.mend(fault)

    def _blamed(self, since: float, until: float) -> tuple[str, ...]:
        return tuple(str(fault) for began, ended, fault in self._hits if began < until and ended > since)

    def _progress(self, acknowledged: int) -> str:
        elapsed_s = time.monotonic() - self.began_at
        waits_s = time.monotonic() - (self._committed_at or self.began_at)
        return (
            f"{elapsed_s:7.1f} s  round {self._round}/{self._rounds}, {acknowledged} acknowledged, "
            f"{len(self._hits)} faults, waiting {waits_s:.1f} s, longest stall {self.stall.longest_s:.1f} s"
        )


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ── what is learned ─────────────────────────────────────────────────────────────────────────────────────────────


def _site(folder: Path, gateways: int, devices: int) -> Site:
    """Devices dealt to gateways in turn, each with its own rows of scikit-learn's digits in a file.

    Raises:
        ConfigError: more devices below one gateway than there are powers of two to tell them apart.
    """
    from sklearn.datasets import load_digits

    if devices > MOST_BELOW_A_GATEWAY * gateways:
        raise ConfigError(f"devices: {devices}; at most {MOST_BELOW_A_GATEWAY} below each of {gateways} gateways")
    x, y = load_digits(return_X_y=True)
    names = [f"d{number}" for number in range(devices)]
    data: dict[str, Mapping[str, Any]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        size = round(_examples(number // gateways) / (1 - TEST_FRACTION))
        rows = (np.arange(size) * devices + number) % len(x)
        file = folder.resolve() / f"{name}.npz"
        np.savez(file, x=(x[rows] / 16).astype(np.float32), y=y[rows])
        spec = {"kind": "file", "path": str(file), "features": ["x"], "target": "y", "classes": 10}
        data[name] = {"digits": spec | {"test_fraction": TEST_FRACTION}}
    return Site({f"gw{number}": tuple(names[number::gateways]) for number in range(gateways)}, data)


def _examples(place: int) -> int:
    """Of the device in this place below its gateway: a sum of weights then names its devices."""
    return int(FEWEST_EXAMPLES * 2**place)


def _weights(site: Site) -> Weights:
    return {
        gateway: {device: _examples(place) for place, device in enumerate(devices)}
        for gateway, devices in site.clusters.items()
    }


def _enqueue(database: str, scene: Scene) -> None:
    mode = {"mode": "buffered", "buffer": scene.buffer} if scene.buffer else {}
    description = RunDescription.model_validate(
        {
            "name": "chaos",
            "data": "digits",
            "rounds": scene.rounds,
            "edge_rounds": scene.edge_rounds,
            "evaluate_every": 10,
            "seed": scene.seed,
            "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (16,)},
            "local": {"batch_size": 16, "learning_rate": 0.05},
            "cohort": {"quorum": 0.5, "deadline_s": 5.0, "attempts": 1000, "min_children": 1},
            "aggregation": mode | {"max_staleness": scene.max_staleness},
            "keep_deltas": True,
        }
    )
    history = open_history(database)
    try:
        history.enqueue_run(RUN, FLEET, description, None, datetime.now(UTC))
    finally:
        history.close()
