"""Law: what was acknowledged is heard on the wire, what counted is read from SQL, by nobody who had a part in either.

    lost    acknowledged by the cloud to a child, or announced as closed, and not in SQL
    twice   one (sender, run, round, step, attempt) in two closed rounds, or twice in one

An observer that was away while its broker was down has heard less, never more.
"""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headwater.schemas.messages import Announcement, Receipt, RoundKey
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode
from headwater.transport.listener import Listener

RETRY_WAIT_S: Final = 0.2

Weights = Mapping[str, Mapping[str, int]]
"""Of each device, by its gateway."""


class DatabaseAway(Exception):
    """The database does not answer now."""


class Sql:
    """Reads of a history's database by the driver alone: `sqlite:///FILE` or `postgresql://…`. Methods block."""

    def __init__(self, url: str) -> None:
        self._url = url

    def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """All rows; `?` stands for each argument. Raises DatabaseAway where a server is down."""
        if self._url.startswith("sqlite:///"):
            with contextlib.closing(sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=30)) as connection:
                return connection.execute(query, arguments).fetchall()
        import psycopg

        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                return connection.execute(query.replace("?", "%s").encode(), arguments).fetchall()
        except psycopg.OperationalError as error:
            raise DatabaseAway(str(error)) from None


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


@dataclass(frozen=True, slots=True)
class _Given:
    """A contribution: the (round, attempt) that it answers, and the one whose sum holds it."""

    node: str
    task: str
    based_on: tuple[int, int]
    held_by: tuple[int, int]
    weight: float
    devices: int

    @property
    def answered(self) -> str:
        return f"round {self.based_on[0]}.{self.based_on[1]}"


def judged(witness: Witness, sql: Sql, run: str, cloud: str, weights: Weights | None = None) -> Verdict:
    """The receipts and announcements that were heard, against what the history holds. Blocks.

    With the weights of the devices below each gateway, different powers of two, what a gateway acknowledged and what
    it counted is judged as well. A run that takes late updates cannot be: two rounds' updates then stand in one sum.
    """
    counted = _counted(sql, run)
    states = {(r, a): state for r, a, state in sql.rows("SELECT round, attempt, state FROM rounds WHERE run = ?", run)}
    owed = [(child, key) for parent, child, key in witness.receipts if parent == cloud and key.run == run]
    held = {(given.node, given.based_on) for given in counted}
    lost = [f"{child}: {_shown(key)}" for child, key in owed if (child, (key.round, key.attempt)) not in held]
    announced = [key for parent, key in witness.closed if parent == cloud and key.run == run]
    lost += [f"announced: {_shown(key)}" for key in announced if (key.round, key.attempt) not in states]
    closed = [given for given in counted if states[given.held_by] == "closed"]
    times = Counter((given.node, given.based_on) for given in closed)
    twice = [f"{node}: round {r}.{a}, {count} times" for (node, (r, a)), count in times.items() if count > 1]
    if weights is not None:
        below = [given for given in counted if given.task == "train" and given.node in weights]
        lost += _lost_below(witness, below, weights, run)
        twice += _twice_below(below)
    acknowledged = sum(key.run == run for _, _, key in witness.receipts)
    return Verdict(_rounds(sql, run), acknowledged, len(owed), tuple(sorted(lost)), tuple(sorted(twice)))


def _lost_below(witness: Witness, counted: Sequence[_Given], weights: Weights, run: str) -> list[str]:
    """Devices that their gateway acknowledged, and whose weight is not in what it then gave for that round."""
    sums = {(given.node, given.based_on): given.weight for given in counted}
    lost = []
    for gateway, device, key in witness.receipts:
        total = sums.get((gateway, (key.round, key.attempt))) if key.run == run else None
        if total is not None and not int(total) & weights[gateway].get(device, 0):
            lost.append(f"{device} below {gateway}: {_shown(key)}")
    return lost


def _twice_below(counted: Sequence[_Given]) -> list[str]:
    """Sums that are not those of as many devices as they claim: one device's weight twice is another one's once."""
    wrong = [given for given in counted if int(given.weight).bit_count() != given.devices]
    return [f"below {given.node}: {given.answered}, {given.devices} devices weigh {given.weight:g}" for given in wrong]


def _counted(sql: Sql, run: str) -> Sequence[_Given]:
    columns = "node, task, based_on, based_attempt, round, attempt, weight, devices"
    return [
        _Given(node, task, (based_on, based_attempt), (round_, attempt), weight, devices)
        for node, task, based_on, based_attempt, round_, attempt, weight, devices in sql.rows(
            f"SELECT {columns} FROM contributions WHERE run = ?", run
        )
    ]


def _rounds(sql: Sql, run: str) -> int:
    trained = "SELECT count(*) FROM rounds WHERE run = ? AND task = 'train' AND state = 'closed'"
    ((rounds,),) = sql.rows(trained, run)
    return int(rounds)


def _shown(key: RoundKey) -> str:
    return f"round {key.round}.{key.step}, attempt {key.attempt}"
