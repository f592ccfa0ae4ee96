"""Clusters' rounds in the history: written down once, from who may say so, within bounds, and beside the rounds."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from headwater.cloud.clusters import AT_ONCE, MAX_WAITING, Clusters
from headwater.cloud.history import History
from headwater.cloud.history.reading import Part
from headwater.schemas.statuses import MemberStatus, NodeStatus, RoundStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from support.histories import DESCRIPTION, NOW, started

LATER = NOW + timedelta(seconds=9)
ALL = Part(limit=100)


def status(gateway: str = "gw1", **changes: Any) -> RoundStatus:
    told: dict[str, Any] = {
        "parent": gateway,
        "run": "r1",
        "round": 1,
        "step": 0,
        "attempt": 0,
        "task": "train",
        "state": "closed",
        "cohort": 2,
        "received": 1,
        "refused": 1,
        "devices": 1,
        "examples": 40,
        "members": (
            MemberStatus(
                node="d0", state="received", examples=40, devices=1, after_s=1.5, loss=0.25, train_s=1.25, size_bytes=77
            ),
            MemberStatus(node="d1", state="refused"),
            MemberStatus(node="d2", state="idle"),
        ),
    }
    return RoundStatus.model_validate(told | changes)


def test_a_clusters_round_is_there_once_however_often_it_is_told(history: History) -> None:
    started(history)
    assert history.clusters.record("plant", [status(), status()], NOW) == 1
    assert history.clusters.record("plant", [status(), status(step=1), status("gw2")], LATER) == 2
    kept = history.reading.clusters("r1", 1, ALL).entries
    assert [(one.status.parent, one.status.step, one.recorded_at) for one in kept] == [
        ("gw1", 0, NOW),
        ("gw1", 1, LATER),
        ("gw2", 0, LATER),
    ]
    assert kept[0].status == status()


def test_a_member_that_a_gateway_tells_twice_is_there_once_as_it_was_told_last(history: History) -> None:
    started(history)
    twice = (MemberStatus(node="d0", state="waiting"), MemberStatus(node="d0", state="received", examples=4))
    assert history.clusters.record("plant", [status(members=twice)], NOW) == 1
    (kept,) = history.reading.clusters("r1", 1, ALL).entries
    assert kept.status.members == twice[1:]


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(status(state="open"), id="still open"),
        pytest.param(status(run="r9"), id="no such run"),
        pytest.param(status(run="elsewhere"), id="another fleet's run"),
        pytest.param(status(round=4), id="beyond the run's rounds"),
        pytest.param(status(attempt=DESCRIPTION.cohort.attempts), id="an attempt that nobody asks for"),
        pytest.param(status(step=DESCRIPTION.edge_rounds), id="a step that nobody asks for"),
    ],
)
def test_what_is_no_part_of_a_known_run_is_passed_over(history: History, told: RoundStatus) -> None:
    started(history)
    history.enqueue_run("elsewhere", "ward", DESCRIPTION, None, NOW)
    assert history.clusters.record("plant", [told], NOW) == 0
    assert history.reading.nodes("plant", 10).entries == ()


def test_who_is_below_a_gateway_is_known_from_its_rounds_and_keeps_what_it_says_of_itself(history: History) -> None:
    started(history)
    history.node_seen("plant", NodeStatus(node="gw1", role="gateway", parent="cloud", state="online"), NOW)
    history.clusters.record("plant", [status()], NOW)
    history.clusters.record("plant", [status(step=1)], LATER)
    nodes = {node.node: node for node in history.reading.nodes("plant", 10).entries}
    assert {name: (n.role, n.parent, n.state) for name, n in nodes.items()} == {
        "gw1": ("gateway", "cloud", "online"),
        "d0": ("device", "gw1", ""),
        "d1": ("device", "gw1", ""),
        "d2": ("device", "gw1", ""),
    }
    assert (nodes["d0"].first_seen_at, nodes["d0"].last_seen_at) == (NOW, LATER)
    assert nodes["d2"].last_seen_at == NOW, "who was idle has said nothing"
    parts = history.reading.parts_of("plant", "d0", ALL).entries
    assert [(part.step, part.parent, part.examples, part.of_examples) for part in parts] == [
        (1, "gw1", 40, 40),
        (0, "gw1", 40, 40),
    ]
    assert history.reading.parts_of("plant", "d2", ALL).entries == ()
    assert [one.parent for one in history.reading.refusals_of("plant", "d1", ALL).entries] == ["gw1", "gw1"]
    assert history.reading.parts_of("ward", "d0", ALL).entries == ()


def test_a_cluster_of_a_thousand_is_written_down(history: History) -> None:
    started(history)
    members = tuple(MemberStatus(node=f"d{number}", state="received", examples=1) for number in range(1000))
    assert history.clusters.record("plant", [status(members=members)], NOW) == 1
    assert len(history.reading.nodes("plant", 2000).entries) == 1001


class Heard:
    """An ear, with what it wrote down. It is held up while `held` is not set."""

    def __init__(self) -> None:
        self.recorded: list[RoundStatus] = []
        self.held = asyncio.Event()
        self.clusters = Clusters("plant", self._record)

    async def _record(self, statuses: Sequence[RoundStatus]) -> None:
        await self.held.wait()
        assert len(statuses) <= AT_ONCE
        self.recorded += statuses

    def tell(self, told: RoundStatus, topic: str | None = None, payload: bytes | None = None) -> None:
        topic = topic or Topics("plant").cluster(told.parent)
        self.clusters.ear.on_message(topic, payload or encode_status(told), True)

    async def lives(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.clusters.run(), 0.2)


async def test_what_is_told_again_with_every_connection_is_written_down_once() -> None:
    heard = Heard()
    heard.held.set()
    for _ in range(2):
        for told in (status(state="open"), status(), status(), status(step=1)):
            heard.tell(told)
    await heard.lives()
    heard.tell(status(step=1))
    await heard.lives()
    assert [(one.parent, one.step) for one in heard.recorded] == [("gw1", 0), ("gw1", 1)]


async def test_a_gateway_speaks_for_itself_alone_and_what_is_no_status_is_dropped() -> None:
    heard = Heard()
    heard.held.set()
    heard.tell(status("gw1"), topic=Topics("plant").cluster("gw2"))
    heard.tell(status("gw1"), payload=b"{")
    heard.tell(status("gw1"), payload=b"\xff" * 100)
    heard.tell(status("gw3"))
    await heard.lives()
    assert [one.parent for one in heard.recorded] == ["gw3"]


async def test_while_the_database_is_away_the_newest_wait_and_no_more() -> None:
    heard = Heard()
    for number in range(MAX_WAITING + 10):
        heard.tell(status(f"gw{number}"))
    heard.held.set()
    await heard.lives()
    assert [one.parent for one in heard.recorded] == [f"gw{number}" for number in range(10, MAX_WAITING + 10)]
