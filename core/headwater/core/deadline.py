"""Law: a parent waits as long as its children's past times suggest, and at most `deadline_s`.

    first time R:  mean = R, deviation = R/2
    later ones:    deviation = ¾·deviation + ¼·|mean − R|,  then mean = ⅞·mean + ⅛·R
    expected       mean + 4·deviation                     Jacobson & Karels 1988; RFC 6298, section 2

A round closes when everyone is in, so a deadline only costs where somebody is missing: it is the longest that anyone
who can still come is expected to take. Two rules keep it from feeding on itself:

- Whoever missed a deadline that was shortened is given twice that time in the next round: the missing time is a
  censored one, of which only the least is known. After a few rounds it is `deadline_s` again.
- Whoever missed the whole of `deadline_s` is not waited for in the next 2, 4, … `MAX_SPARED_ROUNDS` rounds that it
  misses, and then has the whole once more. So a dead child costs one long round in many, and one that got slow comes
  back. Its next delta within `deadline_s`, be it too late for its round, ends that at once.

A child of which nothing is known has `deadline_s`, and so has everyone while those waited for are no quorum.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from headwater.core.select import share_of
from headwater.schemas.limits import MAX_CHILDREN

SHORTEST_S: Final = 1.0
"""No deadline is shorter unless `deadline_s` is: as RFC 6298 has it for a retransmission."""

SAFETY: Final = 1.5
"""Times what is expected, for where times were steady the deviation has become nothing."""

MAX_SPARED_ROUNDS: Final = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """One child's past times, in seconds from a round's opening to the arrival of its delta.

    `mean_s` None: it never arrived. `at_least_s` is what a censored time says, 0 where the last one was seen whole.
    `failures` counts whole deadlines missed since it last arrived, `spared_rounds` those yet to miss for them.
    """

    mean_s: float | None = None
    deviation_s: float = 0.0
    at_least_s: float = 0.0
    failures: int = 0
    spared_rounds: int = 0

    @property
    def expected_s(self) -> float:
        """How long to wait for it; infinitely where nothing is known."""
        if self.mean_s is None:
            return float("inf")
        return max(SAFETY * (self.mean_s + 4 * self.deviation_s), self.at_least_s)

    @property
    def typical_s(self) -> float | None:
        """What it takes in the mean; None where nothing is known. A whole deadline missed counts as twice that, as
        four times when it was missed again, and so on, for of such a time only the least is known."""
        if not self.failures:
            return self.mean_s
        return self.at_least_s * 2.0 ** min(self.failures, MAX_SPARED_ROUNDS)


Times = Mapping[str, Pace]
"""What a parent knows of its children, `MAX_CHILDREN` at most; begin with `{}`. One for each task: an evaluation is
faster than training."""


def suggest(times: Times, cohort: Iterable[str], quorum: float, deadline_s: float) -> float:
    """How long a round of this cohort should wait: at most `deadline_s`, and at least `SHORTEST_S` if that is less.

    `quorum` is the fraction of the cohort without which the round fails.

    Raises:
        ValueError: a deadline that is not positive.
    """
    if not deadline_s > 0:
        raise ValueError(f"deadline_s: {deadline_s} leaves no time; give a positive number of seconds")
    paces = [times.get(node, Pace()) for node in cohort]
    awaited = [pace.expected_s for pace in paces if not pace.spared_rounds]
    if not awaited or len(awaited) < share_of(len(paces), quorum):
        return deadline_s
    return min(max(*awaited, SHORTEST_S), deadline_s)


def arrived(times: Times, after_s: Mapping[str, float], deadline_s: float) -> Times:
    """With the times of these deltas, also of those that came too late for their round.

    One of more than `deadline_s` is left out: that it was missed is all that it says.

    Raises:
        ValueError: a time below 0, or none.
    """
    learned = dict(times)
    for node, seconds in after_s.items():
        if not seconds >= 0:
            raise ValueError(f"after_s: {seconds} of {node} is no time; give seconds since the round opened")
        if seconds <= deadline_s and (node in learned or len(learned) < MAX_CHILDREN):
            learned[node] = _seen(learned.get(node, Pace()), seconds)
    return learned


def missed(times: Times, nodes: Iterable[str], waited_s: float, deadline_s: float) -> Times:
    """With these, whom a round still waited for when its deadline came, which was `waited_s` after it opened.

    Not those who had left, nor those who were not in when enough others were: a deadline has no part in that.
    """
    learned = dict(times)
    for node in nodes:
        if node in learned or len(learned) < MAX_CHILDREN:
            learned[node] = _censored(learned.get(node, Pace()), waited_s, deadline_s)
    return learned


def kept(times: Times, members: Iterable[str]) -> Times:
    """Without those who are no members any more."""
    return {node: times[node] for node in members if node in times}


def _seen(pace: Pace, seconds: float) -> Pace:
    if pace.mean_s is None:
        return Pace(seconds, seconds / 2)
    deviation_s = 0.75 * pace.deviation_s + 0.25 * abs(pace.mean_s - seconds)
    return Pace(0.875 * pace.mean_s + 0.125 * seconds, deviation_s)


def _censored(pace: Pace, waited_s: float, deadline_s: float) -> Pace:
    if waited_s >= deadline_s:
        failures = pace.failures + 1
        spared_rounds = min(2 ** min(failures, MAX_SPARED_ROUNDS), MAX_SPARED_ROUNDS)
        return replace(pace, at_least_s=deadline_s, failures=failures, spared_rounds=spared_rounds)
    if pace.spared_rounds:
        return replace(pace, spared_rounds=pace.spared_rounds - 1)
    return replace(pace, at_least_s=max(pace.at_least_s, 2 * waited_s))
