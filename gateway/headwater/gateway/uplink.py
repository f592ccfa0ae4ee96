"""Law: a cluster's sum goes up in as few bytes as the run asks for; what is left out goes up with the next sum.

What is left over of a run is on disk before the sum goes out, and survives the gateway.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import numpy as np

from headwater.core import arrays
from headwater.core.local import Memory
from headwater.core.local import memory as memories
from headwater.node.child import Assignment
from headwater.node.journal import JournalFull
from headwater.node.store import NodeStore
from headwater.node.uplink import Link, going
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.tensors import Array

log = logging.getLogger("headwater.gateway")


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
        self._one_at_a_time = asyncio.Lock()

    async def encoded(self, delta: Delta, terms: Sequence[Array], assignment: Assignment) -> Delta:
        """The delta as it goes up."""
        plan, learning = assignment.plan, assignment.plan.learning
        link = Link(plan, assignment.bundle.manifest, learning.cluster_uplink, assignment.masks)
        async with self._one_at_a_time:
            memory = await self._of(plan.key.run)
            gone = await asyncio.to_thread(going, delta, terms, link, memory.at(plan.key), self._entropy())
            if gone.if_taken or gone.if_refused:
                self._memory = memory.after(plan.key, {}, gone.if_taken, gone.if_refused)
                await self._keep()
        return gone.delta

    async def refused(self, key: RoundKey) -> None:
        """The sum of a plan was not taken: all of it is left over."""
        async with self._one_at_a_time:
            # Behind a restart this may be the first word of the run; what is in hand of a later one stays.
            memory = self._memory if self._run else await self._of(key.run)
            if key.run == self._run and (after := memory.refused(key)) is not memory:
                self._memory = after
                await self._keep()

    async def _of(self, run: str) -> Memory:
        if run != self._run:
            payload = await asyncio.to_thread(self._store.left, run)
            self._run, self._memory = run, _read(run, payload)
        return self._memory

    async def _keep(self) -> None:
        payload = arrays.written(memories.written(self._memory))
        try:
            await asyncio.to_thread(self._store.keep_left, self._run, payload)
        except JournalFull as error:
            log.warning("what the last sum left out is in memory alone: %s", error)


def _read(run: str, payload: bytes | None) -> Memory:
    if payload is None:
        return Memory()
    try:
        return memories.read(run, arrays.read(payload))
    except ValueError as error:
        log.warning("what the last sum of run %s left out is lost: %s", run, error)
        return Memory()
