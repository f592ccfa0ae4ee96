"""Law: a store is a fixed number of slots, so it cannot outgrow its bound; what is in it was committed whole.

SQLite in WAL mode: a killed process loses nothing that was put, a power cut what the system had yet to write, and
neither leaves half an example. Each part has slots of its own, so an example never moves between the parts. Slots are
chosen by `slot_of`: round and round for the newest, Vitter's algorithm R for a uniform sample of all that ever were.
"""

import contextlib
import json
import logging
import random
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import Dataset, Labels
from headwater.device.sources.live.examples import Form, features, target
from headwater.device.sources.live.windowing import Example, Part
from headwater.schemas.errors import DataError
from headwater.schemas.sources import SensorSource

log = logging.getLogger("headwater.device")

FORMAT: Final = "1"
Keep = Literal["newest", "reservoir"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

_ROW_OVERHEAD_BYTES: Final = 64
_BUSY_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (part INTEGER PRIMARY KEY, seen INTEGER NOT NULL);
-- id is 2 * slot + part; number counts a part's examples as they came.
CREATE TABLE IF NOT EXISTS examples (
  id INTEGER PRIMARY KEY, number INTEGER NOT NULL, at_s REAL NOT NULL, x BLOB NOT NULL, y BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many examples of each part are kept, and which."""

    train: int
    test: int
    keep: Keep

    def of(self, part: Part) -> int:
        return self.train if part == "train" else self.test


@dataclass(frozen=True, slots=True)
class Counts:
    """Examples in the store, by part."""

    train: int = 0
    test: int = 0


def counts_in(path: Path) -> Counts:
    """How many examples a store holds, whoever has it open; nothing is changed. Raises DataError."""
    if not path.exists():
        return Counts()
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)) as connection:
            rows = dict(connection.execute(f"SELECT id % {len(PARTS)}, count(*) FROM examples GROUP BY 1"))
            return Counts(*(int(rows.get(number, 0)) for number in range(len(PARTS))))
    except sqlite3.Error as error:
        raise DataError(f"{path}: {error}; set the file aside, and it begins anew") from None


def bounds_of(spec: SensorSource, form: Form) -> Bounds:
    """`max_examples`, or as many as `max_size_bytes` of disk hold; SQLite's pages at worst double a row."""
    fitting = spec.max_size_bytes // (2 * (form.size_bytes + _ROW_OVERHEAD_BYTES))
    if fitting < 2:
        raise DataError(
            f"max_size_bytes: {spec.max_size_bytes} hold no two examples of {form.size_bytes} bytes; "
            "raise it, or shorten window"
        )
    total = min(spec.max_examples, fitting)
    test = min(max(1, round(total * spec.test_fraction)), total - 1) if spec.test_fraction else 0
    return Bounds(total - test, test, spec.keep)


def slot_of(seen: int, bound: int, keep: Keep, rng: random.Random) -> int | None:
    """Where the example goes before which `seen` others came; None where it is passed over."""
    if seen < bound:
        return seen
    if not bound:
        return None
    slot = seen % bound if keep == "newest" else rng.randrange(seen + 1)
    return slot if slot < bound else None


class Store:
    """The examples of one source. Every method may be called from any thread.

    Raises:
        DataError: the file cannot be opened or written.
    """

    def __init__(self, path: Path, form: Form, bounds: Bounds, rng: random.Random) -> None:
        self.path = path
        self._form = form
        self._bounds = bounds
        self._rng = rng
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._opened()
            with self._transaction():
                self._adopt_bounds()
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{path}: {error}; give the store a writable place on a disk with room") from None

    def put(self, examples: Sequence[Example]) -> None:
        """Keep what the policy keeps, in one transaction.

        Raises:
            sqlite3.Error: nothing of it was kept.
        """
        with self._lock, self._transaction():
            seen = self._seen()
            for example in examples:
                self._put(example, seen[example.part])
                seen[example.part] += 1
            self._connection.executemany(
                "REPLACE INTO parts (part, seen) VALUES (?, ?)", [(PARTS.index(part), seen[part]) for part in PARTS]
            )

    def counts(self) -> Counts:
        """Raises sqlite3.Error where the file cannot be read."""
        with self._lock:
            return self._counts()

    def snapshot(self) -> Dataset:
        """All examples, as they came. Raises sqlite3.Error where the file cannot be read."""
        # One read transaction: a writer in another process changes nothing between the parts.
        with self._lock, self._transaction("DEFERRED"):
            counts = self._counts()
            train, test = _Arrays(counts.train, self._form), _Arrays(counts.test, self._form)
            # In the file's own order: to sort there would cost a copy of it on the disk.
            for row, *values in self._connection.execute("SELECT id, number, x, y FROM examples"):
                (test if row % len(PARTS) else train).put(row // len(PARTS), *values)
        return Dataset(*train.in_order(), *test.in_order())

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, example: Example, seen: int) -> None:
        slot = slot_of(seen, self._bounds.of(example.part), self._bounds.keep, self._rng)
        if slot is None:
            return
        x, y = features(example.window, self._form).tobytes(), target(example, self._form).tobytes()
        row = (len(PARTS) * slot + PARTS.index(example.part), seen, example.window.at_s, x, y)
        self._connection.execute("REPLACE INTO examples (id, number, at_s, x, y) VALUES (?, ?, ?, ?, ?)", row)

    def _seen(self) -> dict[Part, int]:
        rows = dict(self._connection.execute("SELECT part, seen FROM parts").fetchall())
        return {part: rows.get(number, 0) for number, part in enumerate(PARTS)}

    def _counts(self) -> Counts:
        """Slots fill up from the first and are never emptied, so there is nothing to count."""
        seen = self._seen()
        return Counts(*(min(seen[part], self._bounds.of(part)) for part in PARTS))

    # ── the file ────────────────────────────────────────────────────────────────────────────────────────────────

    def _opened(self) -> sqlite3.Connection:
        """The file's connection; what is damaged or of another form is set aside, and said."""
        try:
            connection = _connect(self.path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self._set_aside("damaged", f"is no sound store ({error})")
            connection = _connect(self.path)
        found = dict(connection.execute("SELECT name, value FROM about").fetchall())
        expected = {"format": FORMAT, "form": str(self._form), "meaning": self._form.meaning}
        if found and any(found.get(name) != value for name, value in expected.items()):
            connection.close()
            self._set_aside("old", f"holds {found.get('form')} of another description; this one makes {self._form}")
            connection = _connect(self.path)
        with connection:
            connection.executemany("REPLACE INTO about (name, value) VALUES (?, ?)", expected.items())
        return connection

    def _set_aside(self, suffix: str, why: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.{suffix}")
        for end in ("-wal", "-shm"):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        self.path.replace(aside)
        log.warning("%s %s: it was set aside as %s, and the store begins anew", self.path, why, aside)

    def _adopt_bounds(self) -> None:
        """Where the bounds are others than the file's, keep what they admit and count on from there."""
        bounds = json.dumps([self._bounds.train, self._bounds.test, self._bounds.keep])
        (found,) = self._connection.execute("SELECT value FROM about WHERE name = 'bounds'").fetchone() or (None,)
        if found == bounds:
            return
        for part in PARTS:
            self._refill(part)
        self._connection.execute("REPLACE INTO about (name, value) VALUES ('bounds', ?)", (bounds,))

    def _refill(self, part: Part) -> None:
        number, bound = PARTS.index(part), self._bounds.of(part)
        rows = self._connection.execute("SELECT id FROM examples WHERE id % 2 = ? ORDER BY number", (number,))
        ids = [row[0] for row in rows]
        surplus = max(0, len(ids) - bound)
        gone = set(ids[:surplus] if self._bounds.keep == "newest" else self._rng.sample(ids, surplus))
        kept = [old for old in ids if old not in gone]
        self._connection.executemany("DELETE FROM examples WHERE id = ?", [(old,) for old in gone])
        # By way of negative numbers, so that no slot is taken twice on the way.
        self._connection.executemany(
            "UPDATE examples SET id = ?, number = ? WHERE id = ?",
            [(-2 * (slot + 1) - number, slot, old) for slot, old in enumerate(kept)],
        )
        self._connection.executemany(
            "UPDATE examples SET id = ? WHERE id = ?",
            [(2 * slot + number, -2 * (slot + 1) - number) for slot in range(len(kept))],
        )
        self._connection.execute("REPLACE INTO parts (part, seen) VALUES (?, ?)", (number, len(kept)))

    @contextlib.contextmanager
    def _transaction(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


class _Arrays:
    """A part on its way from slots to arrays."""

    def __init__(self, count: int, form: Form) -> None:
        self._form = form
        self._x = np.empty((count, *form.x_shape), dtype=np.float32)
        self._y = np.empty((count, *form.y_shape), dtype=form.y_dtype)
        self._numbers = np.zeros(count, dtype=np.int64)

    def put(self, slot: int, number: int, x: bytes, y: bytes) -> None:
        self._numbers[slot] = number
        self._x[slot] = np.frombuffer(x, dtype=np.float32).reshape(self._form.x_shape)
        self._y[slot] = np.frombuffer(y, dtype=self._form.y_dtype).reshape(self._form.y_shape)

    def in_order(self) -> tuple[NDArray[np.float32], Labels]:
        """As the examples came."""
        order = np.argsort(self._numbers, kind="stable")
        if np.array_equal(order, np.arange(len(order))):
            return self._x, self._y
        return self._x[order], self._y[order]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        settings: Mapping[str, str | int] = {
            "journal_mode": "WAL",
            "synchronous": "NORMAL",
            # At most about a megabyte beside the file, given back when it was written down.
            "wal_autocheckpoint": 256,
            "journal_size_limit": 1024 * 1024,
        }
        for name, value in settings.items():
            connection.execute(f"PRAGMA {name} = {value}")
        connection.executescript(_SCHEMA)
        (sound,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
    except BaseException:
        connection.close()
        raise
    return connection
