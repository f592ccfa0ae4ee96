"""Law: a round is committed before its model is announced, so what anyone has heard of can be resumed.

One fleet, one run at a time: claim it, prepare it once, then round by round until it is done, stopped or out of
attempts. A coordinator that starts finds the running run in the history and goes on in its open round, in the same
attempt, with what that round had acknowledged. A run that is paused rests between two attempts, and keeps its fleet.
A database that is away is waited for.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from headwater.cloud.course import (
    Behind,
    Course,
    Reached,
    after,
    based_on,
    begun,
    parameters_of,
    with_patch,
    with_places,
)
from headwater.cloud.history import ClosedRound, History, RunRecord
from headwater.cloud.history.states import Rest, Wish
from headwater.cloud.patience import Patience
from headwater.cloud.plans import needs_statistics, plan
from headwater.cloud.preparation import Prepared, forward_model, parameters_in, prepare
from headwater.core.graph.outputs import output_axes
from headwater.core.round import Contributor
from headwater.core.sketch import told_errors
from headwater.node.hosting import RoundResult, with_aggregate
from headwater.node.logs import about
from headwater.node.observing import Observer, Recorded, RunTold, nobody
from headwater.node.parent import Parent
from headwater.schemas.base import Task
from headwater.schemas.errors import HeadwaterError, HistoryError, RunFailed
from headwater.schemas.manifest import SPENT
from headwater.schemas.messages import Bundle, ObjectRef, RoundKey
from headwater.schemas.patterns import misfit
from headwater.schemas.statuses import NodeStatus, RunState, RunStatus
from headwater.schemas.wire import decode_object, reference
from headwater.transport.objects import ObjectStore

log = logging.getLogger("headwater.cloud")

LOOK_EVERY_S: Final = 0.5
"""How often an idle coordinator looks for a new run, and a waiting one for what is asked of its run."""


class _Stopped(Exception):
    """Somebody asked the run to stop, which had come so far."""

    def __init__(self, reached: Reached) -> None:
        super().__init__()
        self.reached = reached


class Coordinator:
    """The cloud's work.

    Args:
        tell_people: publishes the run's status.
        now: UTC time for the history.
        chance: uniform in [0, 1), for the jitter of waits.
        observe: is told of the run and its recorded rounds.
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
        chance: Callable[[], float] = random.random,
        observe: Observer = nobody,
    ) -> None:
        self._fleet = fleet
        self._parent = parent
        self._history = history
        self._store = store
        self._tell_people = tell_people
        self._now = now
        self._observe = observe
        self._seen: dict[str, NodeStatus] = {}
        self._told: RunStatus | None = None
        # Of the run that is worked on, as the history last told it.
        self._rest = Rest()
        self._patience = Patience(self._say_waiting, chance)
        self._sql = self._patience.sql

    async def serve(self) -> None:
        """Work on the fleet's runs, one after the other, until cancelled. Raises HistoryError, or LeaseLost."""
        await self._parent.session.wait_connected()
        idle = False
        while True:
            run = await self._sql(self._history.claim_next_run, self._fleet, self._now())
            if run is None:
                await self._record_nodes()
                if not idle:
                    # An earlier process may have died before it could say so.
                    idle = True
                    await self._parent.close()
                    await self._say_last()
                await self._parent.news.wait(LOOK_EVERY_S)
                continue
            idle = False
            with about(run.id):
                await self._work(run)

    # ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _work(self, run: RunRecord) -> None:
        state: RunState = "failed"
        failure = ""
        self._rest, reached = run.rest, await self._reached(run)
        unspeakable = _unspeakable(run)
        if unspeakable:
            # People read of it in the history: no topic can say its name.
            log.error("run %r failed: %s", run.id, unspeakable)
            await self._sql(self._history.finish_run, run.id, state, unspeakable, self._now())
            return
        try:
            if run.pause_requested:
                # Another coordinator's, or an earlier one's. People hear that it rests before it is taken up.
                await self._heed(run, reached)
            await self._record_nodes()
            course = await self._begin(run, reached)
            reached = (await self._rounds(course)).reached
            state = "finished"
        except HistoryError:
            raise
        except _Stopped as stopped:
            state, reached = "stopped", stopped.reached
        except HeadwaterError as error:
            failure = str(error)
            log.error("run %s failed: %s", run.id, failure)
        await self._sql(self._history.finish_run, run.id, state, failure, self._now())
        await self._say(run, state, reached, failure)
        log.info("run %s: %s", run.id, state)

    async def _reached(self, run: RunRecord) -> Reached:
        told = await self._sql(self._history.rounds_of, run.id)
        return Reached(
            run.round,
            accuracy=next((round_.accuracy for round_ in reversed(told) if round_.accuracy is not None), None),
            loss=next((round_.loss for round_ in reversed(told) if round_.loss is not None), None),
        )

    async def _begin(self, run: RunRecord, reached: Reached) -> Course:
        """A new run is compiled, verified and recorded; one under way is taken up where the history has it."""
        bundle = await self._sql(self._history.bundle_of, run.id)
        if bundle is None:
            prepared = await asyncio.to_thread(self._prepare, run)
            log.info("run %s: %d gradients verified, worst error %.1e", run.id, *_figures(prepared))
            await self._sql(
                self._history.record_start, run.id, prepared.forward, prepared.bundle, prepared.model, self._now()
            )
            bundle = prepared.bundle
        newest = await self._sql(self._history.newest_version, run.id)
        manifest = decode_object(bundle, Bundle).manifest
        self._store.put(newest.model)
        course = begun(run, manifest, self._store.put(bundle), newest.model, newest.number, newest.memory)
        if newest.patch is not None:
            _, before = await self._sql(self._history.model_of, run.id, newest.number - 1)
            course = with_patch(course, reference(before), self._store.put(newest.patch))
        if run.description.pruning.structured:
            stored = await self._sql(self._history.forward_of, run.id)
            forward = forward_model(run.description, stored)
            names = [parameter.name for parameter in manifest.shared]
            course = replace(course, outputs=await asyncio.to_thread(output_axes, forward, names))
        if newest.number:
            log.info("run %s goes on behind round %d", run.id, course.round)
            course = replace(course, accuracy=reached.accuracy, loss=reached.loss)
        return course

    def _prepare(self, run: RunRecord) -> Prepared:
        initial = self._initial(run)
        parameters = None if initial is None else parameters_in(initial)
        return prepare(run.id, run.description, self._history.forward_of(run.id), parameters)

    def _initial(self, run: RunRecord) -> bytes | None:
        """The model that it begins with, None where its seed makes one. Raises RunFailed."""
        description = run.description
        if description.initial_run is not None:
            return self._history.model_of(description.initial_run)[1]
        payload = self._history.initial_of(run.id)
        if payload is None and description.initial_file is not None:
            raise RunFailed(
                f"initial: {description.initial_file!r} was not read when the run was asked for; ask for it anew"
            )
        return payload

    async def _rounds(self, course: Course) -> Course:
        """Raises _Stopped."""
        description = course.run.description
        await self._say(course.run, "running", course.reached)
        if course.round == 0 and needs_statistics(description):
            course = await self._round(course, "statistics", 0)
        for number in range(course.round + 1, description.rounds + 1):
            course = await self._round(course, "train", number)
            await self._say(course.run, "running", course.reached)
        return await self._measured(course)

    async def _measured(self, course: Course) -> Course:
        """The last model measured on the test parts. Where nobody can, the run has its model all the same."""
        try:
            # A number of its own, for a node answers each number once.
            return await self._round(course, "evaluate", course.run.description.rounds + 1, attempts=1)
        except RunFailed as error:
            log.warning("the last model was not measured: %s", error)
            return course

    async def _round(self, course: Course, task: Task, number: int, attempts: int | None = None) -> Course:
        """One round, tried again while it fails, `attempts` times at most (by default the description's).

        An attempt that an earlier coordinator began is the first; a round that it closed is not begun again.

        Raises:
            RunFailed: none of the attempts closed.
            _Stopped: somebody asked for it between two of them.
        """
        most = attempts or course.run.description.cohort.attempts
        first = await self._sql(self._history.next_attempt, course.run.id, number, task)
        if first is None:
            return course
        for attempt in range(first, most):
            await self._heed(course.run, course.reached)
            await self._wait_for_children(course)
            opened_at = self._now()
            course = await self._with_places(course)
            with about(RoundKey(run=course.run.id, round=number, attempt=attempt)):
                result = await self._host(course, task, number, attempt)
                behind = await self._recorded(course, result, opened_at)
                if result.closed:
                    return behind.course
                log.warning("round %d, attempt %d: no quorum by the deadline", number, attempt)
        raise RunFailed(
            f"round {number}: no quorum in {most} attempts; see the refusals, or lower "
            "cohort.quorum or raise cohort.deadline_s"
        )

    async def _recorded(self, course: Course, result: RoundResult, opened_at: datetime) -> Behind:
        """What a round led to, committed; people then hear how long that took."""
        loop = asyncio.get_running_loop()
        closed_at = loop.time()
        behind = await self._after(course, result) if result.closed else Behind(course)
        ready_at = loop.time()
        result = with_aggregate(result, ready_at - closed_at)
        await self._sql(self._history.record_round, _closed(result, course.round, opened_at, behind), self._now())
        if result.closed and result.told is not None:
            if result.times is not None:
                self._parent.tell(result.told)
            self._observe(Recorded(result.told, loop.time() - ready_at))
        return behind

    async def _host(self, course: Course, task: Task, number: int, attempt: int) -> RoundResult:
        run, description = course.run.id, course.run.description
        ask = plan(
            run,
            description,
            task,
            number,
            attempt,
            model=course.model,
            bundle=course.bundle,
            patch=course.patch,
            mask=self._keep_mask(course),
            errors=told_errors(course.errors),
        )
        counted: frozenset[Contributor] = frozenset()
        if ask.max_staleness:
            counted = await self._sql(self._history.counted, run, number - ask.max_staleness)
        host = partial(
            self._parent.host,
            counted=counted,
            keep_payloads=description.keep_deltas,
            models=len(course.models.parameters),
            places=course.models.clusters if description.learning.has_places else (),
            masks=course.mask,
        )
        # The journal is the history's, and may be away when the round opens.
        return await self._patience.through(partial(host, ask, course.manifest))

    async def _with_places(self, course: Course) -> Course:
        """With a model for each child, where a run has that; it is in the store then.

        Whoever gave something to this round before the coordinator began anew may not be back yet.
        """
        if not course.description.learning.has_places:
            return course
        given = await self._sql(self._history.senders, course.run.id)
        course, model = with_places(course, self._parent.eligible(course.description.data) | given)
        if model is not None:
            self._store.put(model)
        return course

    async def _after(self, course: Course, result: RoundResult) -> Behind:
        """What a closed round led to, its new model in the store."""
        version, base = based_on(course, result), course.parameters
        if version is not None and version != course.round:
            _, older = await self._sql(self._history.model_of, course.run.id, version)
            (base,) = parameters_of(course.manifest, older)
        fleet = self._parent.examples(course.description.data)
        behind = after(course, result, None if version is None else base, fleet)
        for payload in (behind.model, behind.patch):
            if payload is not None:
                self._store.put(payload)
        return behind

    def _keep_mask(self, course: Course) -> ObjectRef | None:
        """The mask in the store, for whoever asks."""
        payload = course.encoded_mask
        return self._store.put(payload) if payload is not None else None

    async def _heed(self, run: RunRecord, reached: Reached) -> None:
        """What was asked of the run is done: it rests for as long as that is wished. Raises _Stopped."""
        rest: Rest | None = None
        while await self._wish(run, reached) == "pause":
            # Held each time: it may have gone on, and been paused again, since it was looked at.
            held = await self._sql(self._history.hold_run, run.id, self._now())
            if held.state != "paused":
                break
            if rest is None:
                log.info("run %s: paused behind round %d", run.id, reached.round)
                # What the children still do is for no open round; whoever comes back is not told to train.
                await self._parent.close()
            elif rest != held.rest:
                await self._say(run, "running", reached)
            if rest != held.rest:
                self._rest = rest = held.rest
                await self._say(run, "paused", reached)
            await self._parent.news.wait(LOOK_EVERY_S)
            await self._record_nodes()
        if rest is not None:
            log.info("run %s: goes on", run.id)
            await self._say(run, "running", reached)

    async def _wish(self, run: RunRecord, reached: Reached) -> Wish:
        """Raises _Stopped."""
        standing = await self._sql(self._history.standing, run.id)
        self._rest = standing.rest
        if standing.wish == "stop":
            raise _Stopped(reached)
        return standing.wish

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
                await self._say(course.run, "running", course.reached, detail)
            await self._parent.news.wait(LOOK_EVERY_S)
            await self._record_nodes()
            await self._heed(course.run, course.reached)

    # ── for people, and the history ─────────────────────────────────────────────────────────────────────────────

    async def _say_last(self) -> None:
        """How the last run ended, where this process has told nothing yet."""
        runs = () if self._told else await self._sql(self._history.list_runs, self._fleet)
        last = next((run for run in runs if not _unspeakable(run)), None)
        if last is not None:
            self._rest = last.rest
            await self._say(last, last.state, Reached(last.round), last.failure)

    async def _say(self, run: RunRecord, state: RunState, reached: Reached, detail: str = "") -> None:
        until = run.ended_at or self._now()
        elapsed_s = self._rest.worked_s(run.started_at or until, until)
        done, rounds = reached.round, run.description.rounds
        status = RunStatus(
            run=run.id,
            name=run.name,
            state=state,
            round=done,
            rounds=rounds,
            accuracy=reached.accuracy,
            loss=reached.loss,
            elapsed_s=elapsed_s,
            remaining_s=elapsed_s / done * (rounds - done) if done and state == "running" else None,
            detail=detail[:1024],
            pauses=self._rest.pauses,
        )
        self._told = status
        self._observe(RunTold(status))
        await self._tell_people(status)

    async def _say_waiting(self, why: str) -> None:
        """Why the run waits, or "" when it goes on."""
        if self._told is not None and self._told.state == "running":
            await self._tell_people(self._told.model_copy(update={"detail": why[:1024] or self._told.detail}))

    async def _record_nodes(self) -> None:
        changed = [status for name, status in self._parent.members.items() if self._seen.get(name) != status]
        for status in changed:
            self._seen[status.node] = status
            await self._sql(self._history.node_seen, self._fleet, status, self._now())


def _unspeakable(run: RunRecord) -> str:
    """Why a run that an older version queued can be told to nobody; "" of every other one."""
    problem = misfit("run", run.id)
    return problem and f"{problem}; start it anew under such a name"


def _closed(result: RoundResult, measured: int, opened_at: datetime, behind: Behind) -> ClosedRound:
    key, round_ = result.plan.key, result.round
    return ClosedRound(
        run=key.run,
        round=key.round,
        attempt=key.attempt,
        task=result.plan.task,
        state=round_.state,
        cohort=len(round_.cohort),
        received=round_.updates,
        devices=round_.devices,
        examples=round_.examples,
        weight=result.sum.weight,
        refused=result.refused,
        bytes_down=result.traffic.sent_bytes,
        bytes_up=result.traffic.received_bytes,
        opened_at=opened_at,
        elapsed_s=result.elapsed_s,
        times=result.times,
        measured=measured,
        model=behind.model,
        memory=behind.memory,
        patch=behind.patch,
        contributions=result.contributions,
        refusals=result.refusals,
        metrics=tuple(m for m in result.sum.metrics if m.name not in SPENT) if result.closed else (),
        tallies=result.sum.tallies if result.closed else (),
    )


def _figures(prepared: Prepared) -> tuple[int, float]:
    return prepared.verification.checks, prepared.verification.worst
