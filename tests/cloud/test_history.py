"""The history: named transactions on SQLite and PostgreSQL, what a fleet may do at once, and a database's faults."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, OperationalError

from headwater.cloud.history import History, HistoryAway, open_history
from headwater.cloud.history.faults import named
from headwater.cloud.history.migrating import configured
from headwater.cloud.history.opening import MIGRATIONS, _address, _engine, revisions
from headwater.cloud.history.reading import Part
from headwater.cloud.history.states import Rest
from headwater.cloud.history.tables import Base, Object
from headwater.core.sketch import sketch
from headwater.node.hosting import Refused
from headwater.schemas.base import Split
from headwater.schemas.errors import ConfigError, HistoryError, RunFailed
from headwater.schemas.limits import MAX_COUNT
from headwater.schemas.messages import Counts, Metric, RoundKey
from headwater.schemas.statuses import NodeStatus, RoundStatus
from headwater.schemas.tensors import encode_tensor
from support.histories import DESCRIPTION, KEY, NOW, ROUND, entry, started


def migrate_down(url: str, revision: str) -> None:
    engine = _engine(_address(url))
    with engine.begin() as connection:
        command.downgrade(configured(connection, MIGRATIONS), revision)
    engine.dispose()


def test_a_round_is_written_whole_and_read_back(history: History) -> None:
    started(history)
    history.record_round(ROUND, NOW)
    assert history.model_of("r1") == (1, b"model 1")
    assert history.model_of("r1", 0) == (0, b"model 0")
    assert history.bundle_of("r1") == b"bundle"
    assert history.forward_of("r1") == b"forward"
    (told,) = history.rounds_of("r1")
    assert (told.round, told.devices, told.loss, told.accuracy) == (1, 9, 2.0, None)
    assert history.show_run("r1").round == 1


def test_test_metrics_belong_to_the_model_that_was_measured(history: History) -> None:
    started(history)
    history.record_round(ROUND, NOW)
    measured_next = Metric(split="test", name="correct", total=15.0, weight=20.0)
    history.record_round(replace(ROUND, round=2, measured=1, model=b"model 2", metrics=(measured_next,)), NOW)
    assert [told.accuracy for told in history.rounds_of("r1")] == [0.75, None]


def counts(split: Split, name: str, *values: float) -> Counts:
    return Counts(split=split, name=name, values=encode_tensor(np.array(values, np.float64)))


def test_tallies_are_kept_and_told_as_figures_of_the_model_that_was_measured(history: History) -> None:
    started(history)
    of_training = (counts("train", "error_sketch", *sketch([1.0, 1.0, 100.0])),)
    history.record_round(replace(ROUND, tallies=of_training), NOW)
    of_testing = (
        counts("test", "class_examples", 4, 2),
        counts("test", "class_correct", 3, 1),
        counts("test", "class_predicted", 4, 2),
    )
    for _ in range(2):
        history.record_round(replace(ROUND, round=2, measured=1, model=b"model 2", tallies=of_testing), NOW)
    first, second = history.rounds_of("r1")
    assert first.train is not None
    assert first.train.error_quantiles["p99"] == pytest.approx(100.0, rel=0.12)
    assert first.test is not None
    assert first.test.balanced_accuracy == 0.625
    assert [of_class.recall for of_class in first.test.classes] == [0.75, 0.5]
    assert (second.train, second.test) == (None, None)


def test_coordinators_that_start_together_on_an_empty_database_make_it_once(url: str) -> None:
    start = threading.Barrier(4)

    def opened() -> str | None:
        start.wait(10)
        history = open_history(url)
        try:
            return history.show_run("r1").id
        except RunFailed as error:
            return str(error)
        finally:
            history.close()

    with ThreadPoolExecutor(4) as pool:
        found = [future.result(60) for future in [pool.submit(opened) for _ in range(4)]]
    assert found == ["run 'r1': no such run; the newest are none"] * 4


def test_a_new_file_in_which_another_is_just_writing_is_waited_for(tmp_path: Path) -> None:
    """SQLite answers the switch to WAL "database is locked" at once, whatever patience it was told."""
    file = tmp_path / "history.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE theirs (value INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO theirs VALUES (1)")
    with pytest.raises(sqlite3.OperationalError, match="locked"), sqlite3.connect(file, timeout=5.0) as impatient:
        impatient.execute("PRAGMA journal_mode=WAL")
    ending = threading.Timer(0.5, other.execute, ["COMMIT"])
    ending.start()
    open_history(f"sqlite:///{file}").close()
    ending.join()


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0005", "0006", "0007", "0008", "0009", "0010"])
def test_a_database_of_an_older_schema_is_migrated_with_what_it_holds(url: str, revision: str) -> None:
    history = open_history(url)
    started(history)
    late = replace(ROUND.contributions[0], key=RoundKey(run="r1", round=0), factor=0.5)
    history.record_round(replace(ROUND, contributions=(*ROUND.contributions, late)), NOW)
    history.close()
    migrate_down(url, revision)
    migrated = open_history(url)
    (told,) = migrated.rounds_of("r1")
    assert (told.round, told.devices) == (1, 9)
    assert told.times == (ROUND.times if revision >= "0008" else None)
    # What the older schema could not say of a contribution is what was true of every one of its own.
    could_say = {("gw1", late.key)} if revision >= "0003" else set()
    own = {(node, RoundKey(run="r1", round=1)) for node in ("gw1", "gw2")}
    assert migrated.counted("r1", 0) == own | could_say
    migrated.record_round(replace(ROUND, round=2, measured=1, model=b"model 2"), NOW)
    assert migrated.model_of("r1") == (2, b"model 2")
    migrated.close()


def test_a_round_and_its_parts_are_told_with_their_times(history: History) -> None:
    started(history)
    history.record_round(ROUND, NOW)
    history.record_round(replace(ROUND, round=2, measured=1, times=None, model=b"model 2", contributions=()), NOW)
    first, second = history.rounds_of("r1")
    assert (first.times, second.times) == (ROUND.times, None)
    told = history.reading.contributions("r1", 1, Part(10)).entries
    assert {part.node: (part.train_s, part.loss) for part in told} == {"gw1": (0.1, 0.75), "gw2": (None, None)}


def remembering(history: History, memory: bytes, round_: int, run: str = "r1") -> None:
    patch = f"patch {round_}".encode()
    closed = replace(ROUND, run=run, contributions=(), round=round_, measured=round_ - 1, memory=memory, patch=patch)
    history.record_round(replace(closed, model=f"model {run} {round_}".encode()), NOW)


def objects(history: History) -> set[bytes]:
    with history._transaction("look") as session:
        return set(session.scalars(select(Object.payload)))


def test_the_newest_version_comes_with_its_memory_and_those_of_older_ones_make_room(history: History) -> None:
    """A mask alone is the same memory in each round, and two runs may remember the same."""
    started(history)
    for round_, memory in enumerate((b"momentum 1", b"momentum 2", b"a mask", b"a mask"), 1):
        remembering(history, memory, round_)
        newest = history.newest_version("r1")
        assert (newest.number, newest.memory, newest.patch) == (round_, memory, f"patch {round_}".encode())
    history.finish_run("r1", "finished", "", NOW)
    assert not {b"momentum 1", b"momentum 2"} & objects(history)
    started(history, "r2")
    remembering(history, b"a mask", 1, "r2")
    remembering(history, b"another mask", 2, "r2")
    assert history.newest_version("r1").memory == b"a mask"
    assert history.newest_version("r2").memory == b"another mask"


def test_a_version_that_had_a_memory_goes_on_without_it_behind_an_older_schema(url: str) -> None:
    history = open_history(url)
    started(history)
    remembering(history, b"momentum", 1)
    history.close()
    migrate_down(url, "0004")
    migrated = open_history(url)
    newest = migrated.newest_version("r1")
    assert (newest.number, newest.model, newest.memory, newest.patch) == (1, b"model r1 1", None, None)
    remembering(migrated, b"momentum", 2)
    assert migrated.newest_version("r1").memory == b"momentum"
    migrated.close()


def test_a_round_of_the_largest_counts_is_written(history: History) -> None:
    """A thousand children of a few megabytes pass what four bytes hold; a coordinator would end at every such round."""
    started(history)
    key = RoundKey(run="r1", round=1, attempt=MAX_COUNT)
    given = replace(ROUND.contributions[0], examples=MAX_COUNT, devices=MAX_COUNT, key=key)
    history.journal.keep(KEY, [entry("gw1", answers=key)])
    counts = {"devices": MAX_COUNT, "examples": MAX_COUNT, "bytes_down": 2**40, "bytes_up": 2**40}
    history.record_round(replace(ROUND, contributions=(given,), **counts), NOW)
    (told,) = history.rounds_of("r1")
    assert (told.devices, told.examples, told.bytes_up) == (MAX_COUNT, MAX_COUNT, 2**40)
    assert history.counted("r1", 0) == {("gw1", key)}


def test_a_round_recorded_twice_is_there_once(history: History) -> None:
    started(history)
    for _ in range(2):
        history.record_round(ROUND, NOW)
    assert len(history.rounds_of("r1")) == 1


def test_a_round_that_cannot_be_written_leaves_nothing(history: History) -> None:
    started(history)
    twice = replace(ROUND, contributions=(ROUND.contributions[0], ROUND.contributions[0]))
    with pytest.raises(HistoryError, match="record round"):
        history.record_round(twice, NOW)
    assert history.rounds_of("r1") == ()
    assert history.model_of("r1") == (0, b"model 0")


def test_a_fleet_works_on_one_run_at_a_time_in_the_order_asked_for(history: History) -> None:
    for run in ("r1", "r2"):
        history.enqueue_run(run, "plant", DESCRIPTION, None, NOW)
    history.enqueue_run("other", "ward", DESCRIPTION, None, NOW)
    for _ in range(2):
        claimed = history.claim_next_run("plant", NOW)
        assert claimed is not None
        assert claimed.id == "r1"
    history.finish_run("r1", "finished", "", NOW)
    claimed = history.claim_next_run("plant", NOW)
    assert claimed is not None
    assert claimed.id == "r2"
    assert history.claim_next_run("nobody", NOW) is None


@pytest.mark.parametrize("other", ["running", "paused"])
def test_two_active_runs_in_a_fleet_are_the_databases_own_refusal(history: History, url: str, other: str) -> None:
    for run in ("r1", "r2"):
        history.enqueue_run(run, "plant", DESCRIPTION, None, NOW)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    active = text("UPDATE runs SET state = CASE id WHEN 'r1' THEN 'running' ELSE :other END")
    with pytest.raises(Exception, match=r"(?i)unique"), engine.begin() as connection:
        connection.execute(active, {"other": other})
    engine.dispose()


def test_a_queued_run_stops_at_once_and_a_running_one_is_asked_to(history: History) -> None:
    started(history)
    history.enqueue_run("r2", "plant", DESCRIPTION, None, NOW)
    assert history.request("r2", "stop", NOW).state == "stopped"
    assert history.request("r1", "stop", NOW).state == "running"
    assert history.standing("r1").wish == "stop"
    with pytest.raises(RunFailed, match="stopped already"):
        history.request("r2", "stop", NOW)


def test_a_paused_run_keeps_its_fleet_until_it_goes_on_or_is_stopped(history: History) -> None:
    started(history)
    history.enqueue_run("r2", "plant", DESCRIPTION, None, NOW)
    assert history.request("r1", "pause", NOW).state == "running"
    assert history.hold_run("r1", NOW).state == "paused"
    assert [history.claim_next_run("plant", NOW).id, history.show_run("r1").state] == ["r1", "paused"]  # type: ignore[union-attr]
    assert (history.request("r1", "resume", NOW).state, history.standing("r1").wish) == ("running", "go on")
    assert history.hold_run("r1", NOW).state == "running", "somebody has thought better of it"
    history.request("r1", "pause", NOW)
    assert history.hold_run("r1", NOW).state == "paused"
    assert (history.request("r1", "stop", NOW).state, history.standing("r1").wish) == ("paused", "stop")
    history.finish_run("r1", "stopped", "", NOW)
    assert history.claim_next_run("plant", NOW).id == "r2"  # type: ignore[union-attr]


def test_how_often_and_how_long_a_run_rested_is_kept(history: History) -> None:
    started(history)
    for at_s in (10, 50):
        history.request("r1", "pause", NOW)
        history.hold_run("r1", NOW + timedelta(seconds=at_s))
        if at_s == 10:
            history.request("r1", "resume", NOW + timedelta(seconds=40))
    rest = history.show_run("r1").rest
    assert rest == Rest(2, 30.0, NOW + timedelta(seconds=50)) == history.standing("r1").rest
    history.request("r1", "stop", NOW + timedelta(seconds=60))
    history.finish_run("r1", "stopped", "", NOW + timedelta(seconds=61))
    told = history.show_run("r1")
    assert told.ended_at is not None
    assert told.rest.worked_s(NOW, told.ended_at) == 20.0


def test_a_run_that_rested_under_an_older_schema_has_rested_once(url: str) -> None:
    history = open_history(url)
    started(history)
    history.request("r1", "pause", NOW)
    history.hold_run("r1", NOW)
    history.close()
    migrate_down(url, "0009")
    migrated = open_history(url)
    assert migrated.show_run("r1").rest == Rest(1, 0.0, None)
    migrated.request("r1", "resume", NOW)
    assert migrated.show_run("r1").rest == Rest(1, 0.0, None)
    migrated.close()


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda history: history.show_run("r9"), "no such run; the newest are r1"),
        (lambda history: history.model_of("r1", 7), "no model of round 7; it has 0 to 0"),
        (lambda history: history.enqueue_run("r1", "plant", DESCRIPTION, None, NOW), "give another with --id"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(history: History, ask: object, says: str) -> None:
    started(history)
    with pytest.raises(RunFailed, match=says):
        ask(history)  # type: ignore[operator]


@pytest.mark.parametrize(("run", "fleet", "field"), [("a/b", "plant", "run"), ("r1", "my fleet", "fleet")])
def test_a_run_that_could_not_be_told_of_is_not_kept(history: History, run: str, fleet: str, field: str) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: '.*': use 1 to 64 letters"):
        history.enqueue_run(run, fleet, DESCRIPTION, None, NOW)
    assert history.list_runs() == ()


def test_who_lists_runs_reads_no_models(history: History) -> None:
    started(history)
    asked: list[str] = []
    event.listen(history._engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    assert [run.id for run in history.list_runs()] == ["r1"]
    told = " ".join(asked)
    assert "runs.description" in told
    assert "runs.forward" not in told
    assert "runs.initial" not in told
    assert history.forward_of("r1") == b"forward"


def test_a_node_is_remembered(history: History) -> None:
    later = NOW + timedelta(minutes=1)
    for state, at in (("online", NOW), ("offline", later)):
        history.node_seen("plant", NodeStatus(node="gw1", role="gateway", parent="cloud", state=state), at)
    (seen,) = history.reading.nodes("plant", 10).entries
    assert (seen.node, seen.role, seen.parent, seen.state) == ("gw1", "gateway", "cloud", "offline")
    assert (seen.first_seen_at, seen.last_seen_at) == (NOW, later)


def test_the_migrations_make_what_the_tables_say(history: History, url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_the_files_of_migrations_are_named_as_alembic_finds_them() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    found = ScriptDirectory.from_config(config).walk_revisions()
    assert tuple(script.revision for script in found)[::-1] == revisions()


def test_who_finds_nothing_to_migrate_does_not_load_alembic(url: str) -> None:
    open_history(url).close()
    script = "import sys; from headwater.cloud.history import open_history; open_history(sys.argv[1]).close()"
    script += "; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script, url], timeout=60).returncode == 0


def test_a_newer_database_is_left_alone(url: str) -> None:
    open_history(url).close()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(HistoryError, match=r"schema 9999 is newer than this software's .*; upgrade Headwater"):
        open_history(url)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("no url", "no SQLAlchemy URL"),
        ("sqlite:////no/such/folder/x.db", "unable to open"),
        ("postgresql://u:s3cret@127.0.0.1:1/x", "check that it runs"),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(address: str, says: str) -> None:
    with pytest.raises(HistoryError, match=says) as caught:
        open_history(address)
    assert "s3cret" not in str(caught.value)


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    history = open_history(f"sqlite:///{tmp_path / 'history.db'}")
    started(history)
    history.record_round(ROUND, NOW)
    with history._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        # The pool hands the same connection out again, with its limit.
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(HistoryError, match=r"full.*free some space"):
        history.record_round(replace(ROUND, round=2, model=b"x" * 1_000_000), NOW)
    assert history.show_run("r1").round == 1
    assert history.model_of("r1") == (1, b"model 1")
    history.close()


def test_two_processes_share_a_database(url: str) -> None:
    open_history(url).close()
    script = (
        "import sys; from datetime import UTC, datetime; from headwater.cloud.history import open_history\n"
        "from headwater.schemas.run import RunDescription\n"
        "d = RunDescription.model_validate_json(sys.argv[3]); h = open_history(sys.argv[1])\n"
        "for i in range(20): h.enqueue_run(f'{sys.argv[2]}-{i}', 'plant', d, None, datetime.now(UTC))\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url, name, DESCRIPTION.model_dump_json()]) for name in "ab"
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    history = open_history(url)
    assert len(history.list_runs("plant")) == 40
    history.close()


def test_the_next_attempt_is_the_one_with_deltas_or_follows_the_last_that_failed(history: History) -> None:
    started(history)
    assert history.next_attempt("r1", 1, "train") == 0
    failed = replace(ROUND, state="failed", model=None, contributions=(), metrics=())
    history.record_round(failed, NOW)
    assert history.next_attempt("r1", 1, "train") == 1
    history.journal.keep(RoundKey(run="r1", round=1, attempt=1), [entry("gw1")])
    assert history.next_attempt("r1", 1, "train") == 1
    assert history.next_attempt("r1", 2, "train") == 0
    history.record_round(replace(failed, attempt=1), NOW)
    assert history.next_attempt("r1", 1, "train") == 2
    history.record_round(replace(ROUND, attempt=2), NOW)
    assert history.next_attempt("r1", 1, "train") is None
    assert history.next_attempt("r1", 1, "evaluate") == 0


def test_an_update_that_a_closed_round_holds_is_counted_as_far_back_as_asked(history: History) -> None:
    started(history)
    history.record_round(ROUND, NOW)
    fresh, late = RoundKey(run="r1", round=2), RoundKey(run="r1", round=1, attempt=1)
    given = tuple(replace(ROUND.contributions[0], key=key) for key in (fresh, late))
    history.record_round(replace(ROUND, round=2, model=b"model 2", contributions=given), NOW)
    failed = (replace(ROUND.contributions[1], key=fresh),)
    history.record_round(replace(ROUND, round=3, state="failed", model=None, contributions=failed), NOW)
    assert history.counted("r1", 2) == {("gw1", fresh)}
    of_round_1 = {(node, RoundKey(run="r1", round=1)) for node in ("gw1", "gw2")}
    assert history.counted("r1", 1) == {("gw1", fresh), ("gw1", late)} | of_round_1


def test_a_run_that_keeps_its_deltas_has_them_by_their_hash(history: History, url: str) -> None:
    started(history)
    with_payload = replace(ROUND.contributions[0], payload=b"of gw1", factor=0.5)
    history.record_round(replace(ROUND, contributions=(with_payload, ROUND.contributions[1])), NOW)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT node, factor, c.size_bytes, payload FROM contributions c LEFT JOIN objects USING (sha256) "
                "ORDER BY node"
            )
        ).all()
    engine.dispose()
    assert [(row[0], row[1], row[2], row[3] and bytes(row[3])) for row in rows] == [
        ("gw1", 0.5, 6, b"of gw1"),
        ("gw2", 1.0, 6, None),
    ]


class PowerCut(Exception):
    """Just before a commit."""


@pytest.mark.parametrize(
    "write",
    [
        lambda history: history.record_start("r1", b"f", b"b", b"other", NOW),
        lambda history: history.record_round(ROUND, NOW),
        lambda history: history.finish_run("r1", "finished", "", NOW),
        lambda history: history.request("r1", "pause", NOW),
        lambda history: history.journal.keep(KEY, [entry("gw1")]),
        lambda history: history.leases.take_lease("plant", "x", history.leases.read_lease("plant"), NOW),
        lambda history: history.enqueue_run("r2", "plant", DESCRIPTION, None, NOW),
    ],
    ids=["record start", "record round", "finish run", "pause", "keep", "take lease", "enqueue"],
)
def test_a_transaction_that_was_cut_off_before_its_commit_left_nothing(
    history: History, url: str, write: Callable[[History], object]
) -> None:
    started(history)
    history.journal.keep(KEY, [entry("gw2")])

    def cut(connection: object) -> None:
        raise PowerCut

    def state() -> object:
        with open_history(url)._transaction("look") as session:
            tables = Base.metadata.sorted_tables
            return {table.name: [tuple(row) for row in session.execute(select(table))] for table in tables}

    before = state()
    event.listen(history._engine, "commit", cut)
    with pytest.raises(PowerCut):
        write(history)
    event.remove(history._engine, "commit", cut)
    assert state() == before
    write(history)
    assert state() != before


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OperationalError("s", {}, sqlite3.OperationalError("database or disk is full")), True),
        (OperationalError("s", {}, sqlite3.OperationalError("database is locked")), True),
        (OperationalError("s", {}, sqlite3.OperationalError("disk I/O error")), True),
        (OperationalError("s", {}, sqlite3.OperationalError("no such table: runs")), False),
        (DatabaseError("s", {}, sqlite3.DatabaseError("database disk image is malformed")), False),
        (DatabaseError("s", {}, Exception("server closed"), connection_invalidated=True), True),
        (IntegrityError("s", {}, sqlite3.IntegrityError("UNIQUE constraint failed")), False),
    ],
    ids=lambda value: str(value.orig) if isinstance(value, DBAPIError) else "",
)
def test_a_fault_passes_or_it_does_not(error: DBAPIError, passes: bool) -> None:
    with pytest.raises(HistoryError) as caught, named("x", "t"):
        raise error
    assert isinstance(caught.value, HistoryAway) is passes


def test_what_others_say_may_hold_what_a_database_takes_for_no_text(history: History) -> None:
    started(history)
    words = Refused("gw2", "stale", "round \x000 is over")
    history.record_round(replace(ROUND, refusals=(words,)), NOW)
    gateway = NodeStatus(node="gw2", role="gateway", parent="cloud", state="online", software="1\x00")
    history.node_seen("plant", gateway, NOW)
    history.finish_run("r1", "failed", "gw2 said \x00", NOW)
    (told,) = history.reading.refusals("r1", Part(limit=9)).entries
    assert (told.detail, history.show_run("r1").failure) == ("round \ufffd0 is over", "gw2 said \ufffd")


def test_two_that_hear_of_a_node_first_at_once_both_write_it(history: History) -> None:
    started(history)
    gateway = NodeStatus(node="gw1", role="gateway", parent="cloud", state="online", software="1")
    told = RoundStatus.model_validate(
        {"parent": "gw1", "run": "r1", "round": 1, "step": 0, "attempt": 0, "task": "train", "state": "closed"}
        | {"cohort": 0, "received": 0, "refused": 0}
    )
    slow, met = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        met.set()
        slow.wait(0.5)

    event.listen(history._engine, "commit", hold, once=True)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(history.clusters.record, "plant", [told], NOW)
        assert met.wait(5)
        history.node_seen("plant", gateway, NOW)
        assert first.result() == 1
    assert history.reading.node("plant", "gw1").software == "1"
