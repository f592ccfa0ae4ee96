"""The picture of a tree, and what changes in it."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.tree import MAX_CELLS, Picture, Row, patch, pictured, tally, whole
from support.told import at_cloud, at_gateway, heard, member, node, round_status, run

STATES = ("received", "waiting", "refused", "left", "idle", "online", "offline")


def tree(devices: int = 3, *, retained: bool = True) -> Fleet:
    """A cloud with two gateways, the devices below the first, one device right below the cloud."""
    told = [
        node("cloud", None, role="cloud"),
        node("gw1", "cloud", role="gateway"),
        node("gw2", "cloud", role="gateway"),
    ]
    told += [node(f"d{number:04d}", "gw1") for number in range(devices)] + [node("alone", "cloud")]
    return heard(*((1.0, message) for message in told))


def cells(picture: Picture) -> dict[str, dict[str, str]]:
    return {row.id: dict(row.cells) for row in picture.rows}


def test_the_cloud_is_first_and_each_parent_above_those_below_it() -> None:
    picture = pictured(tree())
    assert [(row.id, row.depth, row.rails) for row in picture.rows] == [
        ("cloud", 0, ()),
        ("gw1", 1, (1,)),
        ("gw2", 1, ()),
    ]
    assert cells(picture) == {
        "cloud": {"alone": "online"},
        "gw1": {"d0000": "online", "d0001": "online", "d0002": "online"},
        "gw2": {},
    }


def test_a_gateway_below_a_gateway_has_its_line_past_it() -> None:
    told = [node("cloud", None, role="cloud"), node("a", "cloud", role="gateway"), node("b", "cloud", role="gateway")]
    fleet = heard(*((1.0, message) for message in (*told, node("aa", "a", role="gateway"))))
    rows = [(row.id, row.depth, row.rails) for row in pictured(fleet).rows]
    assert rows == [("cloud", 0, ()), ("a", 1, (1,)), ("aa", 2, (1,)), ("b", 1, ())]


def test_devices_at_brokers_that_nobody_listens_to_are_known_from_their_parents_round() -> None:
    told = (
        at_cloud(round_status("cloud", 1, members=(member("gw1"),))),
        at_gateway(round_status("gw1", 1, members=(member("d1"),))),
    )
    picture = pictured(heard(*((1.0, message) for message in told)))
    assert [(row.id, row.depth, row.state) for row in picture.rows] == [("cloud", 0, "unknown"), ("gw1", 1, "unknown")]
    assert cells(picture)["gw1"] == {"d1": "waiting"}


def test_a_device_that_went_to_its_second_parent_is_shown_there_alone() -> None:
    fleet = heard(
        (1.0, at_gateway(round_status("gw1", 1, members=(member("d1"), member("d2"))))),
        (2.0, node("d1", "gw2")),
        (2.0, node("gw2", "cloud", role="gateway")),
        (2.0, node("cloud", None, role="cloud")),
    )
    assert cells(pictured(fleet)) == {"cloud": {}, "gw1": {"d2": "waiting"}, "gw2": {"d1": "online"}}


def test_a_node_whose_parent_nobody_heard_of_hangs_below_its_name() -> None:
    picture = pictured(heard((1.0, node("d1", "gone"))))
    assert [(row.id, row.depth, row.cells) for row in picture.rows] == [("gone", 0, (("d1", "online"),))]


def test_two_nodes_that_call_each_other_parent_do_not_go_round_for_ever() -> None:
    fleet = heard((1.0, node("a", "b", role="gateway")), (1.0, node("b", "a", role="gateway")))
    assert [row.id for row in pictured(fleet).rows] == ["a", "b"]


def test_that_a_device_is_gone_goes_before_what_its_round_says() -> None:
    fleet = heard(
        (1.0, node("d1", "gw")),
        (1.0, at_gateway(round_status("gw", 1, members=(member("d1"), member("d2", "left"))))),
        (2.0, node("d1", "gw", state="offline")),
    )
    assert cells(pictured(fleet))["gw"] == {"d1": "offline", "d2": "left"}


def test_how_far_the_round_is_stands_beside_its_parent() -> None:
    status = round_status("gw", 4, step=2, attempt=1, received=1, bytes_down=1500, bytes_up=12)
    (row,) = pictured(heard((1.0, at_gateway(status)))).rows
    assert (row.words, row.progress, row.down, row.up) == ("round 4.2, attempt 2: 1 of 2 in", 0.5, "1.5 kB", "12 B")


def test_what_only_measures_is_no_round_beyond_those_that_were_asked_for() -> None:
    status = round_status("gw", 41, "closed", task="evaluate", received=2)
    (row,) = pictured(heard((1.0, at_gateway(status)))).rows
    assert row.words == "measurement, closed: 2 of 2 in"


def test_bytes_flow_while_a_run_goes_on_and_no_longer() -> None:
    told = [(1.0, node("cloud", None, role="cloud")), (1.0, node("gw", "cloud", role="gateway"))]
    told += [(2.0, at_cloud(round_status("cloud", 1, bytes_down=9, elapsed_s=0.1)))]
    flows = [pictured(heard(*told, (3.0, run(state)))).rows[1].flow for state in ("running", "finished")]
    assert flows == ["down", ""]


def test_ten_thousand_devices_are_counted_where_they_cannot_be_shown() -> None:
    picture = pictured(tree(10_000))
    assert sum(len(row.cells) for row in picture.rows) <= MAX_CELLS
    assert picture.rows[1].more.replace("\u202f", "") == "and 9000 more"
    assert not picture.named
    assert sum(tally(picture).values()) == 1001


# ── patches ─────────────────────────────────────────────────────────────────────────────────────────────────────


def patched(shown: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    """What static/fleet.js does."""
    if changes is None:
        return shown
    if "whole" in changes:
        return dict(changes["whole"])
    for place, fields in changes["rows"].items():
        row = shown["rows"][int(place)]
        row.update({name: value for name, value in fields.items() if name != "cells"})
        for cell, state in fields.get("cells", {}).items():
            row["cells"][int(cell)][1] = state
    return shown


def over_the_wire(value: Any) -> Any:
    return json.loads(json.dumps(value))


ROWS = st.lists(
    st.builds(
        Row,
        id=st.sampled_from(["cloud", "gw1", "gw2"]),
        depth=st.integers(0, 1),
        role=st.just("gateway"),
        state=st.sampled_from(["online", "offline"]),
        words=st.sampled_from(["round 1", "round 2"]),
        down=st.just("1 B"),
        up=st.sampled_from(["1 B", "2 B"]),
        flow=st.just(""),
        progress=st.sampled_from([None, 0.5]),
        cells=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(STATES)), max_size=3).map(tuple),
    ),
    max_size=3,
)
PICTURES = st.builds(Picture, ROWS.map(tuple), st.booleans())


@given(PICTURES, PICTURES)
def test_a_picture_with_the_patch_is_the_next_picture(before: Picture, after: Picture) -> None:
    assert patched(over_the_wire(whole(before)), over_the_wire(patch(before, after))) == over_the_wire(whole(after))


def test_one_update_of_a_thousand_is_a_small_patch() -> None:
    members = tuple(member(f"d{number:04d}") for number in range(1000))
    open_ = heard((2.0, at_gateway(round_status("gw1", 1, members=members))), fleet=tree(1000))
    first = pictured(open_)
    one_in = (member("d0000", "received"), *members[1:])
    second = pictured(heard((3.0, at_gateway(round_status("gw1", 1, received=1, members=one_in))), fleet=open_))
    assert patch(first, first) is None
    changes = patch(first, second)
    assert changes is not None
    assert changes["rows"]["1"]["cells"] == {"0": "received"}
    assert len(json.dumps(changes)) < 200
