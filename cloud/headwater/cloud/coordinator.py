"""Law: a round is committed before its model is announced, so what anyone has heard of can be resumed.

One fleet, one run at a time: claim it, prepare it once, then round by round until it is done, stopped or out of
attempts. A coordinator that starts finds the running run in the history and goes on behind its last round.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from headwater.cloud.history import ClosedRound, History, RunRecord
from headwater.cloud.plans import needs_statistics, plan
from headwater.cloud.preparation import Prepared, prepare
from headwater.core.aggregate import Parameters, means, stepped
from headwater.core.normalise import normalised
from headwater.node.hosting import RoundResult
from headwater.node.parent import Parent
from headwater.schemas.base import Task
from headwater.schemas.errors import HeadwaterError, HistoryError, RunFailed
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Bundle, Model, ObjectRef
from headwater.schemas.statuses import NodeStatus, RunState, RunStatus
from headwater.schemas.tensors import decode_tensors, encode_tensors, parameter_specs
from headwater.schemas.wire import decode_object, encode
from headwater.transport.objects import ObjectStore

log = logging.getLogger("headwater.cloud")

LOOK_EVERY_S: Final = 0.5
"""How often an idle coordinator looks for a new run, and a waiting one for a stop request."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Course:
    """A run under way: its newest model, by value and by name."""

    run: RunRecord
    manifest: Manifest
    bundle: ObjectRef
    model: ObjectRef
    parameters: Parameters
    round: int
    accuracy: float | None = None
    loss: float | None = None


class _Stopped(Exception):
    """Somebody asked the run to stop while it waited."""


class Coordinator:
    """The cloud's work.

    Args:
        tell_people: publishes the run's status.
        now: UTC time for the history.
    """

    def __init__(
        self,
        fleet: str,
        parent: Parent,
        history: History,
        store: ObjectStore,
        *,
        tell_people: Callable[[RunStatus], Awaitable[None]],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._fleet = fleet
        self._parent = parent
        self._history = history
        self._store = store
        self._tell_people = tell_people
        self._now = now
        self._seen: dict[str, NodeStatus] = {}

    async def serve(self) -> None:
        """Work on the fleet's runs, one after the other, until cancelled. Raises HistoryError."""
        await self._parent.session.wait_connected()
        idle = False
        while True:
            await self._record_nodes()
            run = await self._sql(self._history.claim_next_run, self._fleet, self._now())
            if run is None:
                if not idle:
                    # An earlier process may have died before it could say so.
                    idle = True
                    await self._parent.close()
                await self._parent.news.wait(LOOK_EVERY_S)
                continue
            idle = False
            await self._work(run)

    # ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, run: RunRecord) -> None:
        state: RunState = "failed"
        failure = ""
        course: Course | None = None
        try:
            course = await self._begin(run)
            state, course = await self._rounds(course)
        except HistoryError:
            raise
        except _Stopped:
            state = "stopped"
        except HeadwaterError as error:
            failure = str(error)
            log.error("run %s failed: %s", run.id, failure)
        await self._sql(self._history.finish_run, run.id, state, failure, self._now())
        await self._say(run, state, course, failure)
        log.info("run %s: %s", run.id, state)

    async def _begin(self, run: RunRecord) -> Course:
        """A new run is compiled, verified and recorded; one under way is taken up where the history has it."""
        bundle = await self._sql(self._history.bundle_of, run.id)
        if bundle is None:
            prepared = await asyncio.to_thread(self._prepare, run)
            log.info("run %s: %d gradients verified, worst error %.1e", run.id, *_figures(prepared))
            await self._sql(
                self._history.record_start, run.id, prepared.forward, prepared.bundle, prepared.model, self._now()
            )
            bundle = prepared.bundle
        version, model = await self._sql(self._history.model_of, run.id)
        if version:
            log.info("run %s goes on behind round %d", run.id, version)
        manifest = decode_object(bundle, Bundle).manifest
        parameters = decode_tensors(decode_object(model, Model).tensors, parameter_specs(manifest.parameters))
        return Course(run, manifest, self._store.put(bundle), self._store.put(model), parameters, version)

    def _prepare(self, run: RunRecord) -> Prepared:
        initial = run.description.initial
        parameters = None
        if initial.endswith(".npz"):
            parameters = _from_file(Path(initial))
        elif initial != "random":
            _, payload = self._history.model_of(initial.removeprefix("run:"))
            tensors = decode_object(payload, Model).tensors
            parameters = tuple(decode_tensors(tensors, [("initial", t.shape, "float32") for t in tensors]))
        return prepare(run.id, run.description, self._history.forward_of(run.id), parameters)

    async def _rounds(self, course: Course) -> tuple[RunState, Course]:
        description = course.run.description
        await self._say(course.run, "running", course)
        if course.round == 0 and needs_statistics(description):
            course = await self._round(course, "statistics", 0)
        for number in range(course.round + 1, description.rounds + 1):
            if await self._sql(self._history.stop_requested, course.run.id):
                return "stopped", course
            course = await self._round(course, "train", number)
            await self._say(course.run, "running", course)
        return "finished", await self._measured(course)

    async def _measured(self, course: Course) -> Course:
        """The last model measured on the test parts. Where nobody can, the run has its model all the same."""
        try:
            # A number of its own, for a node answers each number once.
            return await self._round(course, "evaluate", course.run.description.rounds + 1, attempts=1)
        except RunFailed as error:
            log.warning("the last model was not measured: %s", error)
            return course

    async def _round(self, course: Course, task: Task, number: int, attempts: int | None = None) -> Course:
        """One round, tried again while it fails, `attempts` times at most (by default the description's)."""
        description = course.run.description
        most = attempts or description.cohort.attempts
        for attempt in range(most):
            await self._wait_for_children(course)
            opened_at = self._now()
            ask = plan(course.run.id, description, task, number, attempt, model=course.model, bundle=course.bundle)
            result = await self._parent.host(ask, course.manifest)
            after = self._after(course, result) if result.closed else course
            payload = self._store.get(after.model) if after.model != course.model else None
            await self._sql(self._history.record_round, _closed(result, course.round, opened_at, payload), self._now())
            if result.closed:
                return after
            log.warning("round %d, attempt %d: no quorum by the deadline", number, attempt)
        raise RunFailed(
            f"round {number}: no quorum in {most} attempts; see the refusals, or lower "
            "cohort.quorum or raise cohort.deadline_s"
        )

    async def _wait_for_children(self, course: Course) -> None:
        """Until `min_children` are there, however long it takes: a fleet may sleep."""
        description = course.run.description
        waiting = False
        while len(self._parent.eligible(description.data)) < description.cohort.min_children:
            if not waiting:
                waiting = True
                there = len(self._parent.eligible(description.data))
                detail = (
                    f"waiting for {description.cohort.min_children} children with {description.data!r}, {there} there"
                )
                log.info("run %s: %s", course.run.id, detail)
                await self._say(course.run, "running", course, detail)
            await self._parent.news.wait(LOOK_EVERY_S)
            await self._record_nodes()
            if await self._sql(self._history.stop_requested, course.run.id):
                raise _Stopped

    # ── what a round makes of the model ─────────────────────────────────────────────────────────────────────────

    def _after(self, course: Course, result: RoundResult) -> Course:
        """The course behind a closed round. Raises RunFailed where the model is no longer finite."""
        told = {(mean.split, mean.name): mean.value for mean in means(result.sum.metrics)}
        course = replace(
            course,
            accuracy=told.get(("test", "correct"), course.accuracy),
            loss=told.get(("train", "loss"), course.loss),
        )
        match result.plan.task:
            case "train":
                parameters = stepped(course.manifest, course.parameters, result.sum.mean())
            case "statistics":
                sums, examples = result.sum.totals, result.sum.weight
                parameters = normalised(course.manifest, course.parameters, sums, examples)
            case "evaluate":
                return course
        if not all(np.isfinite(value).all() for value in parameters):
            raise RunFailed(f"round {result.plan.key.round}: the model is no longer finite; lower local.learning_rate")
        number = result.plan.key.round
        model = encode(Model(run=course.run.id, version=number, tensors=encode_tensors(parameters)))
        return replace(course, parameters=parameters, model=self._store.put(model), round=number)

    # ── for people, and the history ─────────────────────────────────────────────────────────────────────────────

    async def _say(self, run: RunRecord, state: RunState, course: Course | None, detail: str = "") -> None:
        elapsed_s = (self._now() - (run.started_at or self._now())).total_seconds()
        done, rounds = (course.round if course else 0), run.description.rounds
        since = done - run.round
        status = RunStatus(
            run=run.id,
            name=run.name,
            state=state,
            round=done,
            rounds=rounds,
            accuracy=course.accuracy if course else None,
            loss=course.loss if course else None,
            elapsed_s=elapsed_s,
            remaining_s=elapsed_s / since * (rounds - done) if since and state == "running" else None,
            detail=detail[:1024],
        )
        await self._tell_people(status)

    async def _record_nodes(self) -> None:
        changed = [status for name, status in self._parent.members.items() if self._seen.get(name) != status]
        for status in changed:
            self._seen[status.node] = status
            await self._sql(self._history.node_seen, self._fleet, status, self._now())

    async def _sql(self, transaction: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(transaction, *arguments)


def _closed(result: RoundResult, measured: int, opened_at: datetime, model: bytes | None) -> ClosedRound:
    key, round_ = result.plan.key, result.round
    return ClosedRound(
        run=key.run,
        round=key.round,
        attempt=key.attempt,
        task=result.plan.task,
        state=round_.state,
        cohort=len(round_.cohort),
        received=len(round_.received),
        devices=round_.devices,
        examples=round_.examples,
        weight=result.sum.weight,
        refused=result.refused,
        bytes_down=result.traffic.sent_bytes,
        bytes_up=result.traffic.received_bytes,
        opened_at=opened_at,
        elapsed_s=result.elapsed_s,
        measured=measured,
        model=model,
        contributions=result.contributions,
        refusals=result.refusals,
        metrics=result.sum.metrics if result.closed else (),
        tallies=result.sum.tallies if result.closed else (),
    )


def _figures(prepared: Prepared) -> tuple[int, float]:
    return prepared.verification.checks, prepared.verification.worst


def _from_file(path: Path) -> Parameters:
    """Raises RunFailed where the file cannot be read or holds other than float32 arrays in the manifest's order."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(np.asarray(arrays[name], dtype=np.float32) for name in arrays.files)
    except (OSError, ValueError) as error:
        raise RunFailed(f"initial: {path}: {error}; save the parameters in order with numpy.savez") from None
