"""What a dashboard knows: the fold over what it hears."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.dashboard.view import state
from headwater.dashboard.view.fold import Message, bounded, linked, take
from headwater.dashboard.view.state import Fleet, Link
from support.told import TOPICS, at_cloud, at_gateway, event, heard, member, node, round_status, run

BOTH = (member("d1", "received", 30, loss=0.5, after_s=1.5, train_s=1.0, size_bytes=99), member("d2", "refused"))


def kinds(fleet: Fleet) -> list[str]:
    return [told.kind for told in fleet.happenings]


# ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_since_when_a_state_is_known_only_where_the_change_was_heard() -> None:
    retained = heard((5.0, node("d1", retained=True)))
    assert (retained.nodes["d1"].since, retained.nodes["d1"].alive_at, kinds(retained)) == (None, None, [])
    gone = heard((9.0, node("d1", state="offline")), fleet=retained)
    assert (gone.nodes["d1"].since, kinds(gone)) == (9.0, ["node.offline"])
    back = heard((12.0, node("d1", boot="b2")), fleet=gone)
    assert (back.nodes["d1"].since, back.nodes["d1"].alive_at, kinds(back)) == (
        12.0,
        12.0,
        ["node.offline", "node.online"],
    )


def test_a_node_that_tells_its_data_anew_did_not_come_again() -> None:
    fleet = heard((1.0, node("d1")), (2.0, node("d1")))
    assert (fleet.nodes["d1"].since, fleet.nodes["d1"].alive_at, kinds(fleet)) == (1.0, 2.0, ["node.online"])


def test_a_status_below_another_nodes_topic_is_nobodys() -> None:
    message = Message(TOPICS.status("d2"), node("d1").payload, False)
    assert heard((1.0, message)).nodes == {}


def test_a_cluster_told_by_somebody_else_is_nobodys() -> None:
    message = Message(TOPICS.cluster("other"), at_gateway(round_status("gw", 1)).payload, False)
    assert heard((1.0, message)).rounds == {}


# ── rounds ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_closed_round_of_the_clouds_is_one_point_of_its_run_however_often_it_is_told() -> None:
    closed = at_cloud(round_status("cloud", 1, "closed", received=2, elapsed_s=3.0))
    fleet = heard((1.0, at_cloud(round_status("cloud", 1))), (4.0, closed), (5.0, closed))
    assert [point.status.round for point in fleet.runs["r1"].rounds] == [1]
    assert kinds(fleet) == ["round.closed"]
    assert fleet.cloud == "cloud"


def test_members_of_a_closed_round_have_had_their_turn_once_though_two_brokers_tell_of_it() -> None:
    closed = at_gateway(round_status("gw", 1, "closed", received=1, examples=40, members=BOTH))
    fleet = heard((1.0, closed), (1.1, closed))
    (first,), (second,) = fleet.turns["d1"], fleet.turns["d2"]
    assert (first.state, first.share, first.loss, first.after_s, first.train_s, first.size_bytes) == (
        "received",
        0.75,
        0.5,
        1.5,
        1.0,
        99,
    )
    assert (second.state, second.share) == ("refused", None)


def test_an_older_round_that_comes_late_from_another_broker_does_not_go_back() -> None:
    fleet = heard((1.0, at_gateway(round_status("gw", 2))), (1.1, at_gateway(round_status("gw", 1, "closed"))))
    assert fleet.rounds["gw"].status.round == 2
    again = heard(
        (1.2, at_gateway(round_status("gw", 2, "closed"))), (1.3, at_gateway(round_status("gw", 2))), fleet=fleet
    )
    assert again.rounds["gw"].status.state == "closed"


def test_another_run_begins_with_a_smaller_number() -> None:
    fleet = heard((1.0, at_gateway(round_status("gw", 7))), (2.0, at_gateway(round_status("gw", 1, run="r2"))))
    assert fleet.rounds["gw"].status.run == "r2"


def test_bytes_a_second_are_those_between_two_tellings() -> None:
    fleet = heard(
        (10.0, at_gateway(round_status("gw", 1, bytes_down=1000, bytes_up=0, elapsed_s=1.0))),
        (12.0, at_gateway(round_status("gw", 1, bytes_down=1000, bytes_up=600, elapsed_s=3.0, received=1))),
    )
    assert (fleet.rounds["gw"].rate_down, fleet.rounds["gw"].rate_up) == (0.0, 300.0)
    first = heard((10.0, at_gateway(round_status("gw", 1, bytes_down=1000, elapsed_s=2.0))))
    assert first.rounds["gw"].rate_down == 500.0


def test_who_gave_an_update_while_somebody_listened_was_alive() -> None:
    open_ = at_gateway(round_status("gw", 1, members=(member("d1"),)))
    in_ = at_gateway(round_status("gw", 1, received=1, members=(member("d1", "received"),)))
    known = heard((1.0, node("d1", retained=True)), (2.0, open_))
    assert known.nodes["d1"].alive_at is None
    assert heard((3.0, in_), fleet=known).nodes["d1"].alive_at == 3.0


# ── runs and what happens ───────────────────────────────────────────────────────────────────────────────────────


def test_how_a_run_goes_is_told_when_it_changes() -> None:
    fleet = heard((1.0, run("running")), (2.0, run("running", 2)), (3.0, run("finished", 9)))
    assert kinds(fleet) == ["run.finished"]
    assert fleet.run is not None
    assert fleet.run.state == "finished"


def test_a_run_that_waits_goes_on() -> None:
    fleet = heard((1.0, run("running")), (2.0, run("paused")), (3.0, run("running")))
    assert kinds(fleet) == ["run.paused", "run.resumed"]


def test_an_event_is_one_however_it_is_known() -> None:
    """The node's own last will, the parent's event about it, and the event again."""
    gone = event("node.offline", "d1", "1970-01-01T00:00:08Z", node="d1")
    fleet = heard((1.0, node("d1")), (7.0, node("d1", state="offline")), (8.0, gone), (9.0, gone))
    assert kinds(fleet) == ["node.online", "node.offline"]


def test_the_end_of_a_run_is_told_once_and_so_is_each_attempt_at_a_round() -> None:
    failed = [at_cloud(round_status("cloud", 2, "failed", attempt=attempt)) for attempt in (0, 1)]
    told = [event("round.failed", f"r1/2/{n}", "1970-01-01T00:00:02Z", run="r1", round=2, attempt=n) for n in (0, 1)]
    over = event("run.failed", "r1", "1970-01-01T00:00:04Z", run="r1", round=2)
    fleet = heard(
        (1.0, run("running")),
        (2.0, failed[0]),
        (2.1, told[0]),
        (3.0, told[1]),
        (3.1, failed[1]),
        (4.0, run("failed")),
        (4.1, over),
    )
    assert kinds(fleet) == ["round.failed", "round.failed", "run.failed"]


def test_a_refusal_says_who_and_why() -> None:
    told = event("delta.refused", "d2", node="d2", run="r1", round=3, reason="stale", detail="round 3 is over")
    (happening,) = heard((1.0, told)).happenings
    assert (happening.node, happening.run, happening.round, happening.reason, happening.detail) == (
        "d2",
        "r1",
        3,
        "stale",
        "round 3 is over",
    )


def test_that_a_round_was_opened_is_no_news() -> None:
    assert heard((1.0, event("round.opened", "r1/1", run="r1", round=1))).happenings == ()


# ── what is no good, and bounds ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b'{"node": 1}', b"[" * 1000])
def test_what_cannot_be_read_is_counted_and_changes_nothing(payload: bytes) -> None:
    known = heard((1.0, node("d1")))
    for topic in (TOPICS.status("d1"), TOPICS.round, TOPICS.run, TOPICS.cluster("gw"), TOPICS.event("gw")):
        after = take(known, TOPICS, Message(topic, payload, False), 2.0)
        assert (after.unreadable, after.nodes, after.revision) == (1, known.nodes, known.revision)


def test_the_oldest_goes_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounded({"a": 1, "b": 2, "c": 3}, 2) == {"b": 2, "c": 3}
    many = [
        (float(number), at_cloud(round_status("cloud", number, "closed", members=BOTH))) for number in range(1, 300)
    ]
    fleet = heard(*many)
    assert len(fleet.turns["d1"]) == state.MAX_TURNS
    assert fleet.turns["d1"][-1].round.round == 299


def test_a_broker_that_goes_away_is_told_once() -> None:
    up = linked(Fleet(), Link("cloud", "h:1", "up", 1.0))
    away = linked(up, Link("cloud", "h:1", "away", 2.0))
    assert linked(away, Link("cloud", "h:1", "away", 3.0)) is away
    assert away.links["cloud"].since == 2.0


MESSAGES = st.sampled_from(
    [
        node("d1"),
        node("d1", state="offline"),
        node("d2", retained=True),
        node("gw", "cloud", role="gateway"),
        run("running"),
        run("finished", 9),
        *(at_cloud(round_status("cloud", n, s, members=BOTH)) for n in (1, 2) for s in ("open", "closed")),
        *(at_gateway(round_status("gw", n, s, members=BOTH)) for n in (1, 2) for s in ("open", "closed")),
        event("delta.refused", "d2", node="d2"),
        Message("hw/1/plant/rounds/event/gw", b"no", False),
        Message("hw/1/other/rounds/run", b"{}", False),
    ]
)


@given(st.lists(MESSAGES, max_size=30))
def test_told_again_at_once_nothing_is_there_twice(messages: list[Message]) -> None:
    """MQTT delivers at least once."""
    once, twice = Fleet(), Fleet()
    for number, message in enumerate(messages):
        once = take(once, TOPICS, message, float(number))
        twice = take(take(twice, TOPICS, message, float(number)), TOPICS, message, float(number))
    assert twice.nodes == once.nodes
    assert twice.turns == once.turns
    assert twice.happenings == once.happenings
    assert {run: told.rounds for run, told in twice.runs.items()} == {
        run: told.rounds for run, told in once.runs.items()
    }


@pytest.mark.parametrize(
    "at", ["2026-13-01T00:00:00Z", "2026-01-01T99:00:00Z", "0000-01-01T00:00:00Z", "२०२६-01-01T00:00:00Z"]
)
def test_an_event_of_no_time_that_there_is_changes_nothing_but_the_count(at: str) -> None:
    told, usual = event("delta.refused", "d2", node="d2"), "2026-01-01T00:00:10Z"
    message = Message(told.topic, told.payload.replace(f'"time":"{usual}"'.encode(), f'"time":"{at}"'.encode()), False)
    assert message != told
    fleet = heard((1.0, message))
    assert (fleet.happenings, fleet.unreadable) == ((), 1)


def test_what_claims_to_be_of_tomorrow_happened_when_it_was_heard() -> None:
    """Else one device's word would stand above all that comes after it."""
    (told,) = heard((5.0, event("delta.refused", "d2", at="9999-12-31T23:59:59Z", node="d2"))).happenings
    assert told.at == 5.0


def test_an_event_told_in_anothers_name_is_nobodys() -> None:
    """A device may say what it likes on its own topic, but not that the cloud said so."""
    forged = event("run.failed", "r1", writer="cloud", run="r1")
    assert heard((1.0, Message(TOPICS.event("d1"), forged.payload, False))).happenings == ()
