"""What a node's page knows: its rounds from both sides, its refusals, its figures."""

from headwater.dashboard.view.device import of_newest_run, refusals_of, strip, turns_of
from headwater.dashboard.view.state import Fleet, Happening, RoundName, Turn
from headwater.dashboard.view.summary import found, node_figures
from support.told import at_gateway, event, heard, member, node, round_status


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


def test_charts_show_one_run_in_the_order_of_its_rounds() -> None:
    turns = (turn(39, run="r0", at=1.0), turn(2, at=3.0), turn(1, at=2.0), turn(3, at=4.0))
    assert [told.round.round for told in of_newest_run(turns)] == [1, 2, 3]
    assert of_newest_run(()) == ()


def test_refusals_that_were_heard_go_before_those_of_the_history() -> None:
    fleet = heard((1.0, event("delta.refused", "d1", "1970-01-01T00:10:00Z", node="d1", reason="stale")))
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


def test_a_node_is_found_by_the_letters_of_its_name_the_beginning_first() -> None:
    fleet = heard(*((1.0, node(name)) for name in ("pump-7", "old-pump", "fan")))
    assert found(fleet, "PUMP", 5) == ["pump-7", "old-pump"]
    assert found(fleet, "pump", 1) == ["pump-7"]
    assert found(fleet, " ", 5) == []
