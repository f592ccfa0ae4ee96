"""Law: what a device keeps of a run has three futures until the parent has answered: its delta was taken, it was not,
or the plan begins again.

Control variates and residuals of error feedback speak of what the fleet has; so they follow the delta. Who hears
nothing assumes that it was taken: a quick round closes without a receipt, and who was late hears a refusal. Another
attempt at the same round, or the same one after a reboot, makes its delta anew: it begins with what the last one began
with, for with what that left over it would count twice.
"""

from dataclasses import dataclass, field, replace

from headwater.core.local.method import Arrays
from headwater.schemas.messages import RoundKey


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
