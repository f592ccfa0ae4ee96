"""Law: samples become windows by one pure machine, `(state, samples, now) -> (state, outcome)`; time comes in.

Time is cut into grid points, `period_s` apart since 1970, so a restart changes no window's place. A point is settled
once, when `lag_s` has gone by: each channel has the last value that it had by then, or the window breaks off. Until a
channel has spoken there is nothing to settle.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Literal

from headwater.schemas.sources import SensorSource

MAX_PENDING: Final = 32_768
"""Samples of one channel that wait for their grid point."""

MAX_AHEAD_S: Final = 60.0
"""How far a sample's own time may be ahead of the device's."""

STRETCH_WINDOWS: Final = 8
"""Length of a stretch of time that is wholly train or test, in windows."""

STRETCHES: Final = 8
"""Stretches among which the test ones are drawn: drawn, so that no rhythm of the day's falls into one part."""

Part = Literal["train", "test"]
Dropped = Literal["late", "duplicate", "ahead", "too many", "unlabelled", "label changed", "between parts"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A channel's value at a time; the index after the last channel's is the label, whose None ends it."""

    channel: int
    at_s: float
    value: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """A row of channel values for each grid point; `at_s` is the time of the last."""

    rows: tuple[tuple[float, ...], ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class Example:
    """A window with its target, `[]` where there is none, and the part that it belongs to for ever."""

    window: Window
    target: tuple[float, ...]
    part: Part


@dataclass(frozen=True, slots=True)
class Followed:
    """What came behind a window that ended at `at_s`, where that is the target: of whichever part."""

    values: tuple[float, ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One settled grid point."""

    values: tuple[float, ...]
    label: float | None


@dataclass(frozen=True, slots=True)
class Windowing:
    """Where the machine stands: the next grid point, and what is known of each channel and of the label."""

    pending: tuple[tuple[Sample, ...], ...]
    held: tuple[Sample | None, ...]
    point: int | None = None
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    windows: tuple[Window, ...] = ()
    examples: tuple[Example, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    followed: tuple[Followed, ...] = ()


def begin(spec: SensorSource) -> Windowing:
    series = len(spec.channels) + 1
    return Windowing(pending=((),) * series, held=(None,) * series)


def step(spec: SensorSource, state: Windowing, samples: tuple[Sample, ...], now_s: float) -> tuple[Windowing, Outcome]:
    """Take samples in, then settle every grid point whose time has come."""
    state, dropped = _admitted(state, samples, now_s)
    state, outcome = _settled(spec, state, now_s)
    return state, replace(outcome, dropped=(*dropped, *outcome.dropped))


# ── samples ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _admitted(state: Windowing, samples: tuple[Sample, ...], now_s: float) -> tuple[Windowing, list[Dropped]]:
    dropped: list[Dropped] = []
    waiting: dict[int, dict[float, Sample]] = {}
    for sample in samples:
        channel = sample.channel
        known = waiting.setdefault(channel, {other.at_s: other for other in state.pending[channel]})
        held = state.held[channel]
        if sample.at_s > now_s + MAX_AHEAD_S:
            dropped.append("ahead")
        elif sample.at_s in known or (held and held.at_s == sample.at_s):
            dropped.append("duplicate")
        elif held and sample.at_s < held.at_s:
            dropped.append("late")
        else:
            known[sample.at_s] = sample
    pending = list(state.pending)
    for channel, known in waiting.items():
        ordered = sorted(known.values(), key=lambda sample: sample.at_s)
        dropped += ["too many"] * (len(ordered) - MAX_PENDING)
        pending[channel] = tuple(ordered[-MAX_PENDING:])
    return replace(state, pending=tuple(pending)), dropped


# ── grid points ─────────────────────────────────────────────────────────────────────────────────────────────────


def _settled(spec: SensorSource, state: Windowing, now_s: float) -> tuple[Windowing, Outcome]:
    channels = range(len(spec.channels))
    last = math.floor((now_s - spec.lag_s) / spec.period_s)
    point = _first_point(spec, state) if state.point is None else state.point
    if point is None or point > last:
        return replace(state, point=point), Outcome()
    pending, held, rows = list(state.pending), list(state.held), list(state.rows)
    windows: list[Window] = []
    followed: list[Followed] = []
    examples: list[Example | Dropped] = []
    while point <= last:
        at_s = point * spec.period_s
        for series in range(len(pending)):
            _take_up(pending, held, series, at_s)
        silent = [channel for channel in channels if not _speaks(held[channel], at_s, spec.gap_s)]
        if silent:
            rows.clear()
            point = min(_next_chance(spec, pending, silent, point) or last + 1, last + 1)
            continue
        rows.append(Row(tuple(held[channel].value for channel in channels), _label(spec, held[-1], at_s)))  # type: ignore[union-attr,misc]
        del rows[: -spec.span]
        windows += _windows(spec, rows, point)
        followed += _followed(spec, rows, point)
        examples += _examples(spec, rows, point)
        point += 1
    outcome = Outcome(
        tuple(windows),
        tuple(example for example in examples if isinstance(example, Example)),
        tuple(reason for reason in examples if not isinstance(reason, Example)),
        tuple(followed),
    )
    return Windowing(tuple(pending), tuple(held), point, tuple(rows)), outcome


def _first_point(spec: SensorSource, state: Windowing) -> int | None:
    firsts = [waiting[0].at_s for waiting in state.pending[:-1] if waiting]
    return math.ceil(min(firsts) / spec.period_s) if firsts else None


def _take_up(pending: list[tuple[Sample, ...]], held: list[Sample | None], series: int, at_s: float) -> None:
    """The last sample up to this time is now held; those before it were seen by no grid point."""
    waiting = pending[series]
    if not waiting or waiting[0].at_s > at_s:
        return
    taken = 1
    while taken < len(waiting) and waiting[taken].at_s <= at_s:
        taken += 1
    held[series], pending[series] = waiting[taken - 1], waiting[taken:]


def _speaks(held: Sample | None, at_s: float, gap_s: float) -> bool:
    return held is not None and at_s - held.at_s <= gap_s


def _next_chance(spec: SensorSource, pending: list[tuple[Sample, ...]], silent: list[int], point: int) -> int | None:
    """The first grid point at which all silent channels speak again, if any is known: nothing happens before it."""
    if not all(pending[channel] for channel in silent):
        return None
    return max(point + 1, math.ceil(max(pending[channel][0].at_s for channel in silent) / spec.period_s))


def _label(spec: SensorSource, held: Sample | None, at_s: float) -> float | None:
    if spec.label is None or not _speaks(held, at_s, spec.label.holds_s or math.inf):
        return None
    return held.value if held else None


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _windows(spec: SensorSource, rows: list[Row], point: int) -> list[Window]:
    if len(rows) < spec.window or (point + 1 - spec.window) % spec.step:
        return []
    return [Window(tuple(row.values for row in rows[-spec.window :]), point * spec.period_s)]


def _followed(spec: SensorSource, rows: list[Row], point: int) -> list[Followed]:
    first = _first_of_span(spec, rows, point)
    if not spec.forecast or first is None:
        return []
    return [Followed(_coming(spec, rows), (first + spec.window - 1) * spec.period_s)]


def _first_of_span(spec: SensorSource, rows: list[Row], point: int) -> int | None:
    """The first grid point of the window, and of what belongs to it, that this point completes; None where it does
    not complete any."""
    first = point + 1 - spec.span
    return None if len(rows) < spec.span or first % spec.step else first


def _examples(spec: SensorSource, rows: list[Row], point: int) -> list[Example | Dropped]:
    """The example whose last grid point this is, or why it is none."""
    first = _first_of_span(spec, rows, point)
    if first is None:
        return []
    part = part_of(spec, first, point)
    if part is None:
        return ["between parts"]
    target = _target(spec, rows)
    if isinstance(target, str):
        return [target]
    seen, at_s = rows[: spec.window], (first + spec.window - 1) * spec.period_s
    return [Example(Window(tuple(row.values for row in seen), at_s), target, part)]


def _target(spec: SensorSource, rows: list[Row]) -> tuple[float, ...] | Dropped:
    """A class must have held for the whole window; a number counts at its end."""
    if spec.forecast:
        return _coming(spec, rows)
    if spec.label is None:
        return ()
    label = rows[-1].label
    if label is None:
        return "unlabelled"
    if spec.label.is_class and any(row.label != label for row in rows):
        return "label changed"
    return (label,)


def _coming(spec: SensorSource, rows: list[Row]) -> tuple[float, ...]:
    """All of the first channel's values behind the window, then the second's."""
    following = rows[spec.window :]
    return tuple(row.values[channel] for channel in spec.forecast_channels for row in following)


def part_of(spec: SensorSource, first: int, last: int) -> Part | None:
    """The part to which the grid points first to last belong; None where they are in both."""
    length = STRETCH_WINDOWS * spec.span
    parts = {_is_test(point // length, spec.test_fraction) for point in (first, last)}
    return None if len(parts) > 1 else ("test" if parts.pop() else "train")


@lru_cache(maxsize=1024)
def _is_test(stretch: int, fraction: float) -> bool:
    """Of each group of stretches as many as the fraction owes by then, which ones being drawn by a hash."""
    group, place = divmod(stretch, STRETCHES)
    share = STRETCHES * fraction
    owed = math.floor((group + 1) * share) - math.floor(group * share)
    order = sorted(range(STRETCHES), key=lambda other: blake2b(f"{group} {other}".encode(), digest_size=8).digest())
    return place in order[:owed]
