"""Law: what a device keeps of a run has three futures until the parent has answered: its delta was taken, it was not,
or the plan begins again.

Control variates and residuals of error feedback speak of what the fleet has; so they follow the delta. Who hears
nothing assumes that it was taken: a quick round closes without a receipt, and who was late hears a refusal. Another
attempt at the same round, or the same one after a reboot, makes its delta anew: it begins with what the last one began
with, for with what that left over it would count twice.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from headwater.core.local.method import Arrays
from headwater.schemas.messages import RoundKey
from headwater.schemas.tensors import Array

_IF_TAKEN: Final = "if taken: "
_IF_REFUSED: Final = "if refused: "
_PENDING: Final = "pending"


@dataclass(frozen=True, slots=True)
class Memory:
    """Named arrays. `if_taken` are those that are otherwise once the delta of the plan `pending` is taken, which it is
    where nothing is heard; `if_refused` those that are otherwise once it is not."""

    kept: Arrays = field(default_factory=dict)
    pending: RoundKey | None = None
    if_taken: Arrays = field(default_factory=dict)
    if_refused: Arrays = field(default_factory=dict)

    def at(self, key: RoundKey) -> Arrays:
        """What there is as the plan `key` begins."""
        last = self.pending
        is_tried_again = last is not None and (last.round, last.step) == (key.round, key.step)
        return self.kept if is_tried_again else {**self.kept, **self.if_taken}

    def refused(self, key: RoundKey) -> "Memory":
        """The delta was not taken. What is said of another plan than the last changes nothing any more."""
        return replace(self, if_taken=self.if_refused) if key == self.pending else self

    def after(self, key: RoundKey, kept: Arrays, if_taken: Arrays, if_refused: Arrays | None = None) -> "Memory":
        """The memory behind the plan `key`."""
        pending = key if if_taken or if_refused else None
        return Memory({**self.at(key), **kept}, pending, if_taken, if_refused or {})


def written(memory: Memory) -> dict[str, Array]:
    """All of it as named arrays, for a disk."""
    futures = ("", memory.kept), (_IF_TAKEN, memory.if_taken), (_IF_REFUSED, memory.if_refused)
    named = {f"{mark}{name}": value for mark, of_it in futures for name, value in of_it.items()}
    if memory.pending is not None:
        named[_PENDING] = np.array([memory.pending.round, memory.pending.step, memory.pending.attempt])
    return named


def read(run: str, named: Arrays) -> Memory:
    """What was written of a run."""
    kept = {n: v for n, v in named.items() if n != _PENDING and not n.startswith((_IF_TAKEN, _IF_REFUSED))}
    if _PENDING not in named:
        return Memory(kept)
    round_, step, attempt = (int(value) for value in named[_PENDING])
    key = RoundKey(run=run, round=round_, step=step, attempt=attempt)
    return Memory(kept, key, _marked(named, _IF_TAKEN), _marked(named, _IF_REFUSED))


def _marked(named: Arrays, mark: str) -> dict[str, Array]:
    return {name.removeprefix(mark): value for name, value in named.items() if name.startswith(mark)}
