"""What a node's page knows: its rounds from both sides, its refusals, its figures."""

from datetime import UTC, datetime
from typing import Any

import pytest

from headwater.dashboard.view import charts
from headwater.dashboard.view.device import of_newest_run, part_of, refusals_of, strip, turns_of
from headwater.dashboard.view.recorded import point, turns_and_refusals
from headwater.dashboard.view.state import Fleet, Happening, RoundName, Turn
from headwater.dashboard.view.summary import found, node_figures, said_of_itself
from headwater.schemas.http import NodeDetail, Part, RefusalEntry, Round
from headwater.schemas.statuses import DeviceFigures, Figures, NodeStatus, Times
from support.told import at_gateway, event, heard, member, node, round_status, run


def turn(number: int, state: str = "received", *, run: str = "r1", parent: str = "gw", at: float | None = None) -> Turn:
    name = RoundName(parent, run, number, 0, 0)
    told_at = float(number) if at is None else at
    return Turn(name, "train", told_at, state, 30, 0.5, after_s=float(number), loss=1 / number)  # type: ignore[arg-type]


def test_a_round_that_was_heard_and_is_in_the_history_is_there_once() -> None:
    closed = at_gateway(
        round_status("gw", 2, "closed", received=1, examples=60, members=(member("d1", "received", 30),))
    )
    turns = turns_of(heard((2.0, closed)), "d1", (turn(1), turn(2)))
    assert [told.round.round for told in turns] == [1, 2]
    assert turns[1].after_s is None, "what was heard is newer"


def test_the_history_names_no_parent_where_it_is_the_cloud() -> None:
    fleet = heard((1.0, node("cloud", None, role="cloud")))
    told = turns_of(Fleet(cloud=fleet.cloud, turns={"gw": (turn(3, parent="cloud"),)}), "gw", (turn(3, parent=""),))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("name", "is_recorded", "part"),
    [
        ("cloud", False, "leads"),
        ("gw", False, "takes part"),
        ("d1", False, "takes part"),
        ("d9", False, "nobody"),
        ("d9", True, "takes part"),
    ],
)
def test_what_a_node_has_to_do_with_rounds(name: str, is_recorded: bool, part: str) -> None:
    """Of the cloud, and of nobody, a page promises no rounds."""
    closed = at_gateway(round_status("gw", 2, "closed", received=1, members=(member("d1", "received", 30),)))
    fleet = heard((1.0, node("cloud", None, role="cloud")), (2.0, run("running", 2)), (3.0, closed))
    assert part_of(fleet, name, is_recorded) == part


def test_a_share_is_nothing_where_nothing_was_given() -> None:
    turns = (turn(1), turn(2, "refused")._replace(share=None))
    (share,) = charts.device_share(turns, charts.theme(dark=False))["series"]
    assert share["data"] == [[1, 50.0], [2, 0.0]]


def test_charts_show_one_run_in_the_order_of_its_rounds() -> None:
    turns = (turn(39, run="r0", at=1.0), turn(2, at=3.0), turn(1, at=2.0), turn(3, at=4.0))
    assert [told.round.round for told in of_newest_run(turns)] == [1, 2, 3]
    assert of_newest_run(()) == ()


def test_refusals_that_were_heard_go_before_those_of_the_history() -> None:
    fleet = heard((700.0, event("delta.refused", "d1", "1970-01-01T00:10:00Z", node="d1", reason="stale")))
    old, same = (Happening(name, at, "delta.refused", "d1") for name, at in (("old", 10.0), ("same", 599.0)))
    assert [told.id for told in refusals_of(fleet, "d1", (same, old))][1:] == ["old"]
    assert refusals_of(fleet, "d2", ()) == ()


def test_figures_are_of_the_rounds_that_it_was_asked_in() -> None:
    turns = (turn(1), turn(2, "refused"), turn(3, "idle"), turn(4))
    told = node_figures(None, turns, now=64.0)
    assert (told["rounds with it"], told["last training loss"], told["last sign of life"]) == (
        "2 of 3",
        "0.2500",
        "1 min 00 s ago",
    )
    assert strip(turns)[1] == ("refused", "round 2: refused")


def test_what_a_node_says_of_itself() -> None:
    update = {"version": "0.2.0", "state": "failed", "detail": "did not come up"}
    status = NodeStatus.model_validate(
        {
            "node": "d1",
            "role": "device",
            "parent": "gw",
            "state": "online",
            "software": "0.1.0",
            "data": {"pump": {"train_examples": 30, "test_examples": 10}},
            "battery_percent": 41.6,
            "update": update,
            "rollout": {"counter": 1, "stage": 1, "updated": 3, "under_way": 1},
        }
    )
    assert said_of_itself(status) == {
        "software": "0.1.0",
        "codecs": "plain float32",
        "update": "0.2.0: failed, did not come up",
        "release below it": "3 updated, 1 under way",
        "data pump": "30 to train on, 10 to test on",
        "battery": "42 %",
    }


# ── what the history answers ────────────────────────────────────────────────────────────────────────────────────

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_recorded_round_is_the_same_point_as_one_that_was_heard() -> None:
    common: dict[str, Any] = {
        "round": 2,
        "attempt": 0,
        "task": "train",
        "state": "closed",
        "cohort": 2,
        "received": 2,
        "devices": 2,
        "examples": 60,
        "refused": 0,
        "bytes_down": 10,
        "bytes_up": 5,
        "elapsed_s": 2.0,
        "loss": 0.5,
        "test_loss": 0.6,
        "accuracy": 0.9,
    }
    spread = Figures(by_device=DeviceFigures(devices=2, mean=0.8, worst_decile=0.7))
    times = Times(train_s=1.0, transfer_s=0.5, wait_s=0.5)
    told = point(Round(opened_at=AT, test=spread, times=times, **common))
    assert (told.at, told.mean, told.worst, told.times) == (AT.timestamp() + 2.0, 0.8, 0.7, times)
    assert {name: getattr(told, name) for name in common} == common


def test_a_nodes_record_is_turns_oldest_first_and_refusals_newest_first() -> None:
    common: dict[str, Any] = {
        "run": "r1",
        "step": 0,
        "attempt": 0,
        "task": "train",
        "node": "d1",
        "parent": None,
        "at": AT,
    }
    parts = [Part(round=n, state="received", examples=3, devices=1, share=0.5, size_bytes=9, **common) for n in (2, 1)]
    refused = RefusalEntry(round=2, reason="stale", detail="over", **common)
    seen = {
        "role": "device",
        "state": None,
        "software": "",
        "battery_percent": None,
        "first_seen_at": AT,
        "last_seen_at": AT,
    }
    detail = NodeDetail(fleet="plant", node="d1", parent=None, contributions=tuple(parts), refusals=(refused,), **seen)
    recorded = turns_and_refusals(detail)
    assert [(turn.round.round, turn.state, turn.share) for turn in recorded.turns] == [
        (1, "received", 0.5),
        (2, "received", 0.5),
    ]
    assert [(told.reason, told.at) for told in recorded.refusals] == [("stale", AT.timestamp())]


def test_a_node_is_found_by_the_letters_of_its_name_the_beginning_first() -> None:
    fleet = heard(*((1.0, node(name)) for name in ("pump-7", "old-pump", "fan")))
    assert found(fleet, "PUMP", 5) == ["pump-7", "old-pump"]
    assert found(fleet, "pump", 1) == ["pump-7"]
    assert found(fleet, " ", 5) == []
