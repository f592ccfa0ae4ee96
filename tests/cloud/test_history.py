"""The history: named transactions on SQLite and PostgreSQL, what a fleet may do at once, and a database's faults."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from headwater.cloud.history import ClosedRound, History, open_history
from headwater.cloud.history.tables import Base
from headwater.core.sketch import sketch
from headwater.node.hosting import Contribution, Refused
from headwater.schemas.base import Split
from headwater.schemas.errors import HistoryError, RunFailed
from headwater.schemas.messages import Counts, Metric
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import NodeStatus
from headwater.schemas.tensors import encode_tensor
from support.postgres import database_url

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DESCRIPTION = RunDescription.model_validate(
    {"name": "n", "data": "d", "rounds": 2, "model": {"kind": "mlp", "features": 2, "classes": 2}}
)
ROUND = ClosedRound(
    run="r1",
    round=1,
    attempt=0,
    task="train",
    state="closed",
    cohort=2,
    received=2,
    devices=9,
    examples=90,
    weight=90.0,
    refused=1,
    bytes_down=10,
    bytes_up=20,
    opened_at=NOW,
    elapsed_s=0.5,
    measured=0,
    model=b"model 1",
    contributions=(Contribution("gw1", 40.0, 40, 4, 100, 0.2), Contribution("gw2", 50.0, 50, 5, 100, 0.4)),
    refusals=(Refused("gw2", "stale", "round 0 is over"),),
    metrics=(
        Metric(split="train", name="loss", total=180.0, weight=90.0),
        Metric(split="test", name="correct", total=5.0, weight=20.0),
    ),
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.live)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'history.db'}"
    else:
        with database_url() as address:
            yield address


@pytest.fixture
def history(url: str) -> Iterator[History]:
    opened = open_history(url)
    yield opened
    opened.close()


def started(history: History, run: str = "r1") -> None:
    history.enqueue_run(run, "plant", DESCRIPTION, None, NOW)
    assert history.claim_next_run("plant", NOW) is not None
    history.record_start(run, b"forward", b"bundle", b"model 0", NOW)


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


def test_a_database_of_the_first_schema_is_migrated_with_what_it_holds(url: str) -> None:
    open_history(url).close()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE tallies"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    old = History(engine, "old")
    old.enqueue_run("r1", "plant", DESCRIPTION, None, NOW)
    old.close()
    migrated = open_history(url)
    assert migrated.show_run("r1").id == "r1"
    assert migrated.rounds_of("r1") == ()
    migrated.close()


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


def test_two_active_runs_in_a_fleet_are_the_databases_own_refusal(history: History, url: str) -> None:
    for run in ("r1", "r2"):
        history.enqueue_run(run, "plant", DESCRIPTION, None, NOW)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with pytest.raises(Exception, match=r"(?i)unique"), engine.begin() as connection:
        connection.execute(text("UPDATE runs SET state = 'running'"))
    engine.dispose()


def test_a_queued_run_stops_at_once_and_a_running_one_is_asked_to(history: History) -> None:
    started(history)
    history.enqueue_run("r2", "plant", DESCRIPTION, None, NOW)
    assert history.request_stop("r2", NOW).state == "stopped"
    assert history.request_stop("r1", NOW).state == "running"
    assert history.stop_requested("r1")
    with pytest.raises(RunFailed, match="stopped already"):
        history.request_stop("r2", NOW)


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


def test_a_node_is_remembered(history: History) -> None:
    for state in ("online", "offline"):
        history.node_seen("plant", NodeStatus(node="gw1", role="gateway", parent="cloud", state=state), NOW)


def test_the_migrations_make_what_the_tables_say(history: History, url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


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
