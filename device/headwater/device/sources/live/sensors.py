"""Law: the shell around the pure steps: messages come in, examples go to the disk in batches, snapshots come out.

A crash loses at most the examples that wait: `FLUSH_EXAMPLES`, or those of `FLUSH_AFTER_S`. A stop loses none.
"""

import asyncio
import contextlib
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from headwater.device.sources.dataset import Dataset, checked
from headwater.device.sources.live.examples import features, form_of
from headwater.device.sources.live.feed import Feed, Following, LiveWindow
from headwater.device.sources.live.notes import Notes
from headwater.device.sources.live.payload import Unreadable, document, numbers, sampled_at, target
from headwater.device.sources.live.store import Counts, Store, bounds_of
from headwater.device.sources.live.windowing import Example, Sample, begin, step
from headwater.schemas.errors import DataError
from headwater.schemas.sources import Channel, Label, SensorSource
from headwater.schemas.statuses import DataStatus

FLUSH_EXAMPLES: Final = 32
FLUSH_AFTER_S: Final = 10.0
LOOK_EVERY_S: Final = 1.0
MAX_WAITING: Final = 4096
"""Examples that wait for a disk that cannot be written; the oldest are dropped beyond that."""

CLOCK_SET_BACK_S: Final = 1.0
FEED_BOUND: Final = 16


class LiveSource:
    """The examples that this device's sensors make.

    Args:
        path: the store's file.
        clock: seconds since 1970.

    Raises:
        DataError: the store cannot be opened.
    """

    def __init__(
        self,
        key: str,
        spec: SensorSource,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.key = key
        self.spec = spec
        self._name = f"data.{key}"
        self._clock = clock
        self._form = form_of(spec)
        try:
            self._store = Store(path, self._form, bounds_of(spec, self._form), rng or random.Random())
            self._counts = self._store.counts()
        except (DataError, sqlite3.Error) as error:
            raise DataError(f"{self._name}: {error}") from None
        self._channels: dict[str, list[tuple[int, Channel]]] = {}
        for index, channel in enumerate(spec.channels):
            self._channels.setdefault(channel.topic, []).append((index, channel))
        self._state = begin(spec)
        self._stepped_at_s = clock()
        self._waiting: list[Example] = []
        self._waiting_since_s = 0.0
        self._flushing = threading.Lock()
        self._handing_over = threading.Lock()
        self._full = asyncio.Event()
        self._feeds: list[Feed] = []
        self.notes = Notes(self._name)

    @property
    def path(self) -> Path:
        return self._store.path

    @property
    def topics(self) -> tuple[str, ...]:
        readings = (*self.spec.channels, *((self.spec.label,) if self.spec.label else ()))
        return tuple(dict.fromkeys(reading.topic for reading in readings))

    def snapshot(self) -> Dataset | None:
        """All examples up to now, as they came; None while there is none to train on. It reads the disk: from an event
        loop call it in a thread."""
        self.flush()
        try:
            data = self._store.snapshot()
            return checked(self._name, data) if len(data.train_x) else None
        except (sqlite3.Error, ValueError, IndexError, DataError) as error:
            self.notes.add("the store cannot be read", str(error), self._clock(), logging.ERROR)
            return None

    def status(self) -> DataStatus | None:
        """What is told to the parent; nothing while there is no training example, so that nobody asks for one."""
        if not self._counts.train:
            return None
        return DataStatus(train_examples=self._counts.train, test_examples=self._counts.test)

    def feed(self, bound: int = FEED_BOUND) -> Feed:
        """The windows from now on, labelled or not, and what follows them where that is the target, for one reader;
        close it when it is no longer read."""
        feed = Feed(bound)
        self._feeds = [*(other for other in self._feeds if not other.closed), feed]
        return feed

    async def run(self) -> None:
        """Settle what time settles, and write what waits. Runs until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), LOOK_EVERY_S)
                self._full.clear()
                self._step((), self._clock())
                if self._is_due():
                    await asyncio.to_thread(self.flush)
        finally:
            self.flush()
            for feed in self._feeds:
                feed.close()

    def close(self) -> None:
        """Write what waits and let go of the file."""
        self.flush()
        self._store.close()

    # ── in ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message of the broker's, in the event loop."""
        now_s = self._clock()
        contents: dict[str, Any] = {}
        samples: list[Sample] = []
        for index, channel in self._channels.get(topic, ()):
            if channel.retained or not retained:
                samples += self._samples(index, channel, payload, contents, now_s)
        label = self.spec.label
        if label and label.topic == topic:
            samples.append(Sample(len(self.spec.channels), now_s, self._label(label, payload, contents, now_s)))
        if samples:
            self._step(tuple(samples), now_s)

    def _samples(
        self, index: int, channel: Channel, payload: bytes, contents: dict[str, Any], now_s: float
    ) -> list[Sample]:
        try:
            content = _content(channel, payload, contents)
            values = numbers(content, channel)
            at_s = sampled_at(content, channel)
        except Unreadable as error:
            self.notes.add(error.reason, f"{channel.topic}: {error}", now_s)
            return []
        last_s = now_s if at_s is None else at_s
        oldest = len(values) - 1
        return [Sample(index, last_s - (oldest - i) * self.spec.period_s, value) for i, value in enumerate(values)]

    def _label(self, label: Label, payload: bytes, contents: dict[str, Any], now_s: float) -> float | None:
        """None ends the last label: what came is none of ours, so the old one no longer holds."""
        if not payload:
            return None
        try:
            return target(_content(label, payload, contents), label)
        except Unreadable as error:
            self.notes.add(f"label {error.reason}", f"{label.topic}: {error}", now_s)
            return None

    def _step(self, samples: tuple[Sample, ...], now_s: float) -> None:
        if now_s < self._stepped_at_s - CLOCK_SET_BACK_S:
            self.notes.add("the clock was set back", "windows begin anew", now_s)
            self._state = begin(self.spec)
        self._stepped_at_s = now_s
        self._state, outcome = step(self.spec, self._state, samples, now_s)
        for reason in outcome.dropped:
            self.notes.add(reason, _EXPLAINED[reason], now_s, logging.INFO)
        if self._feeds:
            for window in outcome.windows:
                self._offer(LiveWindow(features(window, self._form), window.at_s))
            for followed in outcome.followed:
                self._offer(Following(np.array(followed.values, dtype=np.float32), followed.at_s))
        if outcome.examples:
            self._wait(outcome.examples, now_s)

    def _offer(self, window: LiveWindow | Following) -> None:
        for feed in self._feeds:
            if not feed.closed:
                feed.offer(window)

    # ── to the disk ─────────────────────────────────────────────────────────────────────────────────────────────

    def _wait(self, examples: tuple[Example, ...], now_s: float) -> None:
        with self._handing_over:
            if not self._waiting:
                self._waiting_since_s = now_s
            self._waiting = [*self._waiting, *examples][-MAX_WAITING:]
        if len(self._waiting) >= FLUSH_EXAMPLES:
            self._full.set()

    def _is_due(self) -> bool:
        age_s = self._clock() - self._waiting_since_s
        return bool(self._waiting) and (len(self._waiting) >= FLUSH_EXAMPLES or not 0 <= age_s < FLUSH_AFTER_S)

    def flush(self) -> None:
        """Write what waits, from any thread. What the disk refuses goes on waiting."""
        with self._flushing:
            with self._handing_over:
                batch, self._waiting = self._waiting, []
            if not batch:
                return
            try:
                self._store.put(batch)
                self._counts = self._store.counts()
            except sqlite3.Error as error:
                now_s = self._clock()
                with self._handing_over:
                    self._waiting = (batch + self._waiting)[-MAX_WAITING:]
                    self._waiting_since_s = now_s
                self.notes.add("the store cannot be written", str(error), now_s, logging.ERROR)

    @property
    def counts(self) -> Counts:
        """What is on the disk."""
        return self._counts


_EXPLAINED: Final = {
    "late": "a sample was older than the one before it; raise lag_s where sensors have their own time",
    "duplicate": "a sample came twice",
    "ahead": "a sample's own time is in the future; set the sensor's clock, or leave time out",
    "too many": "more samples than can wait for their grid point; shorten lag_s",
    "unlabelled": "no label held at the window's end",
    "label changed": "the label changed within the window",
    "between parts": "the window lies between a train and a test stretch",
}


def _content(reading: Channel | Label, payload: bytes, contents: dict[str, Any]) -> Any:
    """A payload is read once a format, however many channels it has."""
    if reading.format not in contents:
        contents[reading.format] = document(payload, reading)
    return contents[reading.format]
