"""Law: a node follows its first parent while that can be heard, and the second while it cannot.

    first ──── not heard for `after_s`, or its broker cannot be used ───► second
      ▲                                                                     │
      └──── heard over `return_after_s` without a gap, or the second's ─────┘
            broker cannot be used

A gap is a silence in which `SILENCES` signs of life in a row would be lost, the same measure by which a parent judges
its children. Between two such changes of mind pass at least `after_s` and `return_after_s` together, so that a parent
that comes and goes does not make its children do the same.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from headwater.core.members import SILENCES
from headwater.schemas.settings import FallbackSettings

Place = Literal["first", "second"]
_OTHER: Final[dict[Place, Place]] = {"first": "second", "second": "first"}


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Heard:
    """A word of the first parent. Only a sign of life tells `every_s`."""

    every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """The broker of the parent that is followed refuses this node, or was never reached."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = Heard | Unusable | Tick


# ── the place ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Following:
    """Which parent is followed, `since` when. Times are of the listener's clock.

    `heard_at` is of the first parent's last word since then, `heard_since` of the first one after the last gap, None
    where there was none. `every_s` is how often the first parent last said to give a sign of life.
    """

    place: Place
    since: float
    heard_at: float | None = None
    heard_since: float | None = None
    every_s: float | None = None

    def silent_at(self, rule: FallbackSettings) -> float:
        """When the first parent counts as silent if nothing more is heard of it.

        One that speaks more seldom than `after_s` allows is given the time of its own signs of life.
        """
        last = self.since if self.heard_at is None else self.heard_at
        return last + max(rule.after_s, SILENCES * (self.every_s or 0.0))


def begin(now: float) -> Following:
    """A node begins with its first parent."""
    return Following("first", now)


def step(following: Following, event: Event, rule: FallbackSettings, now: float) -> Following:
    """Which parent is followed after this event. A new `since` means that it is another one."""
    match event:
        case Heard(every_s):
            return _heard(following, every_s, rule, now)
        case Unusable():
            return _changed(following, now)
        case Tick() if following.place == "first" and now >= following.silent_at(rule):
            return _changed(following, now)
    return following


def _heard(following: Following, every_s: float | None, rule: FallbackSettings, now: float) -> Following:
    every_s = following.every_s if every_s is None else every_s
    gap_s = rule.after_s if every_s is None else SILENCES * every_s
    last, since = following.heard_at, following.heard_since
    if last is None or since is None or now - last > gap_s:
        since = now
    after = replace(following, heard_at=now, heard_since=since, every_s=every_s)
    returns = following.place == "second" and now - since >= rule.return_after_s
    return _changed(after, now) if returns else after


def _changed(following: Following, now: float) -> Following:
    return Following(_OTHER[following.place], now, every_s=following.every_s)
