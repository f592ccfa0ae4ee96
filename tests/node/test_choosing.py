"""What a parent learns of its children, whom it asks by that, and who takes the place of a child that declines."""

from dataclasses import replace

import pytest

from headwater.core.select import Candidate, Chosen
from headwater.node.child import Assignment, Decline
from headwater.node.choosing import Acquaintance, Choosing, Known
from headwater.node.hosting import Contribution, Hosted, Opening, open_hosted
from headwater.node.pacing import Pacing
from headwater.schemas import limits
from headwater.schemas.learning import Learning, Selection
from headwater.schemas.messages import Delta, Plan, RoundKey
from headwater.schemas.statuses import DataStatus, NodeStatus
from headwater.schemas.wire import reference
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Traffic
from support.fleets import MANIFEST, Fleet, contributors, hosted, plan, present

REF = reference(b"x")
DATA = DataStatus(train_examples=7, test_examples=0, histogram=(3.5, -0.5))


def about(round_: int, **changes: object) -> Plan:
    key = RoundKey(run="r", round=round_)
    base = Plan(key=key, task="train", data="d", model=REF, bundle=REF, deadline_s=10.0, cohort=0.5)
    return base.model_copy(update=changes)


def by(rule: str, **settings: object) -> Learning:
    return Learning(selection=Selection.model_validate({"by": rule, **settings}))


def online(*nodes: str, **changes: object) -> dict[str, NodeStatus]:
    status = NodeStatus(node="d", role="device", parent="gw", state="online", data={"d": DATA})
    return {node: status.model_copy(update={"node": node, **changes}) for node in nodes}


def opened(plan: Plan, *cohort: str) -> Hosted:
    return open_hosted(plan, MANIFEST, Opening(frozenset(cohort), Chosen(frozenset(cohort), 1)), Traffic(), 100.0)


def gave(node: str, loss: float | None = None, after_s: float = 1.0, round_: int = 1) -> Contribution:
    return Contribution(node, 1.0, 5, 1, after_s, RoundKey(run="r", round=round_), 1.0, REF, loss=loss)


# ── what is known ───────────────────────────────────────────────────────────────────────────────────────────────


def test_what_two_rounds_tell() -> None:
    first = Acquaintance().after(opened(about(1), "a", "b").round, [gave("a", 0.5), gave("b")])
    second = first.after(opened(about(2), "a", "c").round, [gave("c", 0.25)])
    assert second.rounds == 2
    assert second.children == {
        "a": Known(asked_in=2, heard_in=1, loss=0.5, examples=5),
        "b": Known(asked_in=1, examples=5),
        "c": Known(asked_in=2, heard_in=2, loss=0.25, examples=5),
    }
    (status,) = online("a", battery_percent=40.0).values()
    assert second.candidate(status, "d", 1.5) == Candidate("a", 7, 0.5, 2, 1.5, 1, (3.5, -0.5), 40.0)
    (gateway,) = online("b", role="gateway", data={}).values()
    assert second.candidate(gateway, "d", None) == Candidate("b", 5, None, 3, None, 2)
    (new,) = online("z").values()
    assert second.candidate(new, "d", None) == Candidate("z", 7, None, 3, histogram=(3.5, -0.5))


def test_no_more_are_known_than_a_parent_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.node.choosing.MAX_CHILDREN", 2)
    assert limits.MAX_CHILDREN > 2
    full = Acquaintance().after(opened(about(1), "a", "b", "c").round, [gave("z", 1.0)])
    assert full.children.keys() == {"a", "b"}
    assert full.kept({"b", "y"}).children.keys() == {"b"}
    again = full.kept({"b"}).after(opened(about(2), "b", "c").round, [])
    assert again.children == {"b": Known(asked_in=2), "c": Known(asked_in=2)}


def test_only_training_is_learned_from() -> None:
    choosing = Choosing(Pacing())
    evaluation = about(1, task="evaluate", learning=by("turns"))
    choosing.learn(evaluation, opened(evaluation, "a", "b").round, [])
    asked = {choosing.chosen(about(2, learning=by("turns"), seed=seed), online("a", "b")).cohort for seed in range(20)}
    assert asked == {frozenset("a"), frozenset("b")}


def test_a_parent_asks_by_what_its_last_rounds_told() -> None:
    """The times of its first round tell nothing, so c is slow from the second on."""
    rules = {"loss": by("loss", candidates=9.0), "turns": by("turns"), "utility": by("utility", exploration=0.0)}
    pacing = Pacing()
    choosing = Choosing(pacing)
    children = online("a", "b", "c", "d")
    for number in (1, 2):
        told = about(number, learning=rules["utility"])
        hosted = opened(told, *"abc", *"d" * (number == 1))
        given = tuple(
            gave(n, loss, after_s, number) for n, loss, after_s in (("a", 0.6, 1), ("b", 0.2, 1), ("c", 0.9, 9))
        )
        pacing.learn(told, hosted.round, given, 105.0)
        choosing.learn(told, hosted.round, (*given, gave("d", 0.1)) if number == 1 else given)
    asked = {
        name: choosing.chosen(about(3, learning=rule, cohort=0.25), children).cohort for name, rule in rules.items()
    }
    assert asked == {"loss": {"c"}, "turns": {"d"}, "utility": {"a"}}
    choosing.forget_others_than("abc")
    assert choosing.chosen(about(3, learning=rules["loss"], cohort=0.25), children).cohort == {"d"}


def test_everyone_is_asked_where_a_plan_wants_everyone() -> None:
    assert Choosing(Pacing()).chosen(about(1, cohort=1.0), online("a", "b")) == Chosen(None, 2)


# ── who declines ────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_more_take_others_places_than_were_chosen() -> None:
    choosing, hosted, children = Choosing(Pacing()), opened(about(1), "a", "b"), online("a", "b", "c", "d", "e")
    found = []
    for _ in range(3):
        found.append(choosing.in_place_of(hosted, children, 101.0))
        if found[-1] is not None:
            hosted.round = replace(hosted.round, cohort=hosted.round.cohort | {found[-1]})
    assert found[2] is None
    assert len({*found[:2]} & {"c", "d", "e"}) == 2


def test_whoever_is_gone_is_not_asked() -> None:
    choosing, hosted = Choosing(Pacing()), opened(about(1), "a", "b")
    first = choosing.in_place_of(hosted, online("a", "b", "c", "d"), 101.0)
    assert first in {"c", "d"}
    assert choosing.in_place_of(hosted, online("a", "b"), 101.0) is None


@pytest.mark.parametrize(("now", "found"), [(105.0, "c"), (105.1, None)])
def test_nobody_is_asked_in_the_second_half_of_a_round(now: float, found: str | None) -> None:
    assert Choosing(Pacing()).in_place_of(opened(about(1), "a", "b"), online("a", "b", "c"), now) == found


def test_where_everyone_is_asked_nobody_is_left_to_ask() -> None:
    everyone = open_hosted(about(1), MANIFEST, Opening(frozenset("ab"), Chosen(None, 2)), Traffic(), 100.0)
    assert Choosing(Pacing()).in_place_of(everyone, online("a", "b", "c"), 101.0) is None


async def test_over_a_broker_another_takes_the_place_of_one_that_declines(fleet: Fleet) -> None:
    """Two of four are asked; of the four only two ever say yes, and the round has both."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    declined = []

    async def declines(assignment: Assignment) -> Delta | Decline:
        declined.append(assignment.plan.key.round)
        return Decline("not_now", "the owner says no")

    for node in ("d0", "d1", "d2", "d3"):
        fleet.doing(node, "gw", fleet.work(node) if node in ("d1", "d2") else declines)
    await present(parent, "d0", "d1", "d2", "d3")
    for round_ in (1, 2, 3):
        result = await hosted(parent, plan(round_, objects, cohort=0.5))
        assert contributors(result) == {"d1", "d2"}
        assert {refused.reason for refused in result.refusals} <= {"not_now"}
    assert declined


async def test_over_a_broker_those_with_the_highest_loss_come_next(fleet: Fleet) -> None:
    """`adds_one` has them all lose 1; d3 alone is new in the third round, and has never told of a loss."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("gw", objects=objects)
    learning = by("loss", candidates=9.0)
    for node in ("d0", "d1"):
        fleet.device(node, "gw")
    await present(parent, "d0", "d1")
    first = await hosted(parent, plan(1, objects, cohort=0.5, learning=learning))
    second = await hosted(parent, plan(2, objects, cohort=0.5, learning=learning))
    assert contributors(first) | contributors(second) == {"d0", "d1"}
    assert [given.loss for given in second.contributions] == [1.0]
    fleet.device("d3", "gw")
    await present(parent, "d3")
    assert contributors(await hosted(parent, plan(3, objects, cohort=0.3, learning=learning))) == {"d3"}
