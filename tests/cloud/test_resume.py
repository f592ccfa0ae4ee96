"""A coordinator that dies at any transaction, and what the next makes of it: the same rounds, the same model.

On virtual time, with the deployed shells and a real database; child `d<i>` has weight 2**i and the update i + 1, so a
mean names its contributors.
"""

import asyncio
import contextlib
import gc
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from headwater.cloud.history import History, open_history
from headwater.cloud.history.states import ENDED, Request
from headwater.cloud.service import Machine, coordinate
from headwater.node.child import Assignment, Child
from headwater.node.herald import Herald
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.store import NodeStore
from headwater.node.watching import Watch
from headwater.schemas.messages import Announcement, Bundle, Delta, Metric, Model, RoundKey
from headwater.schemas.run import RunDescription
from headwater.schemas.settings import CloudSettings
from headwater.schemas.statuses import DataStatus, Event, RunStatus
from headwater.schemas.tensors import decode_tensor, encode_tensors
from headwater.schemas.topics import Topics
from headwater.schemas.wire import decode, decode_object, decode_status, encode
from headwater.testbed.virtual.broker import Broker
from headwater.testbed.virtual.connection import VirtualConnection
from headwater.testbed.virtual.loop import VirtualLoop, run_virtually
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Caller, Publication
from support.deltas import manifest
from support.histories import NOW, queued_unchecked

ROUNDS = 2
WIDTH = 2000
"""A model of two of the database's pages."""

WORK_S = (0.05, 0.2, 0.9)
"""The first two are acknowledged, and so in the journal, long before the third is done."""

MANIFEST = manifest(WIDTH)
MOST_S = 600
MEAN = sum(2**i * (i + 1) for i in range(3)) / 7


class PowerCut(Exception):
    """The process is gone: nothing that it does from here on has an effect."""


@dataclass
class Life:
    """One process of the coordinator. It dies at its commit number `dies_at`, just before or just behind it.

    From second `full[0]` to second `full[1]` its disk has no room for another page.
    """

    history: History
    dies_at: int | None
    behind: bool
    full: tuple[float, float] = (0.0, 0.0)
    commits: int = 0
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    connections: list[VirtualConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        event.listen(self.history._engine, "commit", self._before)
        event.listen(Session, "after_commit", self._behind)
        event.listen(self.history._engine, "checkout", self._limit)

    def _limit(self, connection: Any, *_: object) -> None:
        begin, end = self.full
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        is_full = begin <= asyncio.get_running_loop().time() < end
        connection.execute(f"PRAGMA max_page_count={pages if is_full else 10**9}")

    def _before(self, connection: object) -> None:
        self.commits += 1
        if self.dead.is_set() or (self.commits == self.dies_at and not self.behind):
            self._die()
            raise PowerCut

    def _behind(self, session: Session) -> None:
        own = session.get_bind() is self.history._engine
        if own and self.behind and self.commits == self.dies_at and not self.dead.is_set():
            self._die()
            raise PowerCut

    def close(self) -> None:
        event.remove(Session, "after_commit", self._behind)
        self.history.close()

    def _die(self) -> None:
        self.dead.set()
        for connection in self.connections:
            connection.die(noticed_after_s=0.5)


class World:
    """Three children, a broker, and a coordinator that is started again whenever it has died."""

    def __init__(
        self,
        folder: Path,
        description: RunDescription,
        loop: VirtualLoop,
        full: tuple[float, float] = (0.0, 0.0),
        asks: tuple[tuple[float, Request], ...] = (),
        restarts_at_s: float | None = None,
    ) -> None:
        self.full = full
        self.asks = asks
        self.restarts_at_s = restarts_at_s
        self.folder = folder
        self.description = description
        self.rng = Random(7)
        self.broker = Broker("cloud", loop, self.rng, observe=self.observe)
        self.done: Counter[tuple[str, RoundKey]] = Counter()
        self.lives: list[Life] = []
        self.loop = loop
        self.told: list[RunStatus] = []
        self.events: list[Event] = []
        self.told_at_s: list[tuple[float, str]] = []
        self.steps: list[str] = []
        self.announced: list[Announcement] = []
        self.done_by: list[int] = []
        self.stood: list[str] = []

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.loop.time())

    def observe(self, happening: str, client: str, publication: Publication | None) -> None:
        if publication is not None and publication.topic == Topics("plant").run:
            status = decode_status(publication.payload, RunStatus)
            if not self.told or self.told[-1] != status:
                self.told.append(status)
            self.told_at_s.append((self.loop.time(), status.state))
            self.steps.append(status.state)
        if publication is not None and publication.topic == Topics("plant").event("cloud"):
            self.events.append(decode_status(publication.payload, Event))
        if publication is not None and publication.topic == Topics("plant").down("cloud", "announcement"):
            self.announced.append(decode(publication.payload, Announcement))

    def connect(self, life: Life | None, caller: Caller) -> VirtualConnection:
        connection = VirtualConnection(self.broker, caller, self.rng)
        if life is not None:
            life.connections.append(connection)
        return connection

    async def child(self, index: int) -> None:
        node = f"d{index}"
        data = {"d": DataStatus(train_examples=1, test_examples=0)}
        store = NodeStore(self.folder / f"{node}.db", 10**8)
        connect = partial(self.connect, None)
        identity = Identity("plant", node, "device", "cloud")
        child = Child(connect, identity, ObjectStore(10**8), Outbox(store), data=lambda: data)
        try:
            await asyncio.gather(child.session.run(), child.follow(partial(self.work, index)))
        finally:
            store.close()

    async def work(self, index: int, assignment: Assignment) -> Delta:
        plan, node, weight = assignment.plan, f"d{index}", 2.0**index
        await asyncio.sleep(WORK_S[index])
        self.done[node, plan.key] += 1
        trains = plan.task == "train"
        return Delta(
            key=plan.key,
            sender=node,
            task=plan.task,
            weight=weight,
            examples=1,
            devices=1,
            tensors=encode_tensors([np.full(WIDTH, weight * (index + 1), np.float32)]) if trains else (),
            metrics=(Metric(split="train" if trains else "test", name="loss", total=1.0, weight=1.0),),
        )

    async def coordinator(self, dies_at: int | None, behind: bool) -> None:
        """One life, to its end by a power cut."""
        life = Life(open_history(self.url), dies_at, behind, self.full)
        self.lives.append(life)
        service = asyncio.ensure_future(self._serve(life))
        dead = asyncio.ensure_future(life.dead.wait())
        try:
            await asyncio.wait((service, dead), return_when=asyncio.FIRST_COMPLETED)
        finally:
            service.cancel()
            dead.cancel()
            await asyncio.gather(service, return_exceptions=True)
            life.close()

    async def _serve(self, life: Life) -> None:
        settings = CloudSettings(fleet="plant", heartbeat_s=1.0, lease_s=3.0)
        boot = f"boot{len(self.lives)}"
        machine = Machine("here", boot, self.now, self.rng.random)
        watch = Watch(Herald(Identity("plant", "cloud", "cloud", None, boot), self.now))
        self.steps.append(boot)
        await coordinate(settings, life.history, partial(self.connect, life), machine, watch=watch)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'history.db'}"

    async def run(self, dies_at: int | None, behind: bool, stay_s: float) -> None:
        """Until `stay_s` behind the end of the run."""
        tasks = [asyncio.ensure_future(self.child(index)) for index in range(3)]
        watching = open_history(self.url)
        try:
            tasks.append(asyncio.ensure_future(self._lives(dies_at, behind)))
            tasks += [asyncio.ensure_future(self._ask(watching, *ask)) for ask in self.asks]
            tasks.append(asyncio.ensure_future(self._restart_broker()))
            for _ in range(MOST_S):
                await asyncio.sleep(1.0)
                if watching.show_run("r").state in ENDED:
                    await asyncio.sleep(stay_s)
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            watching.close()

    async def _ask(self, history: History, at_s: float, request: Request) -> None:
        await asyncio.sleep(at_s)
        self.stood.append(history.show_run("r").state)
        history.request("r", request, self.now())
        self.done_by.append(len(self.done))

    async def _restart_broker(self) -> None:
        """It forgets what it retained."""
        if self.restarts_at_s is not None:
            await asyncio.sleep(self.restarts_at_s)
            self.broker.stop()
            await asyncio.sleep(1.0)
            self.broker.start()

    async def _lives(self, dies_at: int | None, behind: bool) -> None:
        await self.coordinator(dies_at, behind)
        await self.coordinator(None, behind)


def begin(folder: Path, description: RunDescription) -> None:
    """A run that is prepared, and waits for its coordinator."""
    history = open_history(f"sqlite:///{folder / 'history.db'}")
    history.enqueue_run("r", "plant", description, None, NOW)
    bundle = encode(Bundle(manifest=MANIFEST, graphs={"train": b"train"}))
    model = encode(Model(run="r", version=0, tensors=encode_tensors([np.zeros(WIDTH, np.float32)])))
    history.record_start("r", b"forward", bundle, model, NOW)
    history.close()


def described(**changes: Any) -> RunDescription:
    cohort = {"quorum": 1.0, "deadline_s": 60.0, "min_children": 3}
    base = {"name": "n", "data": "d", "rounds": ROUNDS, "model": {"kind": "mlp", "features": 2, "classes": 2}}
    return RunDescription.model_validate(base | {"cohort": cohort, "evaluate_every": 0} | changes)


def virtual() -> VirtualLoop:
    return VirtualLoop(until_s=1000, thread_latency_s=lambda: 0.002)


def lived_through(
    folder: Path,
    description: RunDescription,
    dies_at: int | None = None,
    behind: bool = False,
    full: tuple[float, float] = (0.0, 0.0),
    stay_s: float = 0.0,
    asks: tuple[tuple[float, Request], ...] = (),
    restarts_at_s: float | None = None,
) -> World:
    world = World(folder, description, virtual(), full, asks, restarts_at_s)
    live(world, dies_at, behind, stay_s)
    return world


@pytest.fixture(autouse=True, scope="module")
def _others_garbage_is_left_alone() -> Iterator[None]:
    """What was there before these worlds is not looked through behind each of them."""
    gc.freeze()
    yield
    gc.unfreeze()


def live(world: World, dies_at: int | None, behind: bool = False, stay_s: float = 0.0) -> None:
    run_virtually(partial(world.run, dies_at, behind, stay_s), world.loop)
    # What died with its process is told of when it is collected: here, and not within whatever comes next.
    gc.collect()


def ended(world: World) -> tuple[list[tuple[int, int, str]], list[float]]:
    """The rounds (number, attempt, state), the last of which measures, and the last model's values."""
    history = open_history(world.url)
    rounds = [(r.round, r.attempt, r.state) for r in history.rounds_of("r")]
    assert history.show_run("r").state == "finished", history.show_run("r").failure
    _, model = history.model_of("r")
    with history._transaction("look") as session:
        assert session.execute(text("SELECT count(*) FROM pending")).scalar() == 0
    history.close()
    return rounds, decode_tensor(decode_object(model, Model).tensors[0]).tolist()


@pytest.mark.parametrize("behind", [False, True], ids=["before the commit", "behind the commit"])
@pytest.mark.timeout(300)
def test_a_coordinator_may_die_at_any_transaction(tmp_path: Path, behind: bool) -> None:
    """Every commit of a whole run, one world each: no round twice, no update lost or worked on twice."""
    begin(tmp_path, described())
    undisturbed = lived_through(_copy(tmp_path, "whole"), described(), None, behind)
    expected = [(n, 0, "closed") for n in range(1, ROUNDS + 2)], pytest.approx([ROUNDS * MEAN] * WIDTH)
    assert ended(undisturbed) == expected
    last = undisturbed.lives[0].commits
    assert last > 20
    for dies_at in range(1, last + 1):
        world = lived_through(_copy(tmp_path, str(dies_at)), described(), dies_at, behind)
        assert ended(world) == expected, f"died at commit {dies_at}"
        assert set(world.done.values()) == {1}, f"died at commit {dies_at}"
        assert len(world.done) == 3 * (ROUNDS + 1)


def _copy(template: Path, name: str) -> Path:
    folder = template.parent / f"{template.name}-{name}"
    shutil.copytree(template, folder)
    return folder


@pytest.mark.parametrize("dies_at", [None, 25, 60, 100], ids=lambda commit: f"dies at {commit}")
def test_a_paused_run_rests_between_two_rounds_and_goes_on_where_it_was(tmp_path: Path, dies_at: int | None) -> None:
    """A coordinator that dies meanwhile, or before it could rest, is succeeded by one that lets it rest too."""
    begin(tmp_path, described())
    world = lived_through(tmp_path, described(), dies_at, asks=((0.6, "pause"), (60.0, "resume")))
    assert ended(world) == ([(n, 0, "closed") for n in range(1, ROUNDS + 2)], pytest.approx([ROUNDS * MEAN] * WIDTH))
    assert set(world.done.values()) == {1}
    # The open round was brought to its end, and nobody trained for the next one.
    assert world.done_by[1] == 3
    assert [state for state, _ in groupby(status.state for status in world.told) if state == "paused"]
    assert {status.round for status in world.told if status.state == "paused"} == {1}
    paused = next(i for i, announcement in enumerate(world.announced) if i and announcement.plan is None)
    assert world.announced[paused].closed == RoundKey(run="r", round=1)


@pytest.mark.parametrize("queued_s", [-60, 60], ids=["before another run", "behind it"])
def test_a_run_whose_name_no_topic_can_bear_fails_with_its_reason_and_the_fleet_goes_on(
    tmp_path: Path, queued_s: float
) -> None:
    begin(tmp_path, described())
    with contextlib.closing(open_history(f"sqlite:///{tmp_path / 'history.db'}")) as history:
        queued_unchecked(history, "a/b c", "plant", NOW + timedelta(seconds=queued_s))
        world = lived_through(tmp_path, described(), stay_s=5.0)
        assert ended(world)[0] == [(n, 0, "closed") for n in range(1, ROUNDS + 2)]
        bad = history.show_run("a/b c")
        assert (bad.state, bad.round) == ("failed", 0)
        assert bad.failure.startswith("run: 'a/b c': use 1 to 64 letters")
        # Whoever takes over tells people of the last run that can be told of.
        assert {status.run for status in lived_through(tmp_path, described(), stay_s=5.0).told} == {"r"}


def test_a_run_whose_file_older_software_left_to_the_clouds_machine_says_so(tmp_path: Path) -> None:
    with contextlib.closing(open_history(f"sqlite:///{tmp_path / 'history.db'}")) as history:
        history.enqueue_run("r", "plant", described(initial="p.npz"), None, NOW)
        lived_through(tmp_path, described())
        failed = history.show_run("r")
        assert (failed.state, failed.failure) == (
            "failed",
            "initial: 'p.npz' was not read when the run was asked for; ask for it anew",
        )


def test_a_run_that_is_paused_again_before_its_coordinator_heard_that_it_may_go_on_rests(tmp_path: Path) -> None:
    begin(tmp_path, described())
    asks = ((0.6, "pause"), (20.0, "resume"), (20.001, "pause"), (60.0, "resume"))
    world = lived_through(tmp_path, described(), asks=asks)
    assert world.stood == ["running", "paused", "running", "paused"]
    assert ended(world)[0] == [(n, 0, "closed") for n in range(1, ROUNDS + 2)]


@pytest.mark.parametrize("dies_at", [None, 60, 100], ids=lambda commit: f"dies at {commit}")
def test_each_pause_behind_one_round_is_an_event_of_its_own_and_the_time_in_it_is_no_work(
    tmp_path: Path, dies_at: int | None
) -> None:
    begin(tmp_path, described())
    asks = ((0.6, "pause"), (20.0, "resume"), (20.001, "pause"), (60.0, "resume"))
    world = lived_through(tmp_path, described(), dies_at, asks=asks, stay_s=5.0)
    ids = [event.id for event in world.events if event.type.startswith("headwater.run.")]
    told_once = ["r/running", "r/paused/1", "r/resumed/1", "r/paused/2", "r/resumed/2", "r/finished"]
    assert list(dict.fromkeys(ids)) == told_once
    # Whoever takes the run up while it rests tells that again, as the same event.
    assert ids.count("r/paused/1") == (1 if dies_at is None else 2)
    assert (world.told[-1].state, world.told[-1].pauses) == ("finished", 2)
    assert world.now() > NOW + timedelta(seconds=60)
    assert 2 * WORK_S[-1] < world.told[-1].elapsed_s < 10


@pytest.mark.parametrize("dies_at", [11, 15, 60], ids=["asked, in a round", "asked, behind it", "while it rests"])
def test_a_new_leader_says_that_the_run_rests_before_it_takes_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """With a fleet of thousands, or a large model, what comes before the first round takes its time."""
    begin(tmp_path, described())
    world = World(tmp_path, described(), virtual(), asks=((0.6, "pause"), (60.0, "resume")))
    bundle_of = History.bundle_of

    def taking_up(history: History, run: str) -> bytes | None:
        world.steps.append("taken up")
        return bundle_of(history, run)

    monkeypatch.setattr(History, "bundle_of", taking_up)
    live(world, dies_at)
    after = world.steps[world.steps.index("boot2") + 1 :]
    assert after[:3] == ["paused", "running", "taken up"]
    assert ("paused" in world.steps[: world.steps.index("boot2")]) == (dies_at == 60)


def test_a_broker_that_forgot_what_it_held_is_told_again_that_a_run_rests(tmp_path: Path) -> None:
    begin(tmp_path, described())
    world = lived_through(tmp_path, described(), asks=((0.6, "pause"), (60.0, "resume")), restarts_at_s=30.0)
    assert [state for at_s, state in world.told_at_s if 30 < at_s < 60] == ["paused"]


def test_a_paused_run_is_stopped_as_soon_as_that_is_asked(tmp_path: Path) -> None:
    begin(tmp_path, described())
    world = lived_through(tmp_path, described(), asks=((0.6, "pause"), (20.0, "stop")))
    history = open_history(world.url)
    assert history.show_run("r").state == "stopped"
    assert [(told.round, told.state) for told in history.rounds_of("r")] == [(1, "closed")]
    assert (world.told[-1].state, world.told[-1].round) == ("stopped", 1)
    history.close()


@pytest.mark.parametrize("dies_at", [None, 12, 17, 25, 40])
@pytest.mark.parametrize(
    "aggregation",
    [
        {"mode": "synchronous"},
        {"mode": "synchronous", "max_staleness": 2},
        {"mode": "buffered", "buffer": 2},
        {"mode": "asynchronous", "mixing": 0.5, "staleness_exponent": 1.0},
    ],
    ids=lambda about: "-".join(map(str, about.values())),
)
def test_every_version_follows_from_what_the_history_kept(
    tmp_path: Path, aggregation: dict[str, Any], dies_at: int | None
) -> None:
    about = described(rounds=8, aggregation=aggregation, keep_deltas=True)
    begin(tmp_path, about)
    world = lived_through(tmp_path, about, dies_at, behind=True)
    history = open_history(world.url)
    given = contributions(history)
    assert history.show_run("r").state == "finished"
    assert {row.round for row in given} == set(range(1, 9))
    counted = Counter((row.node, row.based_on, row.based_attempt) for row in given)
    assert max(counted.values()) == 1
    for version in range(1, 9):
        of_round = [row for row in given if row.round == version]
        expected = recomputed(about, of_round, lambda number: model(history, number), version)
        np.testing.assert_allclose(model(history, version), expected, atol=1e-6)
    if aggregation["mode"] != "synchronous":
        assert max(row.staleness for row in given) > 0
    history.close()


def contributions(history: History) -> list[Any]:
    query = (
        "SELECT c.*, o.payload FROM contributions c JOIN rounds r USING (run, round, attempt, task) "
        "JOIN objects o ON o.sha256 = c.sha256 WHERE r.state = 'closed' AND r.task = 'train'"
    )
    with history._transaction("look") as session:
        return list(session.execute(text(query)))


def model(history: History, version: int) -> np.ndarray:
    _, payload = history.model_of("r", version)
    return decode_tensor(decode_object(payload, Model).tensors[0])


def recomputed(
    about: RunDescription, given: list[Any], model_of: Callable[[int], np.ndarray], version: int
) -> np.ndarray:
    """The papers' formulas, written out once more from the rows alone."""
    total, weights = np.zeros(WIDTH), 0.0
    for row in given:
        assert row.staleness == version - row.based_on
        assert row.factor == (1 + row.staleness) ** -about.aggregation.staleness_exponent
        update = decode_tensor(decode_object(bytes(row.payload), Delta).tensors[0]) / row.weight
        if about.aggregation.mode == "asynchronous":
            reached = model_of(row.based_on - 1) + update
            share = about.aggregation.mixing * row.factor
            return (1 - share) * model_of(version - 1) + share * reached
        total, weights = total + row.factor * row.weight * update, weights + row.weight
    return model_of(version - 1) + total / weights


def test_a_disk_that_is_full_for_a_while_ends_nothing_and_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    about = described()
    begin(tmp_path, about)
    world = lived_through(tmp_path, about, full=(0.0, 30.0))
    assert ended(world) == ([(n, 0, "closed") for n in range(1, ROUNDS + 2)], pytest.approx([ROUNDS * MEAN] * WIDTH))
    waits = [record.message for record in caplog.records if record.message.startswith("waiting for the database")]
    assert len(waits) == 1
    assert "record round: database or disk is full; free some space" in waits[0]
    told = [status.detail for status in world.told if status.state == "running"]
    assert [detail for detail in told if "disk is full" in detail] == waits[0:1]
    assert told[-1] == ""
    assert world.told[-1].state == "finished"


def test_people_hear_how_a_run_ended_though_the_coordinator_died_before_it_could_say(tmp_path: Path) -> None:
    about = described()
    begin(tmp_path, about)
    commits = lived_through(_copy(tmp_path, "whole"), about).lives[0].commits
    died = 0
    for dies_at in range(commits - 5, commits + 1):
        world = lived_through(_copy(tmp_path, str(dies_at)), about, dies_at, behind=True, stay_s=10.0)
        died += len(world.lives) == 2
        assert (world.told[-1].state, world.told[-1].round) == ("finished", ROUNDS)
    assert died > 1
