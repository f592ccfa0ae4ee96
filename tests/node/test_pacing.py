"""What a parent learns of its children's pace, and from which rounds."""

from headwater.core.select import Chosen
from headwater.node.hosting import Contribution, Opening, open_hosted
from headwater.node.pacing import Pacing
from headwater.schemas.messages import Plan, RoundKey
from headwater.schemas.wire import reference
from headwater.transport.session import Traffic
from support.fleets import MANIFEST

DEADLINE_S = 60.0


def about(round_: int, *, adaptive: bool = True) -> Plan:
    key, ref = RoundKey(run="r", round=round_), reference(b"x")
    return Plan(key=key, task="train", data="d", model=ref, bundle=ref, deadline_s=60.0, adaptive_deadline=adaptive)


def ended(pacing: Pacing, plan: Plan, after_s: float) -> None:
    """A round of two children who were in after so long."""
    round_ = open_hosted(plan, MANIFEST, Opening(frozenset("ab"), Chosen(None, 2)), Traffic(), 0.0).round
    given = tuple(Contribution(node, 1.0, 1, 1, after_s, plan.key, 1.0, plan.model) for node in "ab")
    pacing.learn(plan, round_, given, after_s)


def test_a_round_that_an_earlier_process_may_have_begun_teaches_nothing() -> None:
    """Its children may have been done before it was opened anew; a deadline of a second would fail every attempt."""
    pacing = Pacing()
    ended(pacing, about(1), 0.01)
    assert pacing.deadline_s(about(2), frozenset("ab")) == DEADLINE_S
    ended(pacing, about(2), 10.0)
    assert 10.0 < pacing.deadline_s(about(3), frozenset("ab")) < DEADLINE_S


def test_a_plan_that_does_not_allow_it_waits_as_long_as_it_says() -> None:
    pacing = Pacing()
    for round_ in (1, 2):
        ended(pacing, about(round_), 1.0)
    assert pacing.deadline_s(about(3), frozenset("ab")) < DEADLINE_S
    assert pacing.deadline_s(about(3, adaptive=False), frozenset("ab")) == DEADLINE_S


def test_who_is_no_member_any_more_is_forgotten() -> None:
    pacing = Pacing()
    for round_ in (1, 2):
        ended(pacing, about(round_), 1.0)
    pacing.forget_others_than("ac")
    assert pacing.deadline_s(about(3), frozenset("a")) < DEADLINE_S
    assert pacing.deadline_s(about(3), frozenset("b")) == DEADLINE_S
