"""Law: a judge that has caught nothing is no judge. Here are bugs, planted into the real code one at a time.

Each names the checker that must catch it, and seeds of worlds in which it shows. Some of them were real once.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from headwater.cloud import memory
from headwater.cloud.history import History
from headwater.cloud.history.records import Version
from headwater.cloud.patience import Patience
from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum
from headwater.gateway import relay
from headwater.gateway.relay import Relay
from headwater.node import child as children
from headwater.node import parent as parents
from headwater.node import trusting
from headwater.node.child import Child
from headwater.node.hosting import Opening
from headwater.node.news import News
from headwater.node.outbox import Outbox
from headwater.node.parent import Parent
from headwater.node.receipts import Receipts
from headwater.node.store import NodeStore
from headwater.schemas.messages import Delta, Plan, Want
from headwater.schemas.wire import encode
from sim.scenario import Crash, Scenario


@dataclass(frozen=True)
class Planted:
    """`places` are modules or classes, `name` what is replaced there, `bug` makes the wrong one of the right one. What
    else would heal it, by class and name, does nothing meanwhile. It can show in worlds of which `where` holds."""

    checker: str
    places: tuple[Any, ...]
    name: str
    bug: Callable[[Any], Any]
    seeds: tuple[int, ...] = ()
    healers: tuple[tuple[Any, str], ...] = ()
    where: Callable[[Scenario], bool] = lambda _: True

    @contextmanager
    def grown(self) -> Iterator[None]:
        with ExitStack() as stack:
            for place in self.places:
                stack.enter_context(patch.object(place, self.name, self.bug(getattr(place, self.name))))
            for healer, name in self.healers:
                stack.enter_context(patch.object(healer, name, lambda *_: None))
            yield


def _a_gateway_dies_between_edge_rounds(drawn: Scenario) -> bool:
    gateways = set(drawn.parents.values()) - {"cloud"}
    dies = any(isinstance(fault, Crash) and fault.process in gateways for fault in drawn.faults)
    return dies and drawn.description.strategy.name == "scaffold" and drawn.description.edge_rounds > 1


def _commits_later(sql: Any) -> Any:
    async def later(self: Patience, transaction: Any, *arguments: Any) -> Any:
        if transaction.__name__ != "recording":
            return await sql(self, transaction, *arguments)
        work = sql(self, transaction, *arguments)
        asyncio.get_running_loop().call_later(3.0, lambda: asyncio.ensure_future(work))
        return None

    return later


def _keeps_nothing(keep: Any) -> Any:
    async def nothing(self: Receipts, round_: Any, owed: dict[Any, Any]) -> tuple[Any, ...]:
        return tuple(owed)

    return nothing


def _never_forgets(changed: Any) -> Any:
    def keeps(self: News) -> "asyncio.Future[None]":
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        return waiter

    return keeps


def _never_asks(ask: Any) -> Any:
    async def waits(self: Child) -> None:
        await asyncio.sleep(1.0)

    return waits


def _sends_once(remind: Any) -> Any:
    async def once(self: Child, entry: Any) -> None:
        return None

    return once


def _asks_for_nothing(ask: Any) -> Any:
    async def asks(self: Child) -> None:
        topic = self._topics.up(self._identity.node, self._parent, "want")
        for assembly in tuple(self._assemblies.values()):
            await self.session.publish(topic, encode(Want(object=assembly.ref, missing=assembly.missing)))

    return asks


def _never_rests(follow: Any) -> Any:
    return lambda self, work, rest=None: follow(self, work)


def _takes_any_age(worth_taking: Any) -> Any:
    return lambda key, newest, max_staleness: key.run == newest.run


def _forgets_the_attempt(worth_taking: Any) -> Any:
    def forgets(key: Any, newest: Any, max_staleness: int) -> Any:
        return worth_taking(key.model_copy(update={"attempt": newest.attempt}), newest, max_staleness)

    return forgets


def _forgets_contributors(open_hosted: Any) -> Any:
    def forgets(plan: Any, manifest: Any, opening: Opening, *arguments: Any) -> Any:
        return open_hosted(plan, manifest, replace(opening, contributors=frozenset()), *arguments)

    return forgets


def _begins_at_the_beginning(_: Any) -> Any:
    return lambda self, run: Version(*self.model_of(run, 0), None, None)


def _divides_by_one_more(mean: Any) -> Any:
    return lambda self, model=0: tuple(total * (self.weight / (self.weight + 1)) for total in mean(self, model))


def _stores_no_model(record_round: Any) -> Any:
    return lambda self, closed, *arguments: record_round(self, replace(closed, model=None), *arguments)


def _counts_itself(delta: Any) -> Any:
    async def heavier(self: Relay, *arguments: Any) -> Delta:
        made: Delta = await delta(self, *arguments)
        return made.model_copy(update={"weight": made.weight + 1})

    return heavier


def _offers_what_it_has_not(negotiated: Any) -> Any:
    def offers(self: Parent, plan: Plan) -> Plan:
        with patch.object(self._provider, "has", lambda ref: True):
            return negotiated(self, plan)  # type: ignore[no-any-return]

    return offers


def _forgets_its_momentum(read: Any) -> Any:
    def forgets(payload: bytes | None, models: int) -> memory.Remembered:
        found = read(payload, models)
        return replace(found, states=tuple(_zeros(state) for state in found.states))

    return forgets


def _zeros(state: Any) -> Any:
    return {name: tuple(np.zeros_like(value) for value in values) for name, values in state.items()}


def _forgets_companions(read: Any) -> Any:
    def forgets(payload: bytes, learning: Any, manifest: Any) -> Any:
        course = read(payload, learning, manifest)
        companions = tuple(tuple(np.zeros_like(value) for value in of_model) for of_model in course.edge.companions)
        return replace(course, edge=replace(course.edge, companions=companions))

    return forgets


def _takes_any_word(judge: Any) -> Any:
    return lambda signed, parent, newest: trusting.Word(signed.epoch, signed.number)


BUGS: Final[dict[str, Planted]] = {
    "announced before it is committed": Planted(
        "announced_is_committed", (Patience,), "sql", _commits_later, seeds=(0, 1)
    ),
    "a duplicate is folded again": Planted(
        "nobody_counts_twice", (rounds,), "_is_in", lambda is_in: lambda *_: False, seeds=(78, 125)
    ),
    "a receipt before its journal": Planted("acknowledged_is_kept", (Receipts,), "_keep", _keeps_nothing, seeds=(0, 2)),
    "a journal that is not read": Planted(
        "acknowledged_is_kept", (NodeStore,), "load", lambda load: lambda self, key: (), seeds=(38,)
    ),
    "journalled children are not in the cohort": Planted(
        "acknowledged_is_kept", (parents,), "open_hosted", _forgets_contributors, seeds=(75, 126)
    ),
    "a stale delta counts": Planted(
        "only_the_plan_is_answered", (rounds,), "worth_taking", _takes_any_age, seeds=(2, 6)
    ),
    "the attempt is forgotten": Planted(
        "only_the_plan_is_answered", (rounds, children), "worth_taking", _forgets_the_attempt, seeds=(8, 35)
    ),
    "a deadline never fires": Planted(
        "the_run_finishes", (rounds,), "_expire", lambda expire: lambda round_: round_, seeds=(0, 3)
    ),
    "a delta is sent once": Planted("what_was_sent_arrives", (Child,), "_remind", _sends_once, seeds=(2, 15)),
    "missing pieces are not asked for": Planted(
        "the_run_finishes", (Child,), "_ask_for_missing", _never_asks, seeds=(6, 8)
    ),
    "a wrong divisor": Planted("sql_is_recomputed", (WeightedSum,), "mean", _divides_by_one_more, seeds=(0, 1)),
    "a run resumes at its beginning": Planted(
        "announced_is_committed", (History,), "newest_version", _begins_at_the_beginning, seeds=(0, 2)
    ),
    "a version is not stored": Planted(
        "versions_are_in_order", (History,), "record_round", _stores_no_model, seeds=(0, 1)
    ),
    "an update counts in two versions": Planted(
        "no_update_in_two_rounds", (History,), "counted", lambda counted: lambda *_: frozenset(), seeds=(23, 12)
    ),
    "a late update counts whole": Planted(
        "late_counts_less", (rounds,), "discount", lambda discount: lambda *_: 1.0, seeds=(1, 6)
    ),
    "a gateway counts itself": Planted("weight_is_conserved", (Relay,), "_delta", _counts_itself, seeds=(0, 1)),
    "waiters are kept for ever": Planted("memory_is_bounded", (News,), "changed", _never_forgets, seeds=(0, 1)),
    "a want without pieces": Planted(
        "nothing_unexpected", (Child,), "_ask_for_missing", _asks_for_nothing, seeds=(1, 11)
    ),
    "a patch is offered that is not there": Planted(
        "the_run_finishes", (Parent,), "_negotiated", _offers_what_it_has_not, seeds=(15, 233)
    ),
    "what an optimiser remembers is lost": Planted(
        "sql_is_recomputed", (memory,), "read", _forgets_its_momentum, seeds=(37, 122)
    ),
    "control variates are lost between edge rounds": Planted(
        "weight_is_conserved",
        (relay,),
        "read",
        _forgets_companions,
        seeds=(390, 588),
        where=_a_gateway_dies_between_edge_rounds,
    ),
    "an old plan is followed again": Planted(
        "everyone_rests",
        (trusting,),
        "judge_announcement",
        _takes_any_word,
        seeds=(13, 19),
        healers=((Parent, "_remind"),),
    ),
    "a gateway never rests": Planted("everyone_rests", (Child,), "follow", _never_rests, seeds=(0, 1)),
    "what comes from disk is not looked at": Planted(
        "everyone_rests", (Outbox,), "superseded", lambda superseded: lambda self, is_worth: (), seeds=(0, 1)
    ),
}
