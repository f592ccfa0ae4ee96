"""Law: a cluster's sum goes up in as few bytes as the run asks for; what is left out goes up with the next sum.

What is left over of a run is on disk before the sum goes out, and survives the gateway.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import numpy as np

from headwater.core import arrays
from headwater.core.local.memory import Memory
from headwater.node.child import Assignment
from headwater.node.journal import JournalFull
from headwater.node.store import NodeStore
from headwater.node.uplink import Link, going
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.tensors import Array

log = logging.getLogger("headwater.gateway")

_TAKEN = "if taken "


class Uplink:
    """A gateway's encoding of its sums, of one run at a time.

    Args:
        entropy: gives a generator for what is rounded by chance.
    """

    def __init__(self, store: NodeStore, entropy: Callable[[], np.random.Generator] = np.random.default_rng) -> None:
        self._store = store
        self._entropy = entropy
        self._run = ""
        self._memory = Memory()

    async def encoded(self, delta: Delta, terms: Sequence[Array], assignment: Assignment) -> Delta:
        """The delta as it goes up."""
        plan, learning = assignment.plan, assignment.plan.learning
        link = Link(plan, assignment.bundle.manifest, learning.gateway_uplink or learning.uplink, assignment.masks)
        memory = await self._of(plan.key.run)
        gone = await asyncio.to_thread(going, delta, terms, link, memory.at(plan.key), self._entropy())
        if gone.kept or gone.if_taken:
            self._memory = Memory().after(plan.key, gone.kept, gone.if_taken)
            await self._keep()
        return gone.delta

    async def refused(self, key: RoundKey) -> None:
        """The sum of a plan was not taken: all of it is left over."""
        if key.run == self._run and (after := self._memory.refused(key)) is not self._memory:
            self._memory = after
            await self._keep()

    async def _of(self, run: str) -> Memory:
        if run != self._run:
            payload = await asyncio.to_thread(self._store.left, run)
            self._run, self._memory = run, _read(run, payload)
        return self._memory

    async def _keep(self) -> None:
        payload = _written(self._memory)
        try:
            await asyncio.to_thread(self._store.keep_left, self._run, payload)
        except JournalFull as error:
            log.warning("what the last sum left out is in memory alone: %s", error)


def _written(memory: Memory) -> bytes:
    named = {**memory.kept, **{f"{_TAKEN}{name}": value for name, value in memory.if_taken.items()}}
    if memory.pending is not None:
        named["pending"] = np.array([memory.pending.round, memory.pending.step, memory.pending.attempt])
    return arrays.written(named)


def _read(run: str, payload: bytes | None) -> Memory:
    if payload is None:
        return Memory()
    try:
        named = arrays.read(payload)
    except ValueError as error:
        log.warning("what the last sum of run %s left out is lost: %s", run, error)
        return Memory()
    pending = named.pop("pending", None)
    key = None
    if pending is not None:
        round_, step, attempt = (int(value) for value in pending)
        key = RoundKey(run=run, round=round_, step=step, attempt=attempt)
    taken = {name.removeprefix(_TAKEN): value for name, value in named.items() if name.startswith(_TAKEN)}
    return Memory({n: v for n, v in named.items() if not n.startswith(_TAKEN)}, key, taken)
