"""Law: who lost a broker comes back at a random moment, in a window that doubles until a connection has lasted.

    wait ~ U(0, min(max_s, FIRST_WINDOW_S · 2ⁿ))      full jitter: M. Brooker, "Exponential Backoff And Jitter", 2015

The first wait is spread as well, for a broker that restarts loses all of its clients in one instant. Time and chance
come in: a `Backoff` is a value.
"""

from dataclasses import dataclass
from typing import Final

FIRST_WINDOW_S: Final = 1.0
"""A thousand clients of one broker then come back at about one in a millisecond."""

_MOST_FAILURES: Final = 32
"""Counting ends here: the window is long at its widest."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often in a row a link has failed, and so how long it may wait before it is tried again.

    A connection counts as sound when it has outlived the longest wait: a link that flaps goes on doubling, and so do
    two clients of one name, of which each ends the other's connection within `max_s`. `cut_short` counts connections
    in a row that came about and did not last.
    """

    max_s: float
    failures: int = 0
    cut_short: int = 0

    @property
    def window_s(self) -> float:
        """The wait is below this."""
        return min(self.max_s, FIRST_WINDOW_S * 2.0 ** max(0, self.failures - 1))

    def wait_s(self, chance: float) -> float:
        """How long to wait; `chance` is uniform in [0, 1)."""
        return self.window_s * chance

    def after(self, connected_for_s: float, *, taken_over: bool = False) -> "Backoff":
        """Behind a connection that lasted so long (0: none came about). One that was `taken_over` by a client of the
        same name is not fought for: the widest window follows at once."""
        if connected_for_s > self.max_s and not taken_over:
            return Backoff(self.max_s, failures=1)
        failures = _MOST_FAILURES if taken_over else min(self.failures + 1, _MOST_FAILURES)
        return Backoff(self.max_s, failures, min(self.cut_short + (connected_for_s > 0), _MOST_FAILURES))
