"""A run and a round as the history's tests know them."""

from datetime import UTC, datetime

import numpy as np
from sqlalchemy import text

from headwater.cloud.history import ClosedRound, History
from headwater.node.hosting import Contribution, Refused
from headwater.node.journal import Entry
from headwater.schemas.messages import Delta, Metric, RoundKey
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import Times
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode, reference

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DESCRIPTION = RunDescription.model_validate(
    {"name": "n", "data": "d", "rounds": 2, "edge_rounds": 4, "model": {"kind": "mlp", "features": 2, "classes": 2}}
)
KEY = RoundKey(run="r1", round=1)
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
    times=Times(train_s=0.1, transfer_s=0.2, wait_s=0.2, aggregate_s=0.05),
    model=b"model 1",
    contributions=(
        Contribution("gw1", 40.0, 40, 4, 0.2, KEY, 1.0, reference(b"of gw1"), loss=0.75, train_s=0.1),
        Contribution("gw2", 50.0, 50, 5, 0.4, KEY, 1.0, reference(b"of gw2")),
    ),
    refusals=(Refused("gw2", "stale", "round 0 is over"),),
    metrics=(
        Metric(split="train", name="loss", total=180.0, weight=90.0),
        Metric(split="test", name="correct", total=5.0, weight=20.0),
    ),
)


def started(history: History, run: str = "r1") -> None:
    """A run of fleet `plant` that has begun, with a first model."""
    history.enqueue_run(run, "plant", DESCRIPTION, None, NOW)
    assert history.claim_next_run("plant", NOW) is not None
    history.record_start(run, b"forward", b"bundle", b"model 0", NOW)


def queued_unchecked(history: History, run: str, fleet: str, now: datetime = NOW) -> None:
    """As older software queued a run: by whatever name it was asked for."""
    history.enqueue_run("unchecked", "unchecked", DESCRIPTION, None, now)
    with history._transaction("as it was") as session:
        names = {"run": run, "fleet": fleet}
        session.execute(text("UPDATE runs SET id = :run, fleet = :fleet WHERE id = 'unchecked'"), names)


def entry(node: str, value: float = 1.0, *, answers: RoundKey = KEY, size: int = 3) -> Entry:
    """What a journal is given of one child."""
    delta = Delta(
        key=answers,
        sender=node,
        task="train",
        weight=1.0,
        examples=1,
        devices=1,
        tensors=encode_tensors([np.full(size, value, np.float32)]),
    )
    return Entry(node, encode(delta))
