"""Law: what a node promised outlives it: one small database file, made when there is first something to keep.

    outgoing   finished deltas on their way up, until the parent has answered
    settled    the newest of them that was answered, so that a restarted node does not do its work twice
    given      which of two parents may have a part of this node in a round, so that the other never gets one
    journal    what this node acknowledged to its children, until its own delta is settled
    course     how far the edge rounds of a plan have come
    heard      how new each parent's last word was, so that an older one is not taken again
    epoch      of this node's own words to its children
    remainder  what the last sum of the newest run left out

Every write is one transaction. All of it together takes at most `size_bytes` of payload: what is superseded makes room,
the oldest first, and what does not fit is not promised. A file that is damaged is set aside, and said to be.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from headwater.node.journal import Entry, JournalFull
from headwater.schemas.messages import RoundKey

log = logging.getLogger("headwater.node")

BUSY_TIMEOUT_S: Final = 10.0
MAX_OUTGOING: Final = 4
"""Finished deltas kept at once; more than one waits only where a run takes stale ones."""

MAX_GIVEN: Final = 8
"""Rounds of which is kept which parent may have this node's part; more than can be on their way up."""

MAX_PARENTS: Final = 16
"""Whose last word is kept; a node has two at a time."""

_KEY: Final = "run TEXT NOT NULL, round INTEGER NOT NULL, step INTEGER NOT NULL, attempt INTEGER NOT NULL"
_IS: Final = "run = ? AND round = ? AND step = ? AND attempt = ?"
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS outgoing (id INTEGER PRIMARY KEY, {_KEY}, payload BLOB NOT NULL,
  UNIQUE (run, round, step, attempt));
CREATE TABLE IF NOT EXISTS given (id INTEGER PRIMARY KEY, {_KEY}, parent TEXT NOT NULL,
  UNIQUE (run, round, attempt));
CREATE TABLE IF NOT EXISTS settled (id INTEGER PRIMARY KEY CHECK (id = 1), {_KEY});
CREATE TABLE IF NOT EXISTS journal (id INTEGER PRIMARY KEY, {_KEY}, sender TEXT NOT NULL, payload BLOB NOT NULL,
  UNIQUE (run, round, step, attempt, sender));
CREATE TABLE IF NOT EXISTS course (id INTEGER PRIMARY KEY CHECK (id = 1), {_KEY}, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS heard (parent TEXT PRIMARY KEY, epoch INTEGER NOT NULL, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS epoch (id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS remainder (id INTEGER PRIMARY KEY CHECK (id = 1), run TEXT NOT NULL, payload BLOB NOT NULL);
"""

T = TypeVar("T")


class NodeStore:
    """The file of one node. Methods block; they may be called from any thread, and wait for each other.

    Args:
        size_bytes: of payloads, all together.
    """

    def __init__(self, file: Path, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    @property
    def file_bytes(self) -> int:
        """What the file takes, with what is written beside it; 0 before there is first something to keep."""
        files = (self._file, self._file.with_name(f"{self._file.name}-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    # ── on the way up ───────────────────────────────────────────────────────────────────────────────────────────

    def outgoing(self) -> tuple[tuple[RoundKey, bytes], ...]:
        """The finished deltas, encoded, oldest first."""
        rows = self._read("SELECT run, round, step, attempt, payload FROM outgoing ORDER BY id")
        return tuple((_key(row), row[4]) for row in rows)

    def keep_outgoing(self, key: RoundKey, payload: bytes) -> None:
        """Keep a finished delta. Older ones make room.

        Raises:
            JournalFull: there is no room for it.
        """
        with self._write() as connection:
            connection.execute(f"DELETE FROM outgoing WHERE {_IS}", _row(key))
            ids = [row[0] for row in connection.execute("SELECT id FROM outgoing ORDER BY id")]
            for id_ in ids[: max(0, len(ids) - MAX_OUTGOING + 1)]:
                connection.execute("DELETE FROM outgoing WHERE id = ?", (id_,))
            self._make_room(connection, len(payload), key)
            connection.execute(
                "INSERT INTO outgoing (run, round, step, attempt, payload) VALUES (?, ?, ?, ?, ?)",
                (*_row(key), payload),
            )

    def given(self) -> tuple[tuple[RoundKey, str], ...]:
        """The last rounds in which a parent may have this node's part, and which parent; oldest first."""
        rows = self._read("SELECT run, round, step, attempt, parent FROM given ORDER BY id")
        return tuple((_key(row), row[4]) for row in rows)

    def keep_given(self, key: RoundKey, parent: str) -> None:
        """Keep that from now on `parent` may have this node's part in a round. Raises JournalFull."""
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO given (run, round, step, attempt, parent) VALUES (?, ?, ?, ?, ?)",
                (*_row(key), parent),
            )
            connection.execute(
                "DELETE FROM given WHERE id NOT IN (SELECT id FROM given ORDER BY id DESC LIMIT ?)", (MAX_GIVEN,)
            )

    def settle(self, key: RoundKey) -> None:
        """The parent has answered: nothing of this plan is needed any more, nor of any before it.

        A later attempt, or a later step of the parent's, may be under way already, and keeps what it acknowledged.
        """
        if not self._file.exists():
            return
        with self._write() as connection:
            connection.execute(f"DELETE FROM outgoing WHERE {_IS}", _row(key))
            for table in ("journal", "course"):
                connection.execute(
                    f"DELETE FROM {table} WHERE run = ? AND (round, attempt, step) <= (?, ?, ?)",
                    (key.run, key.round, key.attempt, key.step),
                )
            connection.execute(
                "INSERT OR REPLACE INTO settled (id, run, round, step, attempt) VALUES (1, ?, ?, ?, ?)", _row(key)
            )

    def settled(self) -> RoundKey | None:
        """The plan whose delta was answered last."""
        return next((_key(row) for row in self._read("SELECT run, round, step, attempt FROM settled")), None)

    # ── what was acknowledged to children ───────────────────────────────────────────────────────────────────────

    def load(self, key: RoundKey) -> tuple[Entry, ...]:
        """As `Journal.load`."""
        rows = self._read(f"SELECT sender, payload FROM journal WHERE {_IS} ORDER BY id", _row(key))
        return tuple(Entry(sender, payload) for sender, payload in rows)

    def keep(self, key: RoundKey, entries: Sequence[Entry]) -> None:
        """As `Journal.keep`."""
        with self._write() as connection:
            self._make_room(connection, sum(len(entry.payload) for entry in entries), key)
            connection.executemany(
                "INSERT OR REPLACE INTO journal (run, round, step, attempt, sender, payload) VALUES (?, ?, ?, ?, ?, ?)",
                [(*_row(key), entry.sender, entry.payload) for entry in entries],
            )

    # ── how far the edge rounds are ─────────────────────────────────────────────────────────────────────────────

    def keep_course(self, key: RoundKey, payload: bytes) -> None:
        """What the edge rounds of the plan `key` have come to. Raises JournalFull."""
        with self._write() as connection:
            connection.execute("DELETE FROM course")
            self._make_room(connection, len(payload), key)
            connection.execute("INSERT INTO course VALUES (1, ?, ?, ?, ?, ?)", (*_row(key), payload))

    def course(self, key: RoundKey) -> bytes | None:
        return next((row[0] for row in self._read(f"SELECT payload FROM course WHERE {_IS}", _row(key))), None)

    # ── what an encoded sum left out ────────────────────────────────────────────────────────────────────────────

    def keep_left(self, run: str, payload: bytes) -> None:
        """What the last sum of a run left out; that of another run goes. Raises JournalFull."""
        with self._write() as connection:
            connection.execute("DELETE FROM remainder")
            if _taken_bytes(connection) + len(payload) > self._size_bytes:
                raise JournalFull(f"{self._file}: {len(payload)} bytes more would pass the {self._size_bytes} allowed")
            connection.execute("INSERT INTO remainder VALUES (1, ?, ?)", (run, payload))

    def left(self, run: str) -> bytes | None:
        return next((row[0] for row in self._read("SELECT payload FROM remainder WHERE run = ?", (run,))), None)

    # ── whose word is how new ───────────────────────────────────────────────────────────────────────────────────

    def heard(self) -> dict[str, tuple[int, int]]:
        """The epoch and number of the newest word of each parent that this node ever took one of."""
        return {parent: (epoch, number) for parent, epoch, number in self._read("SELECT * FROM heard")}

    def keep_heard(self, parent: str, epoch: int, number: int) -> None:
        """Of `MAX_PARENTS` parents; the one with the oldest word makes room. Raises JournalFull."""
        with self._write() as connection:
            connection.execute("INSERT OR REPLACE INTO heard VALUES (?, ?, ?)", (parent, epoch, number))
            connection.execute(
                "DELETE FROM heard WHERE parent NOT IN (SELECT parent FROM heard ORDER BY epoch DESC LIMIT ?)",
                (MAX_PARENTS,),
            )

    def next_epoch(self, after: Callable[[int], int]) -> int:
        """The epoch that begins, kept; `after` makes it of the last, 0 where there is none. Raises JournalFull."""
        with self._write() as connection:
            last = next((row[0] for row in connection.execute("SELECT epoch FROM epoch")), 0)
            connection.execute("INSERT OR REPLACE INTO epoch VALUES (1, ?)", (after(last),))
            return after(last)

    # ── the file ────────────────────────────────────────────────────────────────────────────────────────────────

    def _make_room(self, connection: sqlite3.Connection, size_bytes: int, key: RoundKey) -> None:
        """Rounds before this one go from the journal when they must, then older deltas on their way up."""
        older = "run <> ? OR round < ?"
        for forget in (
            f"DELETE FROM journal WHERE {older}",
            f"DELETE FROM outgoing WHERE id = (SELECT min(id) FROM outgoing WHERE {older})",
        ):
            while _taken_bytes(connection) + size_bytes > self._size_bytes:
                forgotten = connection.execute(forget, (key.run, key.round)).rowcount
                if not forgotten:
                    break
                log.warning("%s: %d superseded updates made room for newer ones", self._file, forgotten)
        if _taken_bytes(connection) + size_bytes > self._size_bytes:
            raise JournalFull(f"{self._file}: {size_bytes} bytes more would pass the {self._size_bytes} allowed")

    def _read(self, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Nothing where there is no file; a damaged one is set aside, and has nothing any more."""
        with self._lock:
            if not self._file.exists():
                return []
            try:
                return self._mended(lambda connection: connection.execute(query, parameters).fetchall(), [])
            except (sqlite3.Error, OSError) as error:
                self._disconnect()
                log.error("%s cannot be read: %s", self._file, error)
                return []

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = self._mended(_begin, None) or _begin(self._connect())
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OSError) as error:
                self._disconnect()
                raise JournalFull(f"{self._file}: {error}") from None

    def _mended(self, do: Callable[[sqlite3.Connection], T], instead: T) -> T:
        """What `do` gives, or `instead` where the file had to be set aside."""
        try:
            return do(self._connect())
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._disconnect()
            damaged = self._file.with_suffix(".damaged")
            self._file.replace(damaged)
            log.error("%s is damaged (%s): set aside as %s; what it held comes again", self._file, error, damaged.name)
            return instead

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._file, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection = connection
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                connection.execute(f"PRAGMA {pragma}")
            connection.executescript(_SCHEMA)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _begin(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("BEGIN IMMEDIATE")
    return connection


def _taken_bytes(connection: sqlite3.Connection) -> int:
    tables = " + ".join(
        f"(SELECT coalesce(sum(length(payload)), 0) FROM {table})"
        for table in ("outgoing", "journal", "course", "remainder")
    )
    (taken,) = connection.execute(f"SELECT {tables}").fetchone()
    return int(taken)


def _row(key: RoundKey) -> tuple[str, int, int, int]:
    return key.run, key.round, key.step, key.attempt


def _key(row: Sequence[object]) -> RoundKey:
    run, round_, step, attempt = row[:4]
    return RoundKey.model_validate({"run": run, "round": round_, "step": step, "attempt": attempt})
