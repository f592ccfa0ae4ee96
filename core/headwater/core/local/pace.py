"""Law: a device trains as long as the others: as many epochs as its own measured speed allows in the time given."""

from typing import Final

RECENT: Final = 0.5
"""How much the last round counts in the measured speed."""


def epochs_within(target_s: float, steps_per_s: float | None, steps_per_epoch: int, max_epochs: int) -> int:
    """How many epochs fit into `target_s`, from 1 to `max_epochs`; 1 while the speed is not known."""
    if steps_per_s is None:
        return 1
    return max(1, min(int(target_s * steps_per_s / steps_per_epoch), max_epochs))


def measured(steps_per_s: float | None, steps: int, elapsed_s: float) -> float:
    """The speed after one more round."""
    latest = steps / max(elapsed_s, 1e-6)
    return latest if steps_per_s is None else (1 - RECENT) * steps_per_s + RECENT * latest
