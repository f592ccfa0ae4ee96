"""Who is there: stories of births, wills and silences, and a property test against what must hold after any of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core import members as membership
from headwater.core.members import (
    MAX_BOOTS_KEPT,
    Appeared,
    Changed,
    Effect,
    Event,
    Full,
    Gone,
    Heard,
    Members,
    Relinked,
    Restarted,
    Said,
    Tick,
    TwoIdentities,
    step,
)
from headwater.schemas.statuses import DataStatus, NodeState, NodeStatus

EMPTY = Members("gw")


def said(
    node: str, boot: str = "A", state: NodeState = "online", *, parent: str | None = "gw", examples: int = 1
) -> Said:
    data = {"watch": DataStatus(train_examples=examples, test_examples=0)}
    return Said(NodeStatus(node=node, role="device", parent=parent, state=state, boot=boot, data=data))


def will(node: str, boot: str = "A", parent: str | None = "gw") -> Said:
    return said(node, boot, "offline", parent=parent)


def alive(node: str, boot: str = "A", every_s: float = 10.0) -> Heard:
    return Heard(node, boot, every_s)


def play(*events: tuple[Event, float], members: Members = EMPTY) -> tuple[Members, list[Effect]]:
    told: list[Effect] = []
    for event, now in events:
        members, effects = step(members, event, now)
        told += effects
    return members, told


def test_a_child_appears_with_its_birth_and_goes_with_its_will() -> None:
    members, told = play((said("a"), 0))
    assert told == [Appeared("a")]
    assert members.present == {"a": said("a").status}
    members, told = play((will("a"), 1), members=members)
    assert told == [Gone("a", "offline")]
    assert members.present == {}
    members, told = play((will("a"), 2), (said("a"), 3), members=members)
    assert told == [Appeared("a")]


def test_a_birth_that_is_repeated_says_nothing_new_and_one_with_other_data_does() -> None:
    members, told = play((said("a"), 0), (said("a"), 1), (said("a", examples=9), 2))
    assert told == [Appeared("a"), Changed("a")]
    assert members.present["a"].data["watch"].train_examples == 9


# ── whose child it is ───────────────────────────────────────────────────────────────────────────────────────────


def test_another_parents_children_are_none_of_this_one() -> None:
    members, told = play(
        (said("a", parent="other"), 0), (will("b", parent="other"), 0), (said("cloud", parent=None), 0)
    )
    assert members == EMPTY
    assert told == []


def test_a_child_that_is_born_below_another_parent_has_moved_and_may_come_back() -> None:
    members, told = play((said("a"), 0), (said("a", parent="other"), 1), (alive("a"), 2))
    assert told == [Appeared("a"), Gone("a", "moved")]
    assert members.present == {}
    members, told = play((said("a"), 3), (will("a", parent="other"), 4), members=members)
    assert told == [Appeared("a")], "the will of the connection to the other parent came late"
    assert members.present.keys() == {"a"}


def test_a_stranger_that_only_sends_is_no_child() -> None:
    assert play((Heard("a"), 0), (alive("a"), 1)) == (EMPTY, [])


# ── silence ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_child_is_gone_after_three_silent_periods_of_its_own() -> None:
    members, told = play((said("a"), 0), (alive("a"), 5), (said("b"), 5), (alive("b", every_s=1.0), 5), (Tick(), 7.9))
    assert told == [Appeared("a"), Appeared("b")]
    members, told = play((Tick(), 8), (Tick(), 34.9), members=members)
    assert told == [Gone("b", "silent")]
    members, told = play((Tick(), 35), (Tick(), 36), members=members)
    assert told == [Gone("a", "silent")]


def test_any_word_of_a_child_is_a_sign_of_life_and_brings_a_silent_one_back() -> None:
    members, told = play((said("a"), 0), (alive("a"), 0), (Heard("a"), 29), (Tick(), 30), (Tick(), 58.9))
    assert told == [Appeared("a")]
    members, told = play((Tick(), 59), (Heard("a"), 100), (Tick(), 129), (Tick(), 130), members=members)
    assert told == [Gone("a", "silent"), Appeared("a"), Gone("a", "silent")]


def test_a_child_that_never_gave_a_sign_of_life_is_not_judged_by_its_silence() -> None:
    members, told = play((said("a"), 0), (Heard("a"), 1), (Tick(), 1e9))
    assert told == [Appeared("a")]
    # Nor is a new process, until it says how often it will give one.
    members, told = play((alive("a"), 1e9), (said("a", "B"), 1e9), (Tick(), 2e9), members=members)
    assert told == [Restarted("a")]


def test_a_parent_that_was_cut_off_itself_counts_silence_anew() -> None:
    members, told = play((said("a"), 0), (alive("a"), 0), (Relinked(), 100), (Tick(), 100), (Tick(), 129))
    assert told == [Appeared("a")]
    assert play((Tick(), 130), members=members)[1] == [Gone("a", "silent")]


# ── wills that are late ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_will_of_a_former_process_changes_nothing() -> None:
    members, told = play((said("a", "A"), 0), (said("a", "B"), 1), (will("a", "A"), 2))
    assert told == [Appeared("a"), Restarted("a")]
    assert members.present.keys() == {"a"}
    assert play((will("a", "B"), 3), members=members)[1] == [Gone("a", "offline")]


def test_a_will_that_overtook_its_own_process_is_mended_by_the_next_sign_of_life() -> None:
    """The same process connected again; the broker sent the will of its first connection after the second birth."""
    members, told = play((said("a"), 0), (said("a"), 1), (will("a"), 2), (Heard("a"), 3), (alive("a"), 4))
    assert told == [Appeared("a"), Gone("a", "offline"), Appeared("a")]
    assert members.present["a"].state == "online"


def test_a_parent_that_finds_only_the_will_hears_that_its_child_lives() -> None:
    members, told = play((will("a"), 0), (Heard("a"), 1))
    assert told == []
    assert members.present == {}
    assert play((alive("a"), 2), members=members)[1] == [Appeared("a")]


def test_software_that_does_not_name_its_process_comes_and_goes_all_the_same() -> None:
    _, told = play((said("a", ""), 0), (will("a", ""), 1), (said("a", ""), 2), (alive("a", ""), 3), (Tick(), 33))
    assert told == [Appeared("a"), Gone("a", "offline"), Appeared("a"), Gone("a", "silent")]


# ── one identity, two processes ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("history", "told"),
    [
        pytest.param("AAA", [], id="one process"),
        pytest.param("ABCD", [Restarted("a")] * 3, id="a process after another"),
        pytest.param("ABA", [Restarted("a"), TwoIdentities("a", ("A", "B"))], id="the first one again"),
        pytest.param("ABABAB", [Restarted("a"), TwoIdentities("a", ("A", "B"))], id="reported once"),
        pytest.param(
            "ABACA",
            [Restarted("a"), TwoIdentities("a", ("A", "B")), Restarted("a"), TwoIdentities("a", ("A", "C"))],
            id="a third one",
        ),
    ],
)
@pytest.mark.parametrize("by", [said, alive], ids=["births", "signs of life"])
def test_a_process_that_comes_back_after_another_means_two(history: str, told: list[Effect], by: object) -> None:
    start, _ = play((said("a", history[0]), 0))
    events = [(by("a", boot), float(at)) for at, boot in enumerate(history[1:], 1)]  # type: ignore[operator]
    _, found = play(*events, members=start)
    assert [effect for effect in found if not isinstance(effect, Changed)] == told


def test_two_processes_below_two_parents_are_found_as_well() -> None:
    _, told = play((said("a", "A"), 0), (said("a", "B", parent="other"), 1), (said("a", "A"), 2))
    assert told == [Appeared("a"), Gone("a", "moved"), Appeared("a"), TwoIdentities("a", ("A", "B"))]


def test_whoever_spoke_last_counts_so_its_will_does() -> None:
    _, told = play((said("a", "A"), 0), (said("a", "B"), 1), (said("a", "A"), 2), (will("a", "B"), 3), (will("a"), 4))
    assert told[-2:] == [TwoIdentities("a", ("A", "B")), Gone("a", "offline")]


def test_only_the_last_processes_are_remembered() -> None:
    boots = [f"boot{number}" for number in range(MAX_BOOTS_KEPT + 1)]
    members, _ = play(*((said("a", boot), 0.0) for boot in boots))
    assert members.children["a"].boots == tuple(boots[1:])
    assert play((said("a", boots[0]), 1), members=members)[1] == [Restarted("a")]
    assert isinstance(play((said("a", boots[1]), 1), members=members)[1][-1], TwoIdentities)


# ── how many ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_full_house_admits_nobody_and_the_longest_gone_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_CHILDREN", 3)
    full, _ = play((said("a"), 0), (said("b"), 1), (said("c"), 2))
    members, told = play((said("d"), 3), (will("e"), 3), members=full)
    assert members == full
    assert told == [Full("d")]
    members, told = play((will("c"), 4), (will("b"), 5), (said("d"), 6), members=full)
    assert told[-1] == Appeared("d")
    assert members.children.keys() == {"a", "c", "d"}


# ── property ────────────────────────────────────────────────────────────────────────────────────────────────────

nodes, boots = st.sampled_from("ab"), st.sampled_from(["A", "B", "C", ""])
events = st.one_of(
    st.builds(said, nodes, boots, st.sampled_from(["online", "offline"]), parent=st.sampled_from(["gw", "other"])),
    st.builds(Heard, nodes),
    st.builds(alive, nodes, boots, st.sampled_from([1.0, 5.0])),
    st.just(Relinked()),
    st.just(Tick()),
)


@given(st.lists(st.tuples(events, st.floats(0, 4)), max_size=40))
def test_whatever_happens_the_effects_alone_tell_who_is_there(history: list[tuple[Event, float]]) -> None:
    """Whoever listens to the effects only, as the round does, has the same children as the value."""
    members, now, there, doubted = EMPTY, 0.0, set[str](), list[tuple[str, frozenset[str]]]()
    for event, passed in history:
        now += passed
        before = members
        members, effects = step(before, event, now)
        assert (members, effects) == step(before, event, now)
        for effect in effects:
            match effect:
                case Appeared(node):
                    assert node not in there
                    there.add(node)
                case Gone(node):
                    assert node in there
                    there.remove(node)
                case Changed(node) | Restarted(node):
                    assert node in there
                case TwoIdentities(node, pair):
                    doubted.append((node, frozenset(pair)))
        assert there == members.present.keys()
        assert all(status.state == "online" and status.parent == "gw" for status in members.present.values())
        if event == Tick():
            assert not any(members.children[node].is_silent(now) for node in there)
    assert len(doubted) == len(set(doubted)), "a pair was reported twice"
    members, _ = step(members, Tick(), now + 1000)
    assert all(members.children[node].every_s is None for node in members.present)
