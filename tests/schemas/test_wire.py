"""The wire: frozen bytes stay readable, every message has one encoding, and nothing else is a message."""

import sys
from pathlib import Path

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from headwater.schemas import limits, packing
from headwater.schemas.messages import MESSAGES as KINDS
from headwater.schemas.messages import Announcement, Chunk, Delta, Errors, Message, Metric, ObjectRef, RoundKey, Want
from headwater.schemas.statuses import Event, EventData, NodeStatus, RoundStatus, RunStatus
from headwater.schemas.wire import WireError, decode, decode_status, encode, encode_status, reference

sys.path.insert(0, str(Path(__file__).parent))

from messages_by_name import KEY, MESSAGES, REF

FROZEN = {path.stem: path for path in sorted((Path(__file__).parent / "wire").glob("*.hex"))}


def frozen_bytes(name: str) -> bytes:
    lines = FROZEN[name].read_text(encoding="utf-8").splitlines()
    return bytes.fromhex("".join(line.split("#")[0] for line in lines))


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_frozen_bytes_are_read_and_written_as_ever(name: str) -> None:
    message = MESSAGES[name]
    assert decode(frozen_bytes(name), type(message)) == message
    assert encode(message) == frozen_bytes(name)


def test_every_kind_of_message_is_frozen() -> None:
    assert {type(MESSAGES[name]) for name in FROZEN} == set(KINDS)
    assert FROZEN.keys() == MESSAGES.keys()


def altered(name: str, **changes: object) -> bytes:
    body = msgpack.unpackb(encode(MESSAGES[name]), use_list=False)
    return msgpack.packb({key: value for key, value in {**body, **changes}.items() if value is not ...})


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        pytest.param(b"", "incomplete", id="empty"),
        pytest.param(encode(MESSAGES["want"])[:-1], "incomplete", id="truncated"),
        pytest.param(encode(MESSAGES["want"]) + b"\x00", "extra", id="something behind it"),
        pytest.param(b"\xc3", "not a msgpack map", id="no map"),
        pytest.param(altered("want", v=...), "no version", id="unversioned"),
        pytest.param(altered("want", v=True), "no version", id="a version that is no number"),
        pytest.param(altered("want", v=2), "protocol version 2, this node speaks 1", id="a later version"),
        pytest.param(altered("want", kind="bomb"), "an unknown kind where 'want'", id="an unknown kind"),
        pytest.param(encode(MESSAGES["receipt"]), "'receipt' where 'want'", id="another kind"),
        pytest.param(altered("want", missing=...), "missing: Field required", id="a missing field"),
        pytest.param(altered("want", colour="red"), "colour: Extra inputs", id="an unknown field"),
        pytest.param(altered("want", missing=(0, 1.5)), "missing.1", id="a fraction for an index"),
        pytest.param(altered("want", missing=()), "missing", id="a list that must not be empty"),
        pytest.param(altered("want", missing=tuple(range(5000))), "missing", id="a list over its limit"),
        pytest.param(b"\x82\xa1v\x01\xa1v\x01", "twice", id="a duplicate key"),
        pytest.param(b"\x81\x01\x01", "not allowed for map key", id="a key that is no string"),
        pytest.param(b"\xc7\x01\x05\x00", "exceeds max_ext_len", id="an extension type"),
        pytest.param(b"\xdf\xff\xff\xff\xff", "max_map_len", id="a map of four billion"),
        pytest.param(nested(200), "not a msgpack map", id="deep"),
        pytest.param(nested(100_000), "nested too deeply", id="too deep"),
        pytest.param(b"\x00" * (limits.MAX_MESSAGE_SIZE_BYTES + 1), "at most", id="over the limit"),
    ],
)
def test_what_is_no_message_is_refused_and_the_fault_named(payload: bytes, says: str) -> None:
    with pytest.raises(WireError, match="(?s)" + says):
        decode(payload, Want)


def test_a_second_way_of_writing_the_same_message_is_refused() -> None:
    body = msgpack.unpackb(encode(MESSAGES["want"]), use_list=False)
    reordered = msgpack.packb({key: body[key] for key in reversed(body)})
    wide = encode(MESSAGES["want"]).replace(b"size_bytes\x05", b"size_bytes\xcc\x05")
    for payload in (reordered, wide):
        with pytest.raises(WireError, match="not its one encoding"):
            decode(payload, Want)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_do_not_travel(value: float) -> None:
    metric = {"split": "train", "name": "loss", "total": value, "weight": 1.0}
    with pytest.raises(WireError, match=r"metrics\.0\.total"):
        decode(altered("delta", metrics=(metric,)), Delta)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"weight": 0.0}, "weight: must be 0 exactly when", id="tensors without weight"),
        pytest.param({"tensors": ()}, "weight: must be 0 exactly when", id="weight without tensors"),
        pytest.param({"task": "evaluate"}, "an evaluation carries none", id="an evaluation with tensors"),
        pytest.param({"sender": "a/b"}, "sender", id="a sender that is no topic level"),
    ],
)
def test_a_delta_that_contradicts_itself_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode(altered("delta", **changes), Delta)


@pytest.mark.parametrize(
    ("first", "counts", "says"),
    [(127, (1.0, 1.0), "there are 128"), (0, (0.0, 0.0), "nothing was counted"), (0, (-1.0,), "greater than")],
)
def test_errors_that_no_sketch_holds_are_refused(first: int, counts: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Errors(split="test", first=first, counts=counts)


@pytest.mark.parametrize(
    ("offset", "size_bytes", "data"),
    [(1, 5, b"hell"), (0, 5, b"hell"), (0, 5, b"hello!"), (limits.CHUNK_SIZE_BYTES, 5, b"x")],
)
def test_a_chunk_that_does_not_fit_its_object_is_refused(offset: int, size_bytes: int, data: bytes) -> None:
    ref = {"sha256": bytes(32), "size_bytes": size_bytes}
    with pytest.raises(WireError, match=r"offset|data"):
        decode(altered("chunk", object=ref, offset=offset, data=data), Chunk)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_never_anything_worse(payload: bytes) -> None:
    # What begins as a frame is a chunk; whether the object is any shows when it is opened (`test_packing`).
    assume(not payload.startswith(packing.MAGIC))
    for kind in KINDS:
        with pytest.raises(WireError):
            decode(payload, kind)


@given(st.sampled_from(sorted(MESSAGES)), st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_is_another_valid_message(name: str, position: int, value: int) -> None:
    payload = bytearray(encode(MESSAGES[name]))
    payload[position % len(payload)] = value
    try:
        message = decode(bytes(payload), type(MESSAGES[name]))
    except WireError:
        return
    assert encode(message) == bytes(payload)


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
counts = st.integers(0, 2**53)
keys = st.builds(RoundKey, run=names, round=counts, step=counts, attempt=counts)
finite = st.floats(allow_nan=False, allow_infinity=False)
metrics = st.builds(
    Metric, split=st.sampled_from(["train", "test"]), name=names, total=finite, weight=st.floats(0, 1e300)
)
messages = st.one_of(
    st.builds(
        Delta,
        key=keys,
        sender=names,
        task=st.just("evaluate"),
        weight=st.floats(0, 1e300),
        examples=counts,
        devices=counts,
        metrics=st.lists(metrics, max_size=3).map(tuple),
    ),
    st.builds(Announcement, parent=names, closed=st.none() | keys),
    st.binary(min_size=1, max_size=300).map(lambda data: Chunk(object=reference(data), offset=0, data=data)),
    st.builds(Want, object=st.just(REF), missing=st.lists(st.integers(0, 255), min_size=1, max_size=9).map(tuple)),
)


@given(messages)
def test_what_is_written_is_read_back(message: Message) -> None:
    assert decode(encode(message), type(message)) == message


STATUSES: list[BaseModel] = [
    Event(
        id="r/1.0.0/opened",
        source="/hw/plant/gw1",
        type="headwater.round.opened",
        subject="r/1",
        time="2026-01-31T12:00:00.250Z",
        data=EventData(run="r", round=1, step=0, attempt=0),
    ),
    NodeStatus(node="d1", role="device", parent="gw1", state="online"),
    RunStatus(run="r", name="n", state="running", round=1, rounds=2, accuracy=0.5),
    RoundStatus(
        parent="cloud", run="r", round=1, step=0, attempt=0, task="train", state="open", cohort=2, received=1, refused=0
    ),
]


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: type(status).__name__)
def test_a_status_is_json_that_later_versions_may_add_to(status: BaseModel) -> None:
    payload = encode_status(status)
    assert decode_status(payload, type(status)) == status
    assert decode_status(payload[:-1] + b',"added_later":1}', type(status)) == status


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"node":"a/b"}', b"\xff", b"9" * 10, b"[" * 100_000])
def test_a_status_that_is_none_is_refused(payload: bytes) -> None:
    for status in STATUSES:
        with pytest.raises(WireError):
            decode_status(payload, type(status))


def test_a_status_over_its_limit_is_refused_unread() -> None:
    with pytest.raises(WireError, match="at most"):
        decode_status(b" " * (limits.MAX_STATUS_SIZE_BYTES + 1), NodeStatus)


def test_an_object_is_named_by_its_content() -> None:
    assert reference(b"hello") == ObjectRef(sha256=reference(b"hello").sha256, size_bytes=5)
    assert reference(b"hello") != reference(b"hallo")
    assert RoundKey(run="run-1", round=3, step=0, attempt=1) == KEY
