"""Numbers for people, what is said of what is away, and what happened."""

from datetime import UTC, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from headwater.dashboard.pages.site import Visitor
from headwater.dashboard.view import words
from headwater.dashboard.view.asked import described
from headwater.dashboard.view.banner import Trouble, problems
from headwater.dashboard.view.events import chosen
from headwater.dashboard.view.fold import linked
from headwater.dashboard.view.state import Fleet, Happening, Link
from headwater.schemas.errors import ConfigError
from support.told import heard, node


@pytest.mark.parametrize("zone", ["Europe", "Nowhere/At_All", "", "../etc/passwd", "None"])
def test_a_browser_whose_zone_is_none_is_shown_utc(zone: str) -> None:
    visitor = Visitor()
    visitor.told("auto", False, zone)
    assert visitor.zone is UTC


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (999_600, "1.0 MB"),
        (2.5e9, "2.5 GB"),
    ],
)
def test_sizes(size_bytes: float | None, said: str) -> None:
    assert words.size(size_bytes) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0.0123, "12 ms"),
        (0.99999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (12_000, "3 h 20 min"),
        (360_000, "4 d 4 h"),
    ],
)
def test_durations(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


def test_a_time_of_another_day_has_its_date() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert words.clock(0.0, berlin, now=10.0) == "01:00:00"
    assert words.clock(0.0, berlin, now=90_000.0) == "1970-01-01 01:00:00"
    assert words.clock(0.0, timezone(timedelta(hours=-2)), now=0.0) == "22:00:00"


@pytest.mark.parametrize("at", [-62_135_596_800.0, 253_402_300_799.0])
def test_a_time_at_the_end_of_all_times_is_unknown_and_no_pages_fall(at: float) -> None:
    """A node says what time it likes, and whoever reads is in the zone that they are in."""
    zones = (timezone(timedelta(hours=-10)), timezone(timedelta(hours=14)))
    assert words.UNKNOWN in {words.clock(at, zone, now=0.0) for zone in zones}


def test_what_is_away_is_said_by_name_with_its_time() -> None:
    fleet = linked(Fleet(), Link("cloud", "10.0.0.7:1883", "away", 60.0))
    fleet = linked(
        fleet, Link("site", "10.0.0.8:1883", "refused", 60.0, "may not read x; let the broker's rules allow it")
    )
    fleet = heard(
        (1.0, node("cloud", None, role="cloud")),
        (120.0, node("cloud", None, role="cloud", state="offline")),
        fleet=fleet,
    )
    said = problems(fleet, Trouble("http://cloud", "no connection", 180.0), UTC, 200.0)
    assert [
        any(part in line for line in said)
        for part in ("10.0.0.7:1883", "may not read x", "cloud has been away since", "http://cloud")
    ] == [True] * 4
    assert [time in line for time, line in zip(("00:01:00", "", "00:02:00", "00:03:00"), said, strict=True)] == [
        True
    ] * 4


def test_nothing_is_said_where_nothing_is_away() -> None:
    fleet = linked(heard((1.0, node("cloud", None, role="cloud"))), Link("cloud", "h:1", "up", 0.0))
    assert problems(fleet, None, UTC, 5.0) == ()


def test_events_are_narrowed_by_kind_and_by_words() -> None:
    told = (
        Happening("1", 1.0, "node.offline", "d1"),
        Happening("2", 2.0, "delta.refused", "d2", "r1", 3, "stale", "round 2 is over"),
        Happening("3", 3.0, "round.closed", "cloud", "r1", 3),
    )
    every = frozenset({"nodes", "refusals", "rounds", "runs"})
    assert [h.id for h in chosen(told, every, "")] == ["3", "2", "1"]
    assert [h.id for h in chosen(told, frozenset({"refusals"}), "")] == ["2"]
    assert [h.id for h in chosen(told, every, "OVER")] == ["2"]
    assert [h.id for h in chosen(told, every, "", most=1)] == ["3"]


# ── a run that is asked for ─────────────────────────────────────────────────────────────────────────────────────

TOML = 'name = "n"\ndata = "d"\nrounds = 3\nmodel = {kind = "mlp", features = 2, classes = 2}\n'


def test_a_run_is_read_from_toml_or_json_alike() -> None:
    told = described(TOML, has_forward=False)
    assert described(told.model_dump_json(), has_forward=False) == told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("name = ", "run:1"),
        (TOML.replace("rounds = 3", 'rounds = "x"'), "rounds"),
        ('{"name": "n"}', "data"),
        ('{"name": "n", "data": "d", "rounds": 0}', r"run: rounds: .*greater than or equal to 1 \(it is 0\)\n.*model"),
        ('{"name": ', "run: Expecting value: line 1.*; this is no JSON"),
        ('{"a":' * 50_000, "this is no JSON"),
        (
            TOML.replace('{kind = "mlp", features = 2, classes = 2}', '{kind = "onnx", path = "m.onnx", classes = 2}'),
            "choose it",
        ),
        ("x" * 300_000, "at most"),
    ],
)
def test_what_is_wrong_with_it_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        described(text, has_forward=False)
