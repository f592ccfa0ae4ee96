"""Law: the broker's rules (filters, access, retained, routing, framing, passwords) hold without any socket."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from headwater.schemas.acl import Acl, Rule, fleet_acl
from headwater.schemas.errors import ConfigError
from headwater.transport.broker import auth, hash_password, write_password_file
from headwater.transport.broker.access import Access
from headwater.transport.broker.auth import Passwords, check_password, checked_user, read_password_file
from headwater.transport.broker.packets import (
    Frame,
    Framer,
    Message,
    ProtocolViolation,
    decode_publish,
    encode_publish_head,
)
from headwater.transport.broker.retained import Retained, RetainedStore
from headwater.transport.broker.router import Router
from headwater.transport.broker.topic_filters import covers, is_filter, is_topic

LEVEL = st.sampled_from(["a", "b", "", "$x"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.builds(
    lambda levels, tail: "/".join([*levels, *tail]),
    st.lists(LEVEL | st.just("+"), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


@pytest.mark.parametrize(
    ("text", "topic", "topic_filter"),
    [
        pytest.param("a/b", True, True, id="plain"),
        pytest.param("a//b", True, True, id="empty-level"),
        pytest.param("", False, False, id="empty"),
        pytest.param("a/+/c", False, True, id="plus"),
        pytest.param("#", False, True, id="all"),
        pytest.param("a/#", False, True, id="below"),
        pytest.param("a/#/c", False, False, id="hash-inside"),
        pytest.param("a/b#", False, False, id="hash-beside-text"),
        pytest.param("a/b+", False, False, id="plus-beside-text"),
        pytest.param("b+/a", False, False, id="plus-beside-text-inside"),
        pytest.param("a/##", False, False, id="two-hashes"),
        pytest.param("a\0b", False, False, id="nul"),
        pytest.param("/" * 63, True, True, id="deepest"),
        pytest.param("/" * 64, False, False, id="too-deep"),
    ],
)
def test_topics_and_filters(text: str, topic: bool, topic_filter: bool) -> None:
    assert (is_topic(text), is_filter(text)) == (topic, topic_filter)


@given(allowed=FILTER, asked=FILTER, topic=TOPIC)
def test_a_covering_filter_matches_whatever_the_covered_one_matches(allowed: str, asked: str, topic: str) -> None:
    if covers(allowed, asked) and topic_matches_sub(asked, topic):
        assert topic_matches_sub(allowed, topic)


@pytest.mark.parametrize(
    ("allowed", "asked", "covered"),
    [
        ("#", "a/+/#", True),
        ("a/#", "a", True),
        ("a/#", "a/#", True),
        ("a/+", "a/+", True),
        ("a/+", "a/b", True),
        ("a/+", "a/#", False),
        ("a/b", "a/+", False),
        ("a/+/c", "a/b", False),
        ("a", "a/b", False),
        ("#", "$SYS/x", False),
    ],
)
def test_known_covers(allowed: str, asked: str, covered: bool) -> None:
    assert covers(allowed, asked) is covered


FLEET = fleet_acl("f", parents=["cloud", "gw"], viewers=["eve"])


@pytest.mark.parametrize(
    ("user", "access", "topic", "allowed"),
    [
        pytest.param("d1", "write", "hw/1/f/node/d1/up/gw/delta", True, id="own-delta"),
        pytest.param("d1", "write", "hw/1/f/node/d2/up/gw/delta", False, id="anothers-delta"),
        pytest.param("d1", "read", "hw/1/f/node/gw/down/chunk", True, id="parents-downlink"),
        pytest.param("d1", "read", "hw/1/f/node/d2/up/gw/delta", False, id="anothers-uplink"),
        pytest.param("d1", "read", "hw/1/f/node/d2/inbox/receipt", False, id="anothers-inbox"),
        pytest.param("gw", "read", "hw/1/f/node/d2/up/gw/delta", True, id="parent-reads-uplink"),
        pytest.param("gw", "write", "hw/1/f/node/d2/inbox/receipt", True, id="parent-writes-inbox"),
        pytest.param("eve", "read", "hw/1/f/rounds/round", True, id="viewer"),
        pytest.param("eve", "write", "hw/1/f/rounds/round", False, id="viewer-writes"),
        pytest.param("d1", "read", "hw/1/g/node/gw/down/chunk", False, id="another-fleet"),
        pytest.param(None, "write", "hw/1/f/node/d1/up/gw/delta", False, id="nobody"),
        pytest.param(None, "write", "hw/1/f/node/%u/status", False, id="nobody-named-%u"),
        pytest.param("cloud", "write", "$SYS/x", False, id="system"),
    ],
)
def test_access_of_a_fleet(user: str | None, access: str, topic: str, allowed: bool) -> None:
    verdicts = Access(FLEET)
    assert verdicts.may(user, access, topic) is allowed  # type: ignore[arg-type]
    if access == "read":
        assert verdicts.may_subscribe(user, topic) is allowed


@pytest.mark.parametrize(
    ("client", "topic", "allowed"),
    [
        pytest.param("t1", "enrol/t1/request", True, id="its own"),
        pytest.param("t1", "enrol/t2/request", False, id="another's"),
        pytest.param("+", "enrol/t2/request", False, id="a wild card for a name"),
        pytest.param("#", "enrol/t2/request", False, id="everything for a name"),
        pytest.param("a/b", "enrol/a/b/request", False, id="two levels for a name"),
        pytest.param("", "enrol//request", False, id="no name"),
    ],
)
def test_a_rule_by_client_identifier(client: str, topic: str, allowed: bool) -> None:
    rules = tuple(Rule(access=access, filter="enrol/%c/request", user="enrol") for access in ("read", "write"))  # type: ignore[arg-type]
    access = Access(Acl(rules=rules))
    assert access.may("enrol", "write", topic, client) is allowed
    assert access.may_subscribe("enrol", topic, client) is allowed
    assert not access.may("d1", "write", topic, client)


def test_a_stranger_has_only_the_rules_that_name_it() -> None:
    access = Access(
        Acl(
            rules=(Rule(access="write", filter="node/%u"), Rule(access="read", filter="news", user="eve")),
            strangers=("eve",),
        )
    )
    assert access.may("d1", "write", "node/d1")
    assert not access.may("eve", "write", "node/eve")
    assert access.may("eve", "read", "news")


@pytest.mark.parametrize(
    ("topic_filter", "allowed"),
    [("a/#", True), ("a/+/b", True), ("#", False), ("+/b", False), ("$SYS/#", False)],
)
def test_a_subscription_needs_one_rule_that_covers_it(topic_filter: str, allowed: bool) -> None:
    acl = Acl(rules=(Rule(access="read", filter="a/#"), Rule(access="write", filter="#")))
    assert Access(acl).may_subscribe("u", topic_filter) is allowed


def test_without_rules_everything_but_the_systems_is_allowed() -> None:
    access = Access(None)
    assert access.may(None, "write", "a")
    assert access.may_subscribe(None, "#")
    assert not access.may(None, "write", "$SYS/a")
    assert not access.may_subscribe(None, "$SYS/#")


@given(topics=st.dictionaries(TOPIC, st.binary(min_size=1, max_size=3)), topic_filter=FILTER)
def test_retained_messages_are_those_that_a_scan_would_find(topics: dict[str, bytes], topic_filter: str) -> None:
    store = RetainedStore(100, 1000)
    for topic, payload in topics.items():
        assert store.keep(Retained(topic, payload, 1))
    found = {message.topic for message in store.matching(topic_filter)}
    assert found == {topic for topic in topics if topic_matches_sub(topic_filter, topic)}
    for topic in topics:
        store.keep(Retained(topic, b"", 0))
    assert (store.count, store.size_bytes, list(store.matching("#"))) == (0, 0, [])


def test_retained_messages_are_bounded_in_number_and_bytes() -> None:
    store = RetainedStore(max_count=2, max_size_bytes=20)
    assert store.keep(Retained("a", b"1234", 0))
    assert store.keep(Retained("b", b"1234", 0))
    assert not store.keep(Retained("c", b"1", 0))
    assert not store.keep(Retained("b", b"x" * 15, 0))
    assert store.get("b") == Retained("b", b"1234", 0)
    assert store.keep(Retained("b", b"x" * 14, 0))
    assert (store.count, store.size_bytes) == (2, 20)
    assert store.keep(Retained("a", b"", 0))
    assert (store.count, store.size_bytes) == (1, 15)


def test_overlapping_subscriptions_get_one_copy_at_the_best_qos() -> None:
    router = Router[str](lambda client, topic: client != "outcast")
    router.subscribe("a", "x/+", 0)
    assert router.receivers("x/y") == (("a", 0),)
    router.subscribe("a", "x/#", 1)
    router.subscribe("outcast", "#", 1)
    assert router.receivers("x/y") == (("a", 1),)
    router.unsubscribe("a", "x/#")
    router.unsubscribe("a", "never/subscribed")
    assert router.receivers("x/y") == (("a", 0),)
    router.leave("a")
    assert router.receivers("x/y") == ()
    assert router.subscription_count("a") == 0


@given(
    messages=st.lists(st.builds(Message, TOPIC, st.binary(max_size=300), st.just(0), st.booleans(), st.just(0))),
    cut=st.integers(1, 7),
)
def test_frames_come_out_whole_however_the_stream_is_cut(messages: list[Message], cut: int) -> None:
    stream = b"".join(
        encode_publish_head(message.topic, len(message.payload), 0, message.retain) + message.payload
        for message in messages
    )
    framer = Framer(1000)
    frames = [frame for start in range(0, len(stream), cut) for frame in framer.feed(stream[start : start + cut])]
    assert [decode_publish(frame) for frame in frames] == messages


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x30\x80\x80\x01", id="larger-than-the-limit"),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", id="length-of-five-bytes"),
        pytest.param(b"\x00\x00", id="reserved-0"),
        pytest.param(b"\xf0\x00", id="reserved-15"),
        pytest.param(b"\x80\x00", id="subscribe-flags"),
        pytest.param(b"\x20\x02\x00\x00", id="connack-from-a-client"),
    ],
)
def test_a_bad_header_is_refused_before_its_body(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        list(Framer(1000).feed(data))


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        pytest.param(0, b"", id="empty"),
        pytest.param(0, b"\0\5ab", id="topic-cut"),
        pytest.param(0, b"\0\0x", id="no-topic"),
        pytest.param(0, b"\0\3a/+x", id="wildcard"),
        pytest.param(0, b"\0\1\xff", id="not-utf8"),
        pytest.param(0b0110, b"\0\1a\0\1", id="qos-3"),
        pytest.param(0b0010, b"\0\1a\0\0", id="packet-id-0"),
        pytest.param(0b0010, b"\0\1a\0", id="packet-id-cut"),
    ],
)
def test_a_malformed_publish_is_refused(flags: int, body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_publish(Frame(3, flags, body))


def test_a_password_file_is_read_as_it_was_written(tmp_path) -> None:
    path = tmp_path / "users"
    write_password_file(path, {"a": "secret", "b": "$:# \u00e9"})
    assert path.stat().st_mode & 0o777 == 0o600
    users = read_password_file(path)
    assert check_password("secret", users["a"])
    assert check_password("$:# \u00e9", users["b"])
    assert not check_password("secret", users["b"])


GOOD = hash_password("x")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("a", id="no-hash"),
        pytest.param("a:plain", id="plain-password"),
        pytest.param(f"a/b:{GOOD}", id="slash-in-the-name"),
        pytest.param(f"+:{GOOD}", id="wildcard-name"),
        pytest.param(f":{GOOD}", id="no-name"),
        pytest.param("a:" + GOOD.replace("16384", "16383"), id="impossible-cost"),
        pytest.param("a:" + GOOD.replace("16384", str(2**30)), id="ruinous-cost"),
        pytest.param("a:" + GOOD.replace("scrypt", "md5"), id="unknown-scheme"),
        pytest.param("a:" + GOOD[:-1] + "!", id="not-base64"),
    ],
)
def test_a_bad_password_line_is_named(tmp_path, line: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"# users\n\n{line}\n")
    with pytest.raises(ConfigError, match=r"password_file: .*line 3.*; take it out, and .*`headwater broker password"):
        read_password_file(path)


@given(st.one_of(st.text(max_size=6), st.text(st.sampled_from("a#: \x85\u2028\n\t"), max_size=4)))
def test_a_user_is_refused_or_read_back_as_it_was_written(tmp_path_factory, user: str) -> None:
    try:
        line = f"{checked_user(user)}:{GOOD}\n"
    except ValueError:
        return
    path = tmp_path_factory.getbasetemp() / "read-back"
    path.write_text(line, encoding="utf-8")
    assert read_password_file(path) == {user: GOOD}


def test_a_name_that_would_change_a_filter_is_not_written(tmp_path) -> None:
    with pytest.raises(ValueError, match="user: 'a/#'"):
        write_password_file(tmp_path / "users", {"a/#": "x"})


async def test_passwords_are_checked_off_the_loop_and_once(monkeypatch) -> None:
    checked_in: list[int] = []

    def spy(password: str, stored: str) -> bool:
        checked_in.append(threading.get_ident())
        return check_password(password, stored)

    monkeypatch.setattr(auth, "check_password", spy)
    passwords = Passwords({"a": GOOD})
    verdicts = await asyncio.gather(
        passwords.verify("a", "y"), passwords.verify("a", "x"), passwords.verify("stranger", "nobody")
    )
    assert verdicts == [False, True, False]
    assert len(checked_in) == 3
    assert threading.get_ident() not in checked_in
    assert await passwords.verify("a", "x")
    assert len(checked_in) == 3
    assert not await passwords.verify("a", "y")
    passwords.close()
