"""Law: every second of a round is told once: a child worked, something was on its way, or it waited for others.

    work + way + wait of each child = the time from the round's opening to its close

so the means over children make it too. What waited or worked in a cluster below counts as that, not as the way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from headwater.schemas.statuses import Times


@dataclass(frozen=True, slots=True)
class Spent:
    """One child's part of a round: its delta was in `after_s` behind the opening, and the mean device below it worked
    for `train_s` and waited for `wait_s`, as that delta says."""

    after_s: float
    train_s: float
    wait_s: float = 0.0


def times(elapsed_s: float, children: Iterable[Spent]) -> Times | None:
    """How the mean child spent a round of `elapsed_s` seconds; None where none said how long it worked.

    A delta of an earlier round, or one that a journal kept, was worked on for longer than this round has been open:
    only what fits into the round counts.
    """
    spent = [_within(child, elapsed_s) for child in children]
    if not spent:
        return None
    train_s, wait_s = fmean(child.train_s for child in spent), fmean(child.wait_s for child in spent)
    after_s = fmean(child.after_s for child in spent)
    return Times(
        train_s=train_s,
        # The last bit of a difference may be below nothing.
        transfer_s=max(0.0, after_s - train_s - wait_s),
        wait_s=elapsed_s - after_s + wait_s,
    )


def _within(child: Spent, elapsed_s: float) -> Spent:
    after_s = min(max(child.after_s, 0.0), elapsed_s)
    train_s = min(max(child.train_s, 0.0), after_s)
    return Spent(after_s, train_s, min(max(child.wait_s, 0.0), after_s - train_s))
