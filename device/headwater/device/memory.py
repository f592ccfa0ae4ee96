"""Law: what a device keeps of its runs is in hand while it works, on the disk before its delta goes out, and fits.

What the parent says of a delta decides which of a memory's futures it has (`core.local.memory`). That a delta was
refused is written down, for after a reboot it would be taken for granted that it was not.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from headwater.core.local import Memory
from headwater.core.local.method import Arrays, with_own
from headwater.device.state import LocalState
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import RoundKey
from headwater.schemas.tensors import Array

log = logging.getLogger("headwater.device")

RUNS_KNOWN: Final = 2
"""Whose memories are in hand: this run's and the last one's."""

CHOSEN: Final = "chosen"
STEPS_PER_S: Final = "steps_per_s"
"""Arrays that are no parameter's: which of the models that coexist is this device's, and how fast it trains."""

ModelArrays = tuple[Array, ...]


class Memories:
    """The memories of a device's runs."""

    def __init__(self, state: LocalState) -> None:
        self._state = state
        self._known: dict[str, Memory] = {}

    async def of(self, run: str) -> Memory:
        """The run's memory, from the disk where it is not in hand."""
        memory = self._known.pop(run, None)
        if memory is None:
            memory = await asyncio.to_thread(self._state.memory, run)
        self._hold(run, memory)
        return memory

    async def put(self, run: str, memory: Memory) -> None:
        """Keep what a round left; where that is nothing, the disk is not touched."""
        self._hold(run, memory)
        if memory.kept or memory.pending is not None:
            await asyncio.to_thread(self._state.save_memory, run, memory)

    async def refused(self, key: RoundKey) -> None:
        """The delta of a plan was not taken."""
        before = await self.of(key.run)
        after = before.refused(key)
        if after is not before:
            await self.put(key.run, after)

    def _hold(self, run: str, memory: Memory) -> None:
        self._known.pop(run, None)
        self._known[run] = memory
        while len(self._known) > RUNS_KNOWN:
            del self._known[next(iter(self._known))]


def fitting(manifest: Manifest, kept: Arrays) -> dict[str, Array]:
    """What fits the run's parameters: another shape or dtype, or what is not finite, begins anew."""
    parameters = {parameter.name: parameter for parameter in manifest.parameters}
    fit = {}
    for name, value in kept.items():
        parameter = parameters.get(name.partition(" ")[2])
        found = f"{value.dtype} {list(value.shape)}"
        if parameter is not None and not (value.shape == parameter.shape and value.dtype == np.float32):
            log.warning("%s does not fit (%s where float32 %s belongs) and begins anew", name, found, parameter.shape)
        elif not np.isfinite(value).all():
            log.warning("%s does not fit (it holds NaN or infinity) and begins anew", name)
        else:
            fit[name] = value
    return fit


def chosen_of(kept: Arrays) -> Arrays:
    """Of what is kept, only which of the models that coexist is this device's."""
    return {name: value for name, value in kept.items() if name == CHOSEN}


def in_use(manifest: Manifest, models: Sequence[ModelArrays], kept: Mapping[str, Array]) -> ModelArrays:
    """The model that this device uses: its personal one, or the received one, of several its own, with its own values
    of the personal parameters."""
    kept = fitting(manifest, kept)
    chosen = int(kept[CHOSEN]) if CHOSEN in kept else 0
    received = with_own(manifest, models[chosen if chosen < len(models) else 0], kept)
    pairs = zip(manifest.parameters, received, strict=True)
    return tuple(kept.get(f"personal {parameter.name}", value) for parameter, value in pairs)
