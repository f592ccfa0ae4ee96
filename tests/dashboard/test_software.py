"""Which software a fleet runs, who is at an update, and how far a release is, in words."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.dashboard.view.software import (
    COUNTS,
    MAX_LINES,
    MAX_VERSIONS,
    RELEASES,
    REPLACED,
    UPDATES,
    Bar,
    earlier_lines,
    offered,
    software_figures,
    stages,
    updates,
    versions,
    why,
)
from headwater.dashboard.view.state import Fleet
from headwater.schemas.http import ReleaseEntry, ReleaseState
from headwater.schemas.statuses import RolloutStatus, UpdateState
from support.told import at_gateway, heard, member, node, round_status

AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M}"


def release(**changes: Any) -> ReleaseEntry:
    common: dict[str, Any] = {
        "fleet": "plant", "counter": 3, "version": "2.0", "wheel": "ab" * 32, "is_current": True, "state": "canary",
        "stage": 0, "stages": 3, "shares": (0.05, 0.5, 1.0), "canaries": ("d1",), "soak_s": 3600.0,
        "max_failures": 0.05, "well_since": None, "detail": "", "report": None, "wish": None, "published_at": AT,
        "changed_at": AT,
    }  # fmt: skip
    return ReleaseEntry.model_validate(common | changes)


def report(**counts: Any) -> RolloutStatus:
    return RolloutStatus.model_validate({"counter": 3, "stage": 0} | counts)


def fleet(*told: Any) -> Fleet:
    return heard(*((1.0, message) for message in told))


def device(name: str, parent: str = "gw1", **told: Any) -> Any:
    return node(name, parent, **told)


def updating(state: UpdateState, detail: str = "", version: str = "2.0") -> dict[str, Any]:
    return {"update": {"version": version, "state": state, "counter": 3, "detail": detail}}


def test_each_state_has_its_words() -> None:
    assert set(UPDATES) == set(get_args(UpdateState))
    assert set(RELEASES) == set(REPLACED) == set(get_args(ReleaseState))


# ── which software there is ─────────────────────────────────────────────────────────────────────────────────────


def test_versions_are_counted_over_devices_the_newest_first() -> None:
    known = fleet(
        node("cloud", None, role="cloud", software="9.9"),
        node("gw1", "cloud", role="gateway", software="9.9"),
        device("d1", software="0.9.0"),
        device("d2", software="0.10.0"),
        device("d3", software="0.10.0", state="offline"),
        at_gateway(round_status("gw2", 1, "closed", members=(member("d4"),))),
    )
    assert versions(known) == (
        Bar("0.10.0", "2 devices, 50 %; 1 offline", 0.5),
        Bar("0.9.0", "1 device, 25 %", 0.25),
        Bar("not told", "1 device, 25 %; their broker is none of those that this dashboard listens to", 0.25),
    )
    assert software_figures(known, updates(known, None)) == {
        "devices": "4", "versions": "2", "under way": "0", "failed": "0",
    }  # fmt: skip


def test_where_nobody_is_there_is_no_bar() -> None:
    assert versions(Fleet()) == ()


@given(st.lists(st.sampled_from(["", *(f"1.{number}" for number in range(20))]), max_size=60))
def test_bars_are_few_and_make_the_whole(running: list[str]) -> None:
    told = versions(fleet(*(device(f"d{number}", software=version) for number, version in enumerate(running))))
    assert len(told) <= MAX_VERSIONS + 2
    assert sum(bar.share for bar in told) == pytest.approx(1.0 if running else 0.0)


# ── who is at it ────────────────────────────────────────────────────────────────────────────────────────────────


def shown(known: Fleet, current: ReleaseEntry | None = None) -> list[tuple[str, str, str, str]]:
    return [tuple(cell.text for cell in line.cells) for line in updates(known, current).lines]  # type: ignore[misc]


def test_failed_updates_come_first_then_those_under_way_each_led_to_by_its_name() -> None:
    known = fleet(
        device("d1", **updating("updating")),
        device("d2", **updating("failed", "no room")),
        device("d3", **updating("updated")),
        device("d4"),
        device("d0", **updating("verified")),
    )
    assert shown(known) == [
        ("d2", "failed", "2.0", "no room"),
        ("d0", "verified, waits", "2.0", ""),
        ("d1", "updating", "2.0", ""),
    ]
    told = updates(known, None)
    assert (told.under_way, told.failed, told.more) == (2, 1, 0)
    assert [line.cells[0].href for line in told.lines] == ["/node/d2", "/node/d0", "/node/d1"]


FAILED = {"failed": 1, "failures": ({"node": "d7", "detail": "no room"},)}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        pytest.param((), [("d7", "failed", "–", "no room")], id="its own broker is not listened to"),
        pytest.param((device("d7", state="offline"),), [("d7", "failed", "–", "no room")], id="it is away"),
        pytest.param((device("d7", **updating("failed", "mine")),), [("d7", "failed", "2.0", "mine")], id="it says so"),
        pytest.param((device("d7", **updating("updated")),), [], id="it has it by now"),
        pytest.param((device("d7", **updating("updating")),), [("d7", "updating", "2.0", "")], id="it tries another"),
    ],
)
def test_what_a_device_says_of_itself_goes_before_what_others_say(
    own: tuple[Any, ...], expected: list[tuple[str, ...]]
) -> None:
    gateway = node("gw1", "cloud", role="gateway", rollout=report(**FAILED).model_dump())
    told = shown(fleet(gateway, device("d8", **updating("updated")), *own))
    assert told == expected


def test_the_release_tells_of_failures_that_no_broker_does() -> None:
    assert shown(Fleet(), release(report=report(**FAILED))) == [("d7", "failed", "2.0", "no room")]


def test_a_cluster_of_which_nobody_is_heard_is_told_by_its_gateway() -> None:
    """Of a gateway above gateways nothing is told twice."""
    below = report(updated=3, under_way=2, failed=18, failures=FAILED["failures"]).model_dump()
    known = fleet(
        node("gw0", "cloud", role="gateway", rollout=below),
        node("gw1", "gw0", role="gateway", rollout=below),
        node("gw2", "cloud", role="gateway", rollout=report(updated=5).model_dump()),
        node("gw3", "cloud", role="gateway", rollout=report(under_way=1).model_dump()),
        device("d1", "gw3", **updating("downloading")),
    )
    told = updates(known, None)
    assert (told.under_way, told.failed) == (3, 18)
    assert [(line.cells[0].text, line.cells[-1].text) for line in told.lines] == [
        ("d7", "no room"),
        ("d1", ""),
        ("gw1", "3 updated, 2 under way, 18 failed"),
    ]


def test_a_thousand_updates_are_a_table_of_stated_size() -> None:
    told = updates(fleet(*(device(f"d{number:04d}", **updating("downloading")) for number in range(1000))), None)
    assert (len(told.lines), told.more, told.under_way) == (MAX_LINES, 1000 - MAX_LINES, 1000)


# ── the release ─────────────────────────────────────────────────────────────────────────────────────────────────

HALF = report(updated=12, under_way=3, waiting=3, failed=1, away=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {},
            (Bar("d1 and 5 % of all", "nobody has answered yet", 0.0), Bar("50 % of all", "not yet", 0.0),
             Bar("everyone", "not yet", 0.0)),
            id="just published",
        ),
        pytest.param(
            {"stage": 1, "state": "wider", "report": HALF},
            (Bar("d1 and 5 % of all", "passed", 1.0),
             Bar("50 % of all", "12 updated, 3 under way, 3 waiting, 1 failed, 1 away", 0.6, 0.05),
             Bar("everyone", "not yet", 0.0)),
            id="in the middle",
        ),
        pytest.param(
            {"stages": 1, "shares": (1.0,), "canaries": (), "state": "done", "report": report(updated=4)},
            (Bar("everyone", "4 updated", 1.0),),
            id="all at once",
        ),
        pytest.param(
            {"stages": 2, "shares": (0.0, 1.0), "canaries": ("a", "b", "c", "d", "e"), "report": report()},
            (Bar("a, b, c, 2 more", "nobody has answered yet", 0.0), Bar("everyone", "not yet", 0.0)),
            id="canaries by name alone",
        ),
    ],
)  # fmt: skip
def test_a_stage_is_told_with_whom_it_asks_and_how_far_it_is(
    changes: dict[str, Any], expected: tuple[Bar, ...]
) -> None:
    assert stages(release(**changes)) == expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "It waits: no device has heard of it yet."),
        ({"detail": "2 under way, 1 waiting"}, "It waits: 2 under way, 1 waiting."),
        ({"detail": "all well, and soaking", "well_since": AT}, "All are well since 12:00; the next stage begins at 13:00."),
        ({"state": "paused", "detail": "paused by an operator"}, "Paused, and nobody is asked: paused by an operator."),
        ({"state": "done", "well_since": AT}, "Everyone who is there has it. Whoever was away takes it when they come back."),
        ({"wish": "pause"}, "Somebody asked to pause it; the coordinator has not seen that yet."),
    ],
)  # fmt: skip
def test_why_it_goes_no_further_is_said_in_a_sentence(changes: dict[str, Any], said: str) -> None:
    assert why(release(**changes), clock) == said


@pytest.mark.parametrize(
    ("state", "wish", "may"),
    [
        ("canary", None, "pause"), ("wider", None, "pause"), ("done", None, "pause"), ("paused", None, "resume"),
        ("canary", "pause", "resume"), ("paused", "resume", "pause"), ("paused", "pause", "resume"),
    ],
)  # fmt: skip
def test_what_may_be_asked_of_it_takes_back_what_was_asked(state: str, wish: str | None, may: str) -> None:
    assert offered(release(state=state, wish=wish)) == may


def test_earlier_releases_say_how_far_they_came() -> None:
    older = release(counter=2, is_current=False, state="paused", report=report(updated=4, failed=1))
    oldest = release(counter=1, is_current=False, version="1.0", published_at=AT - timedelta(hours=1), state="done")
    told = earlier_lines((release(), older, oldest), clock)
    assert [tuple(cell.text for cell in line.cells) for line in told] == [
        ("2", "2.0", "was paused", "1 of 3", "4", "1", "12:00"),
        ("1", "1.0", "was done", "1 of 3", "–", "–", "11:00"),
    ]


@given(st.fixed_dictionaries({name: st.integers(0, 5) for name in COUNTS}), st.integers(0, 2))
def test_a_bar_is_never_more_than_full(counts: dict[str, int], stage: int) -> None:
    for bar in stages(release(stage=stage, report=report(**counts))):
        assert 0.0 <= bar.share <= bar.share + bar.failed <= 1.0 + 1e-9
