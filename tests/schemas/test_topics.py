"""Topics are built and parsed once; the broker's rules follow from them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.schemas.acl import enrolment_acl, fleet_acl
from headwater.schemas.topics import DOWN, INBOX, UP, NodeTopic, Topics

TOPICS = Topics("plant")


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (TOPICS.status("d1"), NodeTopic(fleet="plant", node="d1", branch="status")),
        (TOPICS.predictions("d1"), NodeTopic(fleet="plant", node="d1", branch="predictions")),
        (TOPICS.echo("d1"), NodeTopic(fleet="plant", node="d1", branch="echo")),
        *(
            (TOPICS.up("d1", "gw", leaf), NodeTopic(fleet="plant", node="d1", branch="up", leaf=leaf, parent="gw"))
            for leaf in UP
        ),
        *((TOPICS.inbox("d1", leaf), NodeTopic(fleet="plant", node="d1", branch="inbox", leaf=leaf)) for leaf in INBOX),
        *((TOPICS.down("gw", leaf), NodeTopic(fleet="plant", node="gw", branch="down", leaf=leaf)) for leaf in DOWN),
    ],
)
def test_what_is_built_is_parsed(topic: str, expected: NodeTopic) -> None:
    assert topic.startswith("hw/1/plant/node/")
    assert TOPICS.parse(topic) == expected


@pytest.mark.parametrize(
    "topic",
    [
        "hw/1/other/node/d1/status",
        "hw/2/plant/node/d1/status",
        "hw/1/plant/node//status",
        "hw/1/plant/node/d1/up/delta",
        "hw/1/plant/node/d1/up/gw/bomb",
        "hw/1/plant/node/d1/status/more",
        "hw/1/plant/node/d1/predictions/more",
        "hw/1/plant/node/+/status",
        "hw/1/plant/rounds/run",
        "",
    ],
)
def test_other_topics_are_none_of_ours(topic: str) -> None:
    assert TOPICS.parse(topic) is None


@given(st.text(max_size=80))
def test_no_topic_breaks_the_parser(text: str) -> None:
    TOPICS.parse(text)
    parsed = TOPICS.parse(f"hw/1/plant/node/{text}")
    assert parsed is None or parsed.fleet == "plant"


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "-a", "x" * 65, "é"])
def test_a_name_that_is_no_topic_level_is_refused_with_its_mend(name: str) -> None:
    with pytest.raises(ValueError, match="use 1 to 64 letters"):
        Topics(name)
    if name != "+":
        with pytest.raises(ValueError, match="use 1 to 64 letters"):
            TOPICS.status(name)


def allowed(
    acl_user: str,
    access: str,
    topic: str,
    *,
    parents: tuple[str, ...] = ("cloud", "gw"),
    predictions: bool = False,
) -> bool:
    """An independent reading of the rules, as a broker would apply them."""
    for rule in fleet_acl("plant", parents=parents, viewers=("eve",), predictions=predictions).rules:
        if rule.access == access and rule.user in (None, acl_user):
            pattern = rule.filter.replace("%u", acl_user).split("/")
            levels = topic.split("/")
            if pattern[-1] == "#" and levels[: len(pattern) - 1] == pattern[:-1]:
                return True
            if len(pattern) == len(levels) and all(p in ("+", level) for p, level in zip(pattern, levels, strict=True)):
                return True
    return False


@pytest.mark.parametrize(
    ("user", "access", "topic", "expected"),
    [
        pytest.param("d1", "write", TOPICS.up("d1", "gw", "delta"), True, id="a device sends its own delta"),
        pytest.param("d1", "write", TOPICS.up("d2", "gw", "delta"), False, id="but not another's"),
        pytest.param("d1", "write", TOPICS.status("d1"), True, id="it is born"),
        pytest.param("d1", "write", TOPICS.status("d2"), False, id="and does not declare others dead"),
        pytest.param("d1", "read", TOPICS.down("gw", "announcement"), True, id="it reads its parent's plans"),
        pytest.param("d1", "write", TOPICS.down("gw", "announcement"), False, id="and makes none"),
        pytest.param("d1", "read", TOPICS.up("d2", "gw", "delta"), False, id="it reads no sibling's delta"),
        pytest.param("d1", "read", TOPICS.inbox("d1", "receipt"), True, id="it reads its inbox"),
        pytest.param("d1", "read", TOPICS.inbox("d2", "receipt"), False, id="and no other"),
        pytest.param("d1", "write", TOPICS.inbox("d2", "refusal"), False, id="it refuses nobody"),
        pytest.param("d1", "write", TOPICS.round, False, id="it writes no round topics"),
        pytest.param("gw", "read", TOPICS.up("d1", "gw", "delta"), True, id="a gateway reads its children"),
        pytest.param("gw", "read", TOPICS.up("d1", "cloud", "delta"), False, id="and nobody else's"),
        pytest.param("gw", "write", TOPICS.inbox("d1", "receipt"), True, id="it answers them"),
        pytest.param("gw", "write", TOPICS.cluster("gw"), True, id="and tells people of its cluster"),
        pytest.param("gw", "write", TOPICS.cluster("gw2"), False, id="not of another's"),
        pytest.param("gw", "write", TOPICS.event("gw"), True, id="and of what happened"),
        pytest.param("gw", "write", TOPICS.event("cloud"), False, id="in its own name alone"),
        pytest.param("eve", "read", TOPICS.event("gw"), True, id="a viewer hears of it"),
        pytest.param("d1", "read", TOPICS.event("gw"), False, id="a device does not"),
        pytest.param("cloud", "write", TOPICS.round, True, id="the cloud tells people of the round"),
        pytest.param("eve", "read", TOPICS.round, True, id="a viewer watches"),
        pytest.param("eve", "read", TOPICS.up("d1", "gw", "delta"), False, id="and sees no delta"),
    ],
)
def test_who_may_do_what(user: str, access: str, topic: str, expected: bool) -> None:
    assert allowed(user, access, topic) is expected


@pytest.mark.parametrize("name", ["", "a b", "eve\ntopic readwrite #", "+", "#", "a/b", "n" * 65])
@pytest.mark.parametrize(
    "named",
    [
        pytest.param(lambda name: {"parents": (name,)}, id="parent"),
        pytest.param(lambda name: {"cloud": name}, id="cloud"),
        pytest.param(lambda name: {"children": {"cloud": (name,)}}, id="child"),
        pytest.param(lambda name: {"gateways": (name,)}, id="gateway"),
        pytest.param(lambda name: {"barred": (name,)}, id="barred"),
        pytest.param(lambda name: {"viewers": (name,)}, id="viewer"),
        pytest.param(lambda name: {"enrolment": name}, id="enrolment"),
    ],
)
def test_a_name_in_the_rules_is_one_word_of_them(named: Callable[[str], dict[str, Any]], name: str) -> None:
    with pytest.raises(ValueError, match=": use 1 to 64 letters"):
        fleet_acl("plant", **{"parents": ("cloud",), **named(name)})


def test_children_of_a_parent_that_is_not_here_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="children: 'gw9' is none of the parents"):
        fleet_acl("plant", parents=("cloud",), children={"gw9": ("d1",)})


@pytest.mark.parametrize(
    ("topic", "token"),
    [
        (TOPICS.enrolment("00ff", "request"), "00ff"),
        (TOPICS.enrolment("00ff", "answer"), None),
        ("hw/1/plant/enrol/request", None),
        ("hw/1/plant/enrol//request", None),
        ("hw/1/plant/enrol/a/b/request", None),
        ("hw/1/other/enrol/00ff/request", None),
        ("", None),
    ],
)
def test_a_request_for_a_certificate_is_known_by_its_token(topic: str, token: str | None) -> None:
    assert TOPICS.token_of(topic) == token


def test_who_enrols_has_the_topics_of_its_own_token_alone() -> None:
    rules = enrolment_acl("plant").rules
    assert [(rule.access, rule.filter) for rule in rules] == [
        ("write", TOPICS.own_enrolment("request")),
        ("read", TOPICS.own_enrolment("answer")),
    ]


@pytest.mark.parametrize(
    ("user", "access", "node", "asked", "expected"),
    [
        pytest.param("d1", "write", "d1", False, True, id="a node says what it predicts"),
        pytest.param("d2", "write", "d1", False, False, id="not in another's name"),
        pytest.param("eve", "read", "d1", False, False, id="a viewer sees none of it"),
        pytest.param("eve", "read", "d1", True, True, id="unless it was asked for"),
        pytest.param("gw", "read", "d1", True, False, id="and a parent never needs it"),
        pytest.param("d2", "read", "d1", True, False, id="nor does another node"),
    ],
)
def test_predictions_are_private_unless_asked_for(
    user: str, access: str, node: str, asked: bool, expected: bool
) -> None:
    assert allowed(user, access, TOPICS.predictions(node), predictions=asked) is expected
