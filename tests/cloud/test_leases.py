"""The lease: who leads, who takes over, and that whoever was deposed can write nothing more."""

import contextlib
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, text

from headwater.cloud.history import History, HistoryAway, Lease, LeaseLost, LeaseRecord, open_history, opening, tables
from headwater.cloud.history.leases import NEVER_HELD
from headwater.node.envelope import epoch_at
from headwater.node.journal import Entry, JournalFull
from headwater.schemas.statuses import NodeStatus
from support.histories import DESCRIPTION, KEY, NOW, ROUND, started
from support.postgres import database_url
from support.waiting import eventually

FIRST = epoch_at(NOW, 0)
"""The first term of a database whose time stands still."""


def taken(history: History, holder: str) -> Lease:
    lease = history.leases.take_lease("plant", holder, history.leases.read_lease("plant"), NOW)
    assert lease is not None
    return lease


def everything(url: str) -> dict[str, list[tuple[object, ...]]]:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    tables = ("runs", "objects", "models", "rounds", "contributions", "metrics", "refusals", "pending", "nodes")
    with engine.begin() as connection:
        found = {
            t: [tuple(row) for row in connection.execute(text(f"SELECT * FROM {t} ORDER BY 1, 2"))] for t in tables
        }
    engine.dispose()
    return found


def test_a_lease_nobody_ever_held_is_free_and_terms_only_rise(history: History) -> None:
    assert history.leases.read_lease("plant") == NEVER_HELD
    assert NEVER_HELD.free
    first = taken(history, "one")
    assert history.leases.read_lease("plant").holder == "one"
    second = taken(history, "other")
    assert (first.term, second.term) == (FIRST, FIRST + 1)
    history.leases.release_lease(second, NOW)
    assert history.leases.read_lease("plant").free
    assert taken(history, "one").term == FIRST + 2
    assert taken(history, "one").fleet == "plant"


def test_a_sign_of_life_moves_the_counter_and_a_takeover_on_what_was_seen_before_fails(history: History) -> None:
    lease = taken(history, "one")
    seen = history.leases.read_lease("plant")
    history.leases.renew_lease(lease, NOW)
    assert history.leases.read_lease("plant").beat == seen.beat + 1
    assert history.leases.take_lease("plant", "other", seen, NOW) is None
    assert history.leases.take_lease("plant", "other", NEVER_HELD, NOW) is None
    assert history.leases.read_lease("plant").holder == "one"


def test_a_deposed_holder_neither_renews_nor_releases(history: History) -> None:
    deposed = taken(history, "one")
    taken(history, "other")
    with pytest.raises(LeaseLost, match=f"term {FIRST} of fleet 'plant' is over"):
        history.leases.renew_lease(deposed, NOW)
    history.leases.release_lease(deposed, NOW)
    assert history.leases.read_lease("plant").holder == "other"


def test_a_term_is_above_those_of_a_database_that_was_lost_or_restored(history: History) -> None:
    """What the fleet has heard of is in no database: of an earlier term it takes no word."""
    later = NOW + timedelta(hours=1)
    lease = history.leases.take_lease("plant", "one", NEVER_HELD, later)
    assert lease == Lease("plant", FIRST + 3600)
    # A clock that is behind changes nothing where the database knows better.
    assert taken(history, "two").term == FIRST + 3601


def test_of_many_who_try_at_once_one_gets_it(url: str) -> None:
    histories = [open_history(url) for _ in range(6)]
    seen = histories[0].leases.read_lease("plant")
    start, got = threading.Barrier(len(histories)), []

    def attempt(history: History) -> None:
        start.wait(10)
        got.append(history.leases.take_lease("plant", "x", seen, NOW))

    threads = [threading.Thread(target=attempt, args=(history,)) for history in histories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [lease for lease in got if lease] == [Lease("plant", FIRST)]
    assert len(got) == 6
    for history in histories:
        history.close()


WRITES: dict[str, Callable[[History], object]] = {
    "claim next run": lambda history: history.claim_next_run("plant", NOW),
    "record start": lambda history: history.record_start("r1", b"f", b"b", b"another model", NOW),
    "record round": lambda history: history.record_round(ROUND, NOW),
    "finish run": lambda history: history.finish_run("r1", "failed", "", NOW),
    "record node": lambda history: history.node_seen(
        "plant", NodeStatus(node="gw1", role="gateway", parent="cloud", state="online"), NOW
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_a_deposed_coordinator_still_writes_changes_nothing(history: History, url: str, name: str) -> None:
    started(history)
    old = history.led(taken(history, "old"))
    WRITES[name](old)
    new = history.led(taken(history, "new"))
    before = everything(url)
    with pytest.raises(LeaseLost, match=rf"{name}: new in term {FIRST + 1} leads fleet 'plant', not term {FIRST}"):
        WRITES[name](old)
    assert everything(url) == before
    WRITES[name](new)


def test_a_deposed_coordinator_keeps_nothing_and_so_acknowledges_nothing(history: History, url: str) -> None:
    started(history)
    old = history.led(taken(history, "old"))
    taken(history, "new")
    with pytest.raises(JournalFull, match=f"new in term {FIRST + 1} leads"):
        old.journal.keep(KEY, [Entry("gw1", b"")])
    assert everything(url)["pending"] == []


def test_people_ask_for_runs_and_stop_them_whoever_leads(history: History) -> None:
    taken(history, "leader")
    history.enqueue_run("r1", "plant", DESCRIPTION, None, NOW)
    assert history.request("r1", "stop", NOW).state == "stopped"


def test_a_takeover_waits_for_the_write_that_has_begun_under_the_old_term(history: History) -> None:
    """Else the old leader's write would be committed behind the new one's first look."""
    started(history)
    old = history.led(taken(history, "old"))
    seen = history.leases.read_lease("plant")
    proven, go, order = threading.Event(), threading.Event(), []

    def writes() -> None:
        with old._leading("record something"):
            proven.set()
            go.wait(10)
            order.append("written")

    def takes() -> None:
        lease = history.leases.take_lease("plant", "new", seen, NOW)
        order.append("taken" if lease else "not taken")

    threads = [threading.Thread(target=writes), threading.Thread(target=takes)]
    threads[0].start()
    assert proven.wait(10)
    threads[1].start()
    threads[1].join(0.3)
    assert order == []
    go.set()
    for thread in threads:
        thread.join(20)
    assert order == ["written", "taken"]


@pytest.mark.live
def test_a_leader_that_hangs_in_the_midst_of_a_write_is_taken_over_on_postgresql(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_S", 1.0)
    with database_url() as url:
        history, other = open_history(url), open_history(url)
        started(history)
        old = history.led(taken(history, "old"))
        with pytest.raises(HistoryAway), old._leading("record something") as session:  # noqa: PT012
            session.add(tables.Object(sha256=b"x", payload=b"x", size_bytes=1, created_at=NOW))
            session.flush()
            seen = other.leases.read_lease("plant")
            eventually(lambda: _takes(other, seen), 10)
        assert other.leases.read_lease("plant").holder == "new"
        assert b"x" not in {bytes(row[0]) for row in everything(url)["objects"]}  # type: ignore[call-overload]
        history.close()
        other.close()


def _takes(history: History, seen: LeaseRecord) -> bool:
    with contextlib.suppress(HistoryAway):
        return history.leases.take_lease("plant", "new", seen, NOW) is not None
    return False
