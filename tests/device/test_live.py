"""Live data, the pure part: payloads, windows and the store against independent models; nothing here has a broker."""

import itertools
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.device.sources import DataMismatch, fits, open_sources
from headwater.device.sources.live import sensors, windowing
from headwater.device.sources.live.examples import features, form_of
from headwater.device.sources.live.listening import listeners
from headwater.device.sources.live.payload import (
    MAX_NESTING,
    MAX_PAYLOAD_SIZE_BYTES,
    Unreadable,
    document,
    numbers,
    sampled_at,
    target,
)
from headwater.device.sources.live.sensors import LiveSource
from headwater.device.sources.live.store import Bounds, Counts, Store, bounds_of, slot_of
from headwater.device.sources.live.windowing import Example, Sample, Window, begin, part_of, step
from headwater.schemas.config import Invalid, resolve
from headwater.schemas.errors import ConfigError, DataError
from headwater.schemas.manifest import Example as ExampleForm
from headwater.schemas.manifest import Manifest, Parameter
from headwater.schemas.settings import BrokerSettings, DeviceSettings
from headwater.schemas.sources import Channel, Label, SensorSource
from headwater.schemas.statuses import DataStatus


def source(**changes: Any) -> SensorSource:
    base = {
        "kind": "mqtt",
        "channels": ({"topic": "s/x", "name": "x"}, {"topic": "s/y", "name": "y"}),
        "window": 4,
        "stride": 2,
    }
    return SensorSource.model_validate(base | changes)


def channel(**changes: Any) -> Channel:
    return Channel.model_validate({"topic": "t", "name": "c"} | changes)


def label(**changes: Any) -> Label:
    return Label.model_validate({"topic": "t"} | changes)


# ── payloads ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("payload", "changes", "expected"),
    [
        (b"3.5", {}, (3.5,)),
        (b'{"x": 3}', {"path": "$.x"}, (3.0,)),
        (b'{"a": {"b-c d": [1, {"z": -2}]}}', {"path": "$.a.b-c d[1].z"}, (-2.0,)),
        (b'{"x": "21.5"}', {"path": "$.x"}, (21.5,)),
        (b'{"contact": true}', {"path": "$.contact"}, (1.0,)),
        (b'{"state": "OFF"}', {"path": "$.state", "values": {"ON": 1.0, "OFF": 0.0}}, (0.0,)),
        (b" -7.25\n", {"format": "text"}, (-7.25,)),
        (b"ON", {"format": "text", "values": {"ON": 1.0}}, (1.0,)),
        (b"[1, 2, 3]", {}, (1.0, 2.0, 3.0)),
        (b"[]", {}, ()),
        (msgpack.packb({"x": [0.5, 2]}), {"format": "msgpack", "path": "$.x[1]"}, (2.0,)),
        (msgpack.packb(4), {"format": "msgpack"}, (4.0,)),
    ],
)
def test_a_payload_becomes_numbers(payload: bytes, changes: dict[str, Any], expected: tuple[float, ...]) -> None:
    spec = channel(**changes)
    assert numbers(document(payload, spec), spec) == expected


@pytest.mark.parametrize(
    ("payload", "changes", "reason"),
    [
        (b"x" * (MAX_PAYLOAD_SIZE_BYTES + 1), {}, "oversized"),
        (b"[" + b"1," * 20_000 + b"1]", {}, "oversized"),
        (b"[" * 60_000, {}, "nested too deeply"),
        (b'{"a":' * (MAX_NESTING + 1) + b"1" + b"}" * (MAX_NESTING + 1), {}, "nested too deeply"),
        (msgpack.packb([[]]).replace(b"\x90", b"\x91" * 60 + b"\x90"), {"format": "msgpack"}, "nested too deeply"),
        (b"\x91" * 5000 + b"\x90", {"format": "msgpack"}, "nested too deeply"),
        (b"", {}, "malformed"),
        (b"{", {}, "malformed"),
        (b"\xff\xfe\x00", {}, "malformed"),
        (b"\xff", {"format": "text"}, "malformed"),
        (b"9" * 5000, {}, "malformed"),
        (b"\xc1", {"format": "msgpack"}, "malformed"),
        (msgpack.packb({1: 2}), {"format": "msgpack"}, "malformed"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), {"format": "msgpack"}, "malformed"),
        (b'{"y": 1}', {"path": "$.x"}, "not there"),
        (b"[1]", {"path": "$[1]"}, "not there"),
        (b"[1]", {"path": "$.x"}, "not there"),
        (b'{"0": 1}', {"path": "$[0]"}, "not there"),
        (b'"x"', {"path": "$[0]"}, "not there"),
        (b"null", {}, "no number"),
        (b'"warm"', {}, "no number"),
        (b'"1_0"', {}, "no number"),
        (b"{}", {}, "no number"),
        (b"[[1]]", {}, "no number"),
        (msgpack.packb(b"1"), {"format": "msgpack"}, "no number"),
        (b"NaN", {}, "not finite"),
        (b"1e999", {}, "not finite"),
        (b"-1e39", {}, "not finite"),
        (b"1" + b"0" * 400, {}, "not finite"),
        (b"nan", {"format": "text"}, "not finite"),
        (b"[1, Infinity]", {}, "not finite"),
        (b'"X"', {"values": {"X": 1e300}}, "not finite"),
    ],
)
def test_a_payload_without_a_number_has_a_reason(payload: bytes, changes: dict[str, Any], reason: str) -> None:
    spec = channel(**changes)
    with pytest.raises(Unreadable) as caught:
        numbers(document(payload, spec), spec)
    assert caught.value.reason == reason


@given(st.binary(max_size=200) | st.text('[]{}":,0123456789eE+-.truefalsn\\ ', max_size=60).map(str.encode))
@settings(max_examples=300)
def test_whatever_bytes_come_there_are_finite_numbers_or_a_reason(payload: bytes) -> None:
    for form in ("json", "msgpack", "text"):
        for spec in (channel(format=form), channel(format=form, path="$" if form == "text" else "$.a[0]")):
            try:
                found = numbers(document(payload, spec), spec)
            except Unreadable:
                continue
            assert np.isfinite(np.array(found, dtype=np.float32)).all()


@pytest.mark.parametrize(
    ("payload", "changes", "expected"),
    [
        (b'"worn"', {"labels": ("ok", "worn")}, 1.0),
        (b"ok\n", {"labels": ("ok", "worn"), "format": "text"}, 0.0),
        (b"true", {"labels": ("false", "true")}, 1.0),
        (b"3.0", {"labels": ("2", "3")}, 1.0),
        (b"2", {"classes": 3}, 2.0),
        (b'"2"', {"classes": 3}, 2.0),
        (b'{"rul": 17.5}', {"path": "$.rul"}, 17.5),
        (b'"broken"', {"labels": ("ok", "worn")}, "no known label"),
        (b"null", {"labels": ("ok", "worn")}, "no known label"),
        (b"3", {"classes": 3}, "no known label"),
        (b"-1", {"classes": 3}, "no known label"),
        (b"0.5", {"classes": 3}, "no known label"),
        (b"NaN", {"classes": 3}, "not finite"),
        (b"[1]", {}, "no number"),
    ],
)
def test_a_label_is_a_class_a_number_or_a_reason(
    payload: bytes, changes: dict[str, Any], expected: float | str
) -> None:
    spec = label(**changes)
    try:
        found: float | str = target(document(payload, spec), spec)
    except Unreadable as error:
        found = error.reason
    assert found == expected


@pytest.mark.parametrize(("at", "expected"), [("1700000000.5", 1700000000.5), ("1700000000500", 1700000000.5)])
def test_a_samples_own_time_may_be_in_milliseconds(at: str, expected: float) -> None:
    spec = channel(path="$.x", time="$.t")
    assert sampled_at(json.loads(f'{{"x": 1, "t": {at}}}'), spec) == expected
    for bad in ('{"x": 1}', '{"t": "noon"}', '{"t": NaN}', '{"t": true}'):
        with pytest.raises(Unreadable):
            sampled_at(json.loads(bad), spec)


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────────


def fed(spec: SensorSource, events: list[tuple[float, tuple[Sample, ...]]]) -> windowing.Outcome:
    """All that the machine gave for (now, samples)."""
    state, all_of = begin(spec), windowing.Outcome()
    for now_s, samples in events:
        state, outcome = step(spec, state, samples, now_s)
        assert len(state.rows) <= spec.span
        all_of = windowing.Outcome(
            all_of.windows + outcome.windows,
            all_of.examples + outcome.examples,
            all_of.dropped + outcome.dropped,
            all_of.followed + outcome.followed,
        )
    return all_of


def expected_windows(spec: SensorSource, samples: list[Sample], now_s: float) -> list[tuple[int, Any, float | None]]:
    """An independent model: each grid point on its own, each window on its own: (first point, rows, label)."""

    def at(series: int, point: int, hold_s: float) -> float | None:
        known = [s for s in samples if s.channel == series and s.at_s <= point * spec.period_s]
        last = max(known, key=lambda s: s.at_s, default=None)
        return last.value if last and point * spec.period_s - last.at_s <= hold_s else None

    count = len(spec.channels)
    last = math.floor((now_s - spec.lag_s) / spec.period_s)
    found = []
    for first in range(last - spec.window + 2):
        if first % spec.step:
            continue
        points = range(first, first + spec.window)
        rows = [tuple(at(c, point, spec.gap_s) for c in range(count)) for point in points]
        labels = {at(count, point, math.inf) for point in points}
        if not any(value is None for row in rows for value in row):
            found.append((first, tuple(rows), labels.pop() if len(labels) == 1 else None))
    return found


quarters = st.integers(0, 120).map(lambda quarter: quarter / 4)


@st.composite
def streams(draw: st.DrawFn) -> list[Sample]:
    """Samples of two channels and a label (index 2), no two of one series at one time."""
    places = draw(st.lists(st.tuples(st.integers(0, 2), quarters), unique=True, max_size=60))
    return [Sample(series, at_s, float(draw(st.integers(0, 2)))) for series, at_s in places]


@st.composite
def shapes(draw: st.DrawFn) -> SensorSource:
    return source(
        window=draw(st.integers(1, 5)),
        stride=draw(st.integers(1, 5)),
        period_s=draw(st.sampled_from([0.5, 1.0])),
        max_gap_s=draw(st.sampled_from([0.25, 1.0, 4.0])),
        label={"topic": "l", "classes": 3},
        lag_s=draw(st.sampled_from([0.0, 2.0])),
        test_fraction=draw(st.sampled_from([0.0, 0.25, 0.5])),
    )


@given(shapes(), streams(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_windows_are_those_of_the_independent_model_however_samples_come(
    spec: SensorSource, samples: list[Sample], rng: random.Random
) -> None:
    """Each sample comes late by up to `lag_s`, in an order of its own; ticks lie between."""
    arrivals = [(sample.at_s + rng.choice([0.0, spec.lag_s / 2, spec.lag_s]), sample) for sample in samples]
    events = [(at_s, (sample,)) for at_s, sample in arrivals] + [(rng.uniform(0, 35), ()) for _ in range(10)]
    # At one moment samples come first: a tick there would have settled the point without them.
    events.sort(key=lambda event: (event[0], not event[1]))
    merged: dict[float, tuple[Sample, ...]] = {}
    for at_s, some in events:
        merged[at_s] = merged.get(at_s, ()) + some
    outcome = fed(spec, [*merged.items(), (40.0, ())])
    expected = expected_windows(spec, samples, 40.0)
    ends = [round(w.at_s / spec.period_s) for w in outcome.windows]
    assert [(end + 1 - spec.window, w.rows) for end, w in zip(ends, outcome.windows, strict=True)] == [
        (first, rows) for first, rows, _ in expected
    ]
    learned = [(e.window.rows, e.target, e.part) for e in outcome.examples]
    assert learned == [
        (rows, (of,), part_of(spec, first, first + spec.window - 1))
        for first, rows, of in expected
        if of is not None and part_of(spec, first, first + spec.window - 1)
    ]


def ramp(spec: SensorSource, series: tuple[int, ...], seconds: int, begin_s: int = 0) -> list[Any]:
    return [
        (float(at), tuple(Sample(s, float(at), float(at if s == 0 else -at)) for s in series))
        for at in range(begin_s, begin_s + seconds)
    ]


def test_a_missing_channel_waits_and_a_silent_one_breaks_the_window() -> None:
    spec = source(max_gap_s=2.0)
    assert fed(spec, ramp(spec, (0,), 50)).windows == ()
    late = fed(spec, ramp(spec, (0,), 10) + ramp(spec, (0, 1), 10, 10))
    assert late.windows[0].rows == ((10.0, -10.0), (11.0, -11.0), (12.0, -12.0), (13.0, -13.0))
    gap = fed(spec, ramp(spec, (0, 1), 10) + ramp(spec, (0,), 10, 10) + ramp(spec, (0, 1), 10, 20))
    spanned = [w for w in gap.windows if w.at_s >= 12 and w.at_s < 23]
    assert spanned == []
    assert gap.windows[-1].at_s == 29


def test_a_long_silence_costs_no_more_than_a_short_one() -> None:
    spec = source(period_s=0.001, max_gap_s=1.0)
    events = [(0.0, (Sample(0, 0.0, 1.0), Sample(1, 0.0, 1.0))), (1e9, ()), (1e9 + 1, (Sample(0, 1e9 + 1, 1.0),))]
    assert len(fed(spec, events).windows) < 1000


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample(0, 5.0, 9.0), "duplicate"),
        (Sample(0, 3.0, 9.0), "late"),
        (Sample(0, 5.0 + windowing.MAX_AHEAD_S + 1, 9.0), "ahead"),
    ],
)
def test_a_sample_out_of_its_time_is_counted_and_changes_nothing(sample: Sample, reason: str) -> None:
    spec = source()
    before = ramp(spec, (0, 1), 6)
    outcome = fed(spec, [*before, (5.0, (sample,)), *ramp(spec, (0, 1), 6, 6)])
    assert outcome.dropped[0] == reason
    assert outcome.windows == fed(spec, [*before, *ramp(spec, (0, 1), 6, 6)]).windows


def test_what_waits_is_bounded() -> None:
    spec = source(lag_s=1000.0)
    many = tuple(Sample(0, i / 100, 0.0) for i in range(windowing.MAX_PENDING + 5))
    state, outcome = step(spec, begin(spec), many, 500.0)
    assert len(state.pending[0]) == windowing.MAX_PENDING
    assert outcome.dropped == ("too many",) * 5


def test_a_label_that_ends_or_changes_teaches_nothing() -> None:
    spec = source(label={"topic": "l", "classes": 3, "holds_s": 5.0}, test_fraction=0.0)
    events = ramp(spec, (0, 1), 40)
    for at, value in ((10, 1.0), (20, 2.0), (24, None)):
        events[at] = (events[at][0], (*events[at][1], Sample(2, float(at), value)))
    outcome = fed(spec, events)
    assert [(e.window.at_s, e.target) for e in outcome.examples] == [(13.0, (1.0,)), (15.0, (1.0,)), (23.0, (2.0,))]
    assert set(outcome.dropped) == {"unlabelled", "label changed"}


def test_a_number_as_a_label_counts_at_the_windows_end() -> None:
    spec = source(label={"topic": "l"}, test_fraction=0.0, window=2, stride=2)
    events = [(float(at), tuple(Sample(s, float(at), float(at)) for s in range(3))) for at in range(6)]
    assert [e.target for e in fed(spec, events).examples] == [(1.0,), (3.0,), (5.0,)]


def test_a_forecast_is_what_comes_next_and_windows_do_not_wait_for_it() -> None:
    spec = source(forecast={"channels": ("y",), "steps": 2}, test_fraction=0.0, window=3, stride=3)
    outcome = fed(spec, ramp(spec, (0, 1), 8))
    assert [w.at_s for w in outcome.windows] == [2.0, 5.0]
    assert [(e.window.at_s, e.target) for e in outcome.examples] == [(2.0, (-3.0, -4.0)), (5.0, (-6.0, -7.0))]
    assert [(f.at_s, f.values) for f in outcome.followed] == [(2.0, (-3.0, -4.0)), (5.0, (-6.0, -7.0))]
    both = fed(source(forecast={}, test_fraction=0.0), ramp(spec, (0, 1), 5))
    assert [e.target for e in both.examples] == [(4.0, -4.0)]
    assert fed(source(), ramp(spec, (0, 1), 8)).followed == ()


def test_what_follows_a_window_is_told_in_whichever_part_it_lies() -> None:
    spec = source(forecast={}, test_fraction=0.5, window=1, stride=1)
    outcome = fed(spec, ramp(spec, (0, 1), 40))
    assert "between parts" in outcome.dropped
    assert {e.part for e in outcome.examples} == {"train", "test"}
    assert [f.at_s for f in outcome.followed] == [float(at) for at in range(39)]


@given(st.floats(0, 0.95), st.integers(0, 10**9), st.integers(1, 40), st.integers(1, 8))
def test_no_grid_point_is_in_both_parts_and_the_fraction_is_kept(
    fraction: float, origin: int, window: int, stride: int
) -> None:
    spec = source(window=window, stride=stride, test_fraction=fraction)
    length = windowing.STRETCH_WINDOWS * window
    parts: dict[int, set[str]] = {}
    for first in range(origin, origin + 4 * length, stride):
        part = part_of(spec, first, first + window - 1)
        for point in range(first, first + window):
            parts.setdefault(point, set()).update({part} if part else set())
    assert all(len(found) <= 1 for found in parts.values())
    stretches = range(origin // length, origin // length + 400)
    tested = sum(windowing._is_test(stretch, fraction) for stretch in stretches)
    assert abs(tested / 400 - fraction) < 0.05


def test_examples_are_laid_out_as_models_take_them() -> None:
    window = Window(((1.0, 10.0), (2.0, 20.0), (3.0, 30.0)), 0.0)
    assert features(window, form_of(source(window=3))).tolist() == [[1, 2, 3], [10, 20, 30]]
    assert features(window, form_of(source(window=3, layout="flat"))).tolist() == [1, 2, 3, 10, 20, 30]
    assert form_of(source(window=1, layout="flat")).x_shape == (2,)
    assert form_of(source(window=1)).x_shape == (2, 1)
    time_first = form_of(source(window=3, layout="time_first"))
    assert features(window, time_first).tolist() == [[1, 10], [2, 20], [3, 30]]
    assert time_first.x_shape == (3, 2)


@pytest.mark.parametrize(
    ("changes", "y_shape", "dtype"),
    [
        ({}, (0,), "float32"),
        ({"label": {"topic": "l", "classes": 3}}, (), "int64"),
        ({"label": {"topic": "l"}}, (1,), "float32"),
        ({"forecast": {"steps": 3}}, (6,), "float32"),
    ],
)
def test_the_target_has_the_shape_that_models_take(
    changes: dict[str, Any], y_shape: tuple[int, ...], dtype: str
) -> None:
    form = form_of(source(**changes))
    assert (form.y_shape, form.y_dtype) == (y_shape, dtype)


# ── the store ───────────────────────────────────────────────────────────────────────────────────────────────────

SHAPE = source(window=1, layout="flat", label={"topic": "l", "classes": 100_000})


def example(number: int, part: windowing.Part = "train") -> Example:
    return Example(Window(((float(number), float(-number)),), float(number)), (float(number % 100_000),), part)


def opened(path: Path, bounds: Bounds, spec: SensorSource = SHAPE, seed: int = 0) -> Store:
    return Store(path, form_of(spec), bounds, random.Random(seed))


@given(
    st.lists(st.lists(st.sampled_from(["train", "test"]), max_size=8), max_size=12),
    st.integers(1, 9),
    st.integers(0, 5),
    st.sampled_from(["newest", "reservoir"]),
    st.lists(st.integers(0, 11), max_size=3),
)
@settings(max_examples=60)
def test_a_store_keeps_its_bound_and_its_parts_whatever_is_put(
    tmp_path_factory: pytest.TempPathFactory, batches: Any, train: int, test: int, keep: Any, restarts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("store") / "s.db"
    bounds, given_to = Bounds(train, test, keep), {"train": [], "test": []}  # type: ignore[var-annotated]
    store, number = opened(path, bounds), 0
    for place, batch in enumerate(batches):
        examples = [example(number + i, part) for i, part in enumerate(batch)]
        number += len(batch)
        store.put(examples)
        for one in examples:
            given_to[one.part].append(one.target[0])
        if place in restarts:
            store.close()
            store = opened(path, bounds)
        data = store.snapshot()
        for part, x, y in (("train", data.train_x, data.train_y), ("test", data.test_x, data.test_y)):
            bound = bounds.of(part)  # type: ignore[arg-type]
            assert len(x) == len(y) == min(bound, len(given_to[part]))
            assert list(x[:, 0]) == list(y) == sorted(y)
            assert set(y) <= set(given_to[part])
            if keep == "newest":
                assert list(y) == given_to[part][len(given_to[part]) - len(y) :]
        assert store.counts() == Counts(len(data.train_x), len(data.test_x))
    store.close()


def test_a_reservoir_is_uniform_over_all_that_ever_were() -> None:
    """Each of 50 is in a reservoir of 10 in a fifth of 4,000 trials, within 5 standard deviations."""
    rng, counts, trials = random.Random(7), np.zeros(50), 4000
    for _ in range(trials):
        slots: dict[int, int] = {}
        for seen in range(50):
            slot = slot_of(seen, 10, "reservoir", rng)
            if slot is not None:
                slots[slot] = seen
        counts[list(slots.values())] += 1
    deviation = math.sqrt(trials * 0.2 * 0.8)
    assert np.abs(counts - trials * 0.2).max() < 5 * deviation
    assert counts.sum() == trials * 10


def test_a_store_is_the_same_after_a_restart_and_counts_on(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db", Bounds(4, 2, "newest"))
    store.put([example(i, "test" if i % 3 == 2 else "train") for i in range(7)])
    before = store.snapshot()
    store.close()
    store = opened(tmp_path / "s.db", Bounds(4, 2, "newest"))
    np.testing.assert_equal(store.snapshot().train_x, before.train_x)
    store.put([example(100)])
    assert store.snapshot().train_y.tolist() == [3, 4, 6, 100]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(3, 1, "newest"), ([5, 6, 7], [107])),
        (Bounds(20, 9, "newest"), (list(range(8)), list(range(100, 108)))),
    ],
)
def test_other_bounds_keep_what_they_admit(tmp_path: Path, bounds: Bounds, expected: Any) -> None:
    store = opened(tmp_path / "s.db", Bounds(8, 8, "newest"))
    store.put([example(i) for i in range(8)] + [example(i, "test") for i in range(100, 108)])
    store.close()
    store = opened(tmp_path / "s.db", bounds)
    data = store.snapshot()
    assert (data.train_y.tolist(), data.test_y.tolist()) == expected
    store.put([example(50)])
    assert store.snapshot().train_y.tolist() == [*expected[0], 50][-bounds.train :]
    store.close()
    store = opened(tmp_path / "s.db", Bounds(2, 2, "reservoir"))
    assert store.counts() == Counts(2, min(2, len(expected[1])))


def test_a_failed_put_keeps_nothing_of_it(tmp_path: Path) -> None:
    store = opened(tmp_path / "s.db", Bounds(8, 8, "newest"))
    store.put([example(1)])
    with pytest.raises(ValueError, match="cannot reshape"):
        store.put([example(2), Example(Window(((1.0,),), 0.0), (1.0,), "train")])
    assert store.snapshot().train_y.tolist() == [1]
    store.put([example(3)])
    assert store.snapshot().train_y.tolist() == [1, 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": ({"topic": "a", "name": "x"},)},
        {"channels": ({"topic": "a", "name": "x"}, {"topic": "b", "name": "z"})},
        {"label": {"topic": "l", "labels": ("ok", "worn")}},
        {"period_s": 2.0},
        {"layout": "time_first"},
    ],
)
def test_another_description_begins_anew_and_the_old_examples_are_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any]
) -> None:
    store = opened(tmp_path / "s.db", Bounds(8, 8, "newest"))
    store.put([example(1)])
    store.close()
    other = SHAPE.model_validate(SHAPE.model_dump() | changes)
    store = opened(tmp_path / "s.db", Bounds(8, 8, "newest"), other)
    assert store.counts() == Counts(0, 0)
    store.close()
    assert "was set aside as" in caplog.text
    assert opened(tmp_path / "s.db.old", Bounds(8, 8, "newest")).snapshot().train_y.tolist() == [1]


def test_another_topic_or_stride_is_the_same_data_set(tmp_path: Path) -> None:
    other = SHAPE.model_copy(
        update={"stride": 3, "channels": (channel(topic="q", name="x"), channel(topic="r", name="y"))}
    )
    assert form_of(other) == form_of(SHAPE)


def test_a_damaged_file_is_set_aside_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "s.db").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    store = opened(tmp_path / "s.db", Bounds(8, 8, "newest"))
    store.put([example(1)])
    assert store.counts() == Counts(1, 0)
    assert "is no sound store" in caplog.text
    assert (tmp_path / "s.db.damaged").exists()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="give the store a writable place"):
        opened(tmp_path / "file" / "s.db", Bounds(8, 8, "newest"))


@pytest.mark.parametrize("window", [1, 64, 600])
def test_the_file_stays_below_its_size(tmp_path: Path, window: int) -> None:
    spec = source(window=window, max_size_bytes=256 * 1024, max_examples=1_000_000)
    form = form_of(spec)
    bounds = bounds_of(spec, form)
    store = opened(tmp_path / "s.db", bounds, spec)
    one = Example(Window(((1.5, 2.5),) * window, 0.0), (), "train")
    for _ in range(0, 2 * (bounds.train + bounds.test), 64):
        store.put([one] * 48 + [Example(one.window, (), "test")] * 16)
    assert store.counts() == Counts(bounds.train, bounds.test)
    assert (tmp_path / "s.db").stat().st_size <= 256 * 1024 + 32 * 1024
    assert (tmp_path / "s.db-wal").stat().st_size <= 2 * 1024 * 1024


def test_bounds_that_hold_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="hold no two examples"):
        bounds_of(*(lambda spec: (spec, form_of(spec)))(source(window=60_000, max_size_bytes=64 * 1024)))
    spec = source(max_examples=10, test_fraction=0.01)
    assert bounds_of(spec, form_of(spec)) == Bounds(9, 1, "newest")


WRITER = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_live import SHAPE, Bounds, Store, example, form_of
store = Store(Path(sys.argv[1]), form_of(SHAPE), Bounds(300, 100, "newest"), random.Random())
number = 0
while True:
    store.put([example(number + i, "test" if i % 4 == 3 else "train") for i in range(8)])
    number += 8
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_put(tmp_path: Path) -> None:
    for after in (3, 40, 90):
        command = [sys.executable, "-c", WRITER, str(tmp_path / f"{after}.db"), str(Path(__file__).parent)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        put = 0
        for _ in range(after):
            put = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        put = max([put, *(int(line) for line in writer.communicate()[0].split())])
        data = opened(tmp_path / f"{after}.db", Bounds(300, 100, "newest")).snapshot()
        np.testing.assert_equal(data.train_x[:, 0], data.train_y)
        np.testing.assert_equal(data.train_x[:, 0], -data.train_x[:, 1])
        assert data.train_y[-1] >= put - 2
        assert np.diff(data.train_y).max() <= 2
        assert np.diff(data.train_y).min() >= 1
        assert set(data.train_y % 4) <= {0, 1, 2}
        assert set(data.test_y % 4) == {3}


# ── the shell ───────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    def __init__(self, at_s: float = 1_000_000.0) -> None:
        self.at_s = at_s

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def sensed(live: LiveSource, clock: Clock, seconds: int, **payload: Any) -> None:
    for _ in range(seconds):
        clock.at_s += 1.0
        live.on_message("s", json.dumps({"x": clock.at_s % 100, "y": 1} | payload).encode(), False)


ONE_TOPIC = {
    "channels": ({"topic": "s", "path": "$.x", "name": "x"}, {"topic": "s", "path": "$.y", "name": "y"}),
    "window": 2,
    "stride": 2,
}


def test_a_source_has_no_word_for_its_parent_before_it_has_an_example(tmp_path: Path, clock: Clock) -> None:
    live = LiveSource("k", source(**ONE_TOPIC, test_fraction=0.0), tmp_path / "k.db", clock=clock)
    assert live.status() is None
    assert live.snapshot() is None
    sensed(live, clock, 9)
    data = live.snapshot()
    assert data is not None
    assert live.status() == DataStatus(train_examples=len(data.train_x), test_examples=0)
    assert data.train_x.shape == (4, 2, 2)
    assert data.train_y.shape == (4, 0)
    sensed(live, clock, 4)
    live.close()
    again = LiveSource("k", source(**ONE_TOPIC, test_fraction=0.0), tmp_path / "k.db", clock=clock)
    assert again.status() == DataStatus(train_examples=6, test_examples=0)


def test_data_without_a_target_fit_a_reconstruction_and_nothing_else(tmp_path: Path, clock: Clock) -> None:
    live = LiveSource("k", source(**ONE_TOPIC, test_fraction=0.0), tmp_path / "k.db", clock=clock)
    sensed(live, clock, 9)
    data = live.snapshot()
    assert data is not None
    base = {
        "model": "m",
        "parameters": (Parameter(name="w", shape=(1,)),),
        "x": ExampleForm(shape=(2, 2), dtype="float32"),
        "metrics": ("loss",),
    }
    fits(data, Manifest(objective="reconstruction", y=None, **base))
    with pytest.raises(DataMismatch, match="data have none; give their source one"):
        fits(data, Manifest(objective="mse", y=ExampleForm(shape=(), dtype="float32"), **base))


def test_retained_values_are_of_unknown_age_but_a_retained_label_holds(tmp_path: Path, clock: Clock) -> None:
    spec = source(**ONE_TOPIC, label={"topic": "l", "labels": ("ok", "worn")}, test_fraction=0.0)
    live = LiveSource("k", spec, tmp_path / "k.db", clock=clock)
    live.on_message("s", b'{"x": 7, "y": 7}', True)
    live.on_message("l", b'"worn"', True)
    sensed(live, clock, 5)
    data = live.snapshot()
    assert data is not None
    assert 7 not in data.train_x[:, 1]
    assert set(data.train_y.tolist()) == {1}
    live.on_message("l", b"", False)
    before = len(data.train_x)
    sensed(live, clock, 6)
    live.on_message("l", b'"in repair"', False)
    sensed(live, clock, 6)
    data = live.snapshot()
    assert data is not None
    assert len(data.train_x) - before <= 1
    assert live.notes.counts["label no known label"] == 1
    assert live.notes.counts["unlabelled"] >= 5


def test_what_is_dropped_is_told_once_and_then_seldom(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveSource("k", source(**ONE_TOPIC), tmp_path / "k.db", clock=clock)
    for _ in range(1300):
        clock.at_s += 1.0
        live.on_message("s", b'{"x": NaN, "y": "secret"}', False)
    told = [record.message for record in caplog.records]
    assert len([line for line in told if "not finite" in line]) == 3
    assert live.notes.counts["not finite"] == 1300
    assert "secret" not in caplog.text


def test_a_list_is_that_many_samples_up_to_now(tmp_path: Path, clock: Clock) -> None:
    spec = source(
        channels=({"topic": "s", "name": "x"},), window=4, stride=4, lag_s=4.0, test_fraction=0.0, layout="flat"
    )
    live = LiveSource("k", spec, tmp_path / "k.db", clock=clock)
    for start in range(0, 40, 4):
        clock.at_s += 4.0
        live.on_message("s", json.dumps(list(range(start, start + 4))).encode(), False)
    data = live.snapshot()
    assert data is not None
    assert np.diff(data.train_x.reshape(-1)).tolist() == [1.0] * (data.train_x.size - 1)


def test_a_clock_that_was_set_back_begins_windows_anew(tmp_path: Path, clock: Clock) -> None:
    live = LiveSource("k", source(**ONE_TOPIC, test_fraction=0.0), tmp_path / "k.db", clock=clock)
    sensed(live, clock, 9)
    clock.at_s -= 5000
    sensed(live, clock, 9)
    data = live.snapshot()
    assert data is not None
    assert len(data.train_x) == 8
    assert live.notes.counts["the clock was set back"] == 1


async def test_a_full_disk_loses_nothing_while_there_is_room_in_memory(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveSource("k", source(**ONE_TOPIC, test_fraction=0.0), tmp_path / "k.db", clock=clock)
    sensed(live, clock, 9)

    def full(self: Store, examples: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", full)
        patch.setattr(sensors, "MAX_WAITING", 6)
        live.flush()
        sensed(live, clock, 6)
        live.flush()
        assert live.status() is None
    data = live.snapshot()
    assert data is not None
    assert len(data.train_x) == 6
    assert live.notes.counts["the store cannot be written"] == 2


async def test_a_feed_gives_each_new_window_and_a_slow_reader_loses_the_oldest(tmp_path: Path, clock: Clock) -> None:
    spec = source(**ONE_TOPIC, label={"topic": "l", "classes": 2})
    live = LiveSource("k", spec, tmp_path / "k.db", clock=clock)
    feed = live.feed(bound=3)
    sensed(live, clock, 13)
    assert feed.dropped == 3
    feed.close()
    windows = [window async for window in feed]
    assert [window.x.shape for window in windows] == [(2, 2)] * 3
    assert [b.at_s - a.at_s for a, b in itertools.pairwise(windows)] == [2.0, 2.0]
    assert windows[-1].x[0].tolist() == [(windows[-1].at_s - 1) % 100, windows[-1].at_s % 100]
    sensed(live, clock, 9)
    assert [window async for window in feed] == []


async def test_sources_of_one_broker_share_a_connection(tmp_path: Path) -> None:
    other = BrokerSettings(port=1884)
    specs = {"a": source(), "b": source(label={"topic": "s/l"}), "c": source(broker=other)}
    sources = open_sources(specs, tmp_path)
    live = tuple(one for one in sources.values() if isinstance(one, LiveSource))
    here, there = listeners("d1", BrokerSettings(), live)
    assert (here._topics, there._topics) == (("s/x", "s/y", "s/l"), ("s/x", "s/y"))
    assert here._client_id != there._client_id


def test_each_source_has_a_file_of_its_own(tmp_path: Path) -> None:
    keys = ("pump 7/x", "..", "a" * 128, "ü" * 128, "b")
    sources = open_sources({key: source() for key in keys}, tmp_path)
    paths = {one.path for one in sources.values() if isinstance(one, LiveSource)}
    assert len(paths) == len(keys)
    assert {path.parent for path in paths} == {tmp_path}
    shared = source(store=tmp_path / "one.db")
    with pytest.raises(ConfigError, match=r"data\.b\.store: .*is that of data\.a; give each source its own"):
        open_sources({"a": shared, "b": shared}, tmp_path)


# ── the description ─────────────────────────────────────────────────────────────────────────────────────────────

DEVICE = """node = "d1"
[data.pump]
kind = "mqtt"
window = 4
[[data.pump.channels]]
topic = "a/b"
path = "$.x"
name = "x"
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"a/b"', '"a/#"', "topic: give one topic, without the wildcards + and # (it is a/#)"),
        ('"$.x"', '"x"', "path: give $ for a whole payload, or where in it the value lies, as $.sensors[0].value"),
        ('"$.x"', '"$.x"\nformat = "text"', "path: $.x in a text; a text has no parts"),
        ("window = 4", "window = 4\nchannels = []", "channels"),
        ("window = 4", "window = 0", "d.toml:4: data.pump.window: input should be greater than or equal to 1"),
        ("window = 4", 'window = 4\nlabel = {topic = "l"}\nforecast = {}', "there is a label too"),
        ("window = 4", 'window = 4\nforecast = {channels = ["y"]}', "forecast.channels: no channel 'y'; there are x"),
        ("window = 4", 'window = 4\nlabel = {topic = "l", labels = ["a", "a"]}', "labels: one stands there twice"),
        ("window = 4", 'window = 4\nlabel = {topic = "l", labels = ["a"], classes = 2}', "classes: 2 where there are 1"),
        ("window = 4", "period_s = 0.001\nmax_gap_s = 1000.0", "max_gap_s: 1000 is more than 100000 periods"),
        ('name = "x"', 'name = "x"\n[[data.pump.channels]]\ntopic = "q"\nname = "x"', "channels: two have the same name"),
    ],
)  # fmt: skip
def test_a_description_that_could_not_work_is_refused(old: str, new: str, problem: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(DeviceSettings, text=DEVICE.replace(old, new, 1), name="d.toml")
    assert problem in str(caught.value)


def test_the_example_of_live_data_holds() -> None:
    """It is commented out in the device's example: without its marks it is a description like any other."""
    text = (Path(__file__).parents[2] / "docs" / "examples" / "device.toml").read_text(encoding="utf-8")
    live = text[text.index("# [data.pump]") :].split("\n\n")[0]
    spec = resolve(DeviceSettings, text='node = "d"\n' + live.replace("# ", "", 1).replace("\n# ", "\n")).value.data[
        "pump"
    ]
    assert isinstance(spec, SensorSource)
    assert spec.label is not None
    assert [one.name for one in spec.channels] == ["x", "y"]


def test_little_is_needed() -> None:
    spec = resolve(DeviceSettings, text=DEVICE).value.data["pump"]
    assert isinstance(spec, SensorSource)
    assert (spec.step, spec.gap_s, spec.span, spec.broker) == (4, 10.0, 4, None)
