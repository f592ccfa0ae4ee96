"""Law: a judge that has caught nothing is no judge. Here are bugs, planted into the real code one at a time.

Each names the checker that must catch it, and seeds of worlds in which it shows. Some of them were real once.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from headwater.cloud.coordinator import Coordinator
from headwater.cloud.history import History
from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum
from headwater.gateway.relay import Relay
from headwater.node import parent as parents
from headwater.node.child import Child
from headwater.node.hosting import Opening
from headwater.node.outbox import Outbox
from headwater.node.receipts import Receipts
from headwater.node.store import NodeStore
from headwater.schemas.messages import Delta, Want
from headwater.schemas.wire import encode


@dataclass(frozen=True)
class Planted:
    """`place` is a module or class, `name` what is replaced in it, `bug` makes the wrong one of the right one."""

    checker: str
    place: Any
    name: str
    bug: Callable[[Any], Any]
    seeds: tuple[int, ...] = ()

    @contextmanager
    def grown(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(patch.object(self.place, self.name, self.bug(getattr(self.place, self.name))))
            yield


def _commits_later(sql: Any) -> Any:
    async def later(self: Coordinator, transaction: Any, *arguments: Any) -> Any:
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


def _never_clears(settle_up: Any) -> Any:
    async def never(self: Receipts) -> None:
        await asyncio.sleep(0.1)
        owed = dict(self._owed)
        if self._round is not None:
            for sender, key in await self._keep(self._round, owed):
                await self._send(sender, key)

    return never


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


def _begins_at_the_beginning(model_of: Any) -> Any:
    return lambda self, run, version=None: model_of(self, run, 0)


def _divides_by_one_more(mean: Any) -> Any:
    return lambda self: tuple(total / (self.weight + 1) for total in self.totals)


def _counts_itself(delta: Any) -> Any:
    def heavier(self: Relay, *arguments: Any) -> Delta:
        made: Delta = delta(self, *arguments)
        return made.model_copy(update={"weight": made.weight + 1})

    return heavier


BUGS: Final[dict[str, Planted]] = {
    "announced before it is committed": Planted("announced_is_committed", Coordinator, "_sql", _commits_later),
    "a duplicate is folded again": Planted("nobody_counts_twice", rounds, "_is_in", lambda is_in: lambda *_: False),
    "a receipt before its journal": Planted("acknowledged_is_kept", Receipts, "_keep", _keeps_nothing),
    "a journal that is not read": Planted(
        "acknowledged_is_kept", NodeStore, "load", lambda load: lambda self, key: ()
    ),
    "journalled children are not in the cohort": Planted(
        "acknowledged_is_kept", parents, "open_hosted", _forgets_contributors
    ),
    "a stale delta counts": Planted("only_the_plan_is_answered", rounds, "worth_taking", _takes_any_age),
    "the attempt is forgotten": Planted("only_the_plan_is_answered", rounds, "worth_taking", _forgets_the_attempt),
    "a deadline never fires": Planted("the_run_finishes", rounds, "_expire", lambda expire: lambda round_: round_),
    "a delta is sent once": Planted("everyone_rests", Child, "_remind", _sends_once),
    "a wrong divisor": Planted("sql_is_recomputed", WeightedSum, "mean", _divides_by_one_more),
    "a run resumes at its beginning": Planted(
        "announced_is_committed", History, "model_of", _begins_at_the_beginning
    ),
    "a gateway counts itself": Planted("weight_is_conserved", Relay, "_delta", _counts_itself),
    "receipts are owed for ever": Planted("memory_is_bounded", Receipts, "_settle_up", _never_clears),
    "a want without pieces": Planted("nothing_unexpected", Child, "_ask_for_missing", _asks_for_nothing),
    "a gateway never rests": Planted("everyone_rests", Child, "follow", _never_rests),
    "what comes from disk is not looked at": Planted(
        "everyone_rests", Outbox, "superseded", lambda superseded: lambda self, is_worth: ()
    ),
}
