"""Law: what a device keeps of a run has two futures until the parent has answered: its delta was taken, or it was not.

Control variates and residuals of error feedback speak of what the fleet has; so they follow the delta. Who hears
nothing assumes that it was taken: a quick round closes without a receipt, and who was late hears a refusal. Another
attempt at the same round says that the last one came to nothing.
"""

from dataclasses import dataclass, field, replace

from headwater.core.local.method import Arrays
from headwater.schemas.messages import RoundKey


@dataclass(frozen=True, slots=True)
class Memory:
    """Named arrays. `if_taken` are those that are otherwise once the delta of the plan `pending` is taken."""

    kept: Arrays = field(default_factory=dict)
    pending: RoundKey | None = None
    if_taken: Arrays = field(default_factory=dict)

    def at(self, key: RoundKey) -> Arrays:
        """What there is as the plan `key` begins."""
        last = self.pending
        is_tried_again = last is not None and (last.round, last.step) == (key.round, key.step)
        return self.kept if is_tried_again else {**self.kept, **self.if_taken}

    def refused(self, key: RoundKey) -> "Memory":
        """The delta was not taken. What is said of another plan than the last changes nothing any more."""
        return Memory(self.kept) if key == self.pending else self

    def after(self, key: RoundKey, kept: Arrays, if_taken: Arrays) -> "Memory":
        """The memory behind the plan `key`."""
        return replace(self, kept={**self.at(key), **kept}, pending=key if if_taken else None, if_taken=if_taken)
