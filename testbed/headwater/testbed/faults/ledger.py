"""Law: what was acknowledged is heard on the wire, what counted is read from SQL, by nobody who had a part in either.

    lost    acknowledged by the cloud to a child, or announced as closed, and not in SQL
    twice   one (sender, run, round, step, attempt) in two closed rounds, or twice in one

An observer that was away while its broker was down has heard less, never more.
"""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headwater.schemas.messages import Announcement, Receipt, RoundKey
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode
from headwater.transport.listener import Listener

RETRY_WAIT_S: Final = 0.2


class Sql:
    """Reads of a history's database by the driver alone: `sqlite:///FILE` or `postgresql://…`. Methods block."""

    def __init__(self, url: str) -> None:
        self._url = url

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows; `?` stands for each argument."""
        if self._url.startswith("sqlite:///"):
            with contextlib.closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=30)) as connection:
                return connection.execute(query, arguments).fetchall()
        import psycopg

        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(query.replace("?", "%s").encode(), arguments).fetchall()


@dataclass(slots=True)
class Witness:
    """What was heard: `receipts` as (parent, child, key), `closed` as (parent, key)."""

    fleet: str
    receipts: set[tuple[str, str, RoundKey]] = field(default_factory=set)
    closed: set[tuple[str, RoundKey]] = field(default_factory=set)

    def listener(self, port: int, name: str) -> Listener:
        """To be run beside the fleet, one for each broker."""
        topics = Topics(self.fleet)
        filters = (topics.inbox("+", "receipt"), topics.down("+", "announcement"))
        broker = BrokerSettings(port=port, max_retry_wait_s=RETRY_WAIT_S, keepalive_s=3)
        return Listener(broker, client=f"witness-{name}", topics=filters, on_message=self.on_message)

    def on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take down what a message says, if it is one of those that count."""
        parsed = Topics(self.fleet).parse(topic)
        if parsed is None:
            return
        with contextlib.suppress(WireError):
            if parsed.branch == "inbox":
                receipt = decode(payload, Receipt)
                self.receipts.add((receipt.sender, parsed.node, receipt.key))
            else:
                announcement = decode(payload, Announcement)
                if announcement.closed is not None:
                    self.closed.add((announcement.parent, announcement.closed))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts over a run, with a sentence for each breach. `acknowledged` are the receipts of all parents."""

    rounds: int
    acknowledged: int
    by_cloud: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]


def judged(witness: Witness, sql: Sql, run: str, cloud: str) -> Verdict:
    """The receipts and announcements that were heard, against what the history holds. Blocks."""
    counted = _counted(sql, run)
    states = {(r, a): state for r, a, state in sql.rows("SELECT round, attempt, state FROM rounds WHERE run = ?", run)}
    owed = [(child, key) for parent, child, key in witness.receipts if parent == cloud and key.run == run]
    held = {(node, round_, attempt) for node, round_, attempt, _, _ in counted}
    lost = [f"{child}: {_shown(key)}" for child, key in owed if (child, key.round, key.attempt) not in held]
    announced = [key for parent, key in witness.closed if parent == cloud and key.run == run]
    lost += [f"announced: {_shown(key)}" for key in announced if (key.round, key.attempt) not in states]
    into = Counter((node, r, a) for node, r, a, closed, attempt in counted if states[closed, attempt] == "closed")
    twice = [f"{node}: round {r}.{a}, {count} times" for (node, r, a), count in into.items() if count > 1]
    trained = "SELECT count(*) FROM rounds WHERE run = ? AND task = 'train' AND state = 'closed'"
    ((rounds,),) = sql.rows(trained, run)
    acknowledged = sum(key.run == run for _, _, key in witness.receipts)
    return Verdict(rounds, acknowledged, len(owed), tuple(sorted(lost)), tuple(sorted(twice)))


def _counted(sql: Sql, run: str) -> Sequence[tuple[str, int, int, int, int]]:
    """(child, round and attempt that it answered, round and attempt that hold it), of training."""
    columns = "node, based_on, based_attempt, round, attempt"
    return [tuple(row) for row in sql.rows(f"SELECT {columns} FROM contributions WHERE run = ?", run)]


def _shown(key: RoundKey) -> str:
    return f"round {key.round}.{key.step}, attempt {key.attempt}"
