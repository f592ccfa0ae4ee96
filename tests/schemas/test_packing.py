"""Frames: what was packed comes back, a bomb is not opened, and a packed object is the message that it was."""

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.schemas import limits, packing
from headwater.schemas.messages import Chunk, Delta, Message, Metric, Patch, RoundKey
from headwater.schemas.packing import PackingError, pack, unpack
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import WireError, decode, decode_object, encode, encode_object, reference

KEY = RoundKey(run="digits-1", round=17)
CODED = np.random.default_rng(0).bytes(600)
METRICS = tuple(
    Metric(split=split, name=name, total=total, weight=184.0)
    for split, name, total in (("train", "loss", 41.37), ("train", "correct", 171.0), ("test", "loss", 97.1))
)
DELTA = Delta(
    key=KEY, sender="device-07", task="train", weight=184.0, examples=184, devices=1, coded=CODED, metrics=METRICS
)
PATCH = Patch(run="digits-1", version=17, update=CODED)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=500), st.binary(max_size=60))
def test_what_was_packed_comes_back(data: bytes, dictionary: bytes) -> None:
    assert unpack(pack(data, dictionary), len(data), dictionary) == data


@pytest.mark.parametrize("size", [0, packing.LARGE_BYTES, packing.LARGE_BYTES + 1])
def test_every_size_comes_back(size: int) -> None:
    assert unpack(pack(bytes(size)), size) == bytes(size)


def test_a_bomb_is_refused_before_it_is_opened() -> None:
    bomb = pack(bytes(50_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(PackingError, match="50000000 bytes; at most 1000") as refused:
        unpack(bomb, 1000)
    assert refused.value.is_oversized


def _with_size(frame: bytes, size: int) -> bytes:
    """A frame of up to 255 bytes that lies about how many there are."""
    return frame[:5] + bytes([size]) + frame[6:]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="empty"),
        pytest.param(packing.MAGIC, id="nothing but its beginning"),
        pytest.param(b"\x81\xa1v\x01", id="no frame"),
        pytest.param(pack(b"0123456789")[:-1], id="truncated"),
        pytest.param(pack(b"0123456789") + b"\0", id="something behind it"),
        pytest.param(_with_size(pack(bytes(100)), 99), id="longer than it says"),
        pytest.param(_with_size(pack(bytes(100)), 101), id="shorter than it says"),
    ],
)
def test_what_is_not_one_whole_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(PackingError):
        unpack(frame, 1000)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 80), st.integers(0, 255))
def test_any_bytes_are_refused_or_within_the_bound(data: bytes, position: int, value: int) -> None:
    frame = bytearray(pack(data))
    frame[position % len(frame)] = value
    for damaged in (bytes(frame), packing.MAGIC + data):
        try:
            assert len(unpack(damaged, 100)) <= 100
        except PackingError:
            continue


@pytest.mark.parametrize("message", [DELTA, PATCH], ids=["delta", "patch"])
def test_a_packed_object_is_the_same_message(message: Message) -> None:
    payload = encode_object(message)
    assert payload.startswith(packing.MAGIC)
    assert decode_object(payload, type(message)) == message
    assert decode_object(encode(message), type(message)) == message


def test_a_whole_update_takes_little_more_than_its_code() -> None:
    """Names, key, weight, metrics and hash: what is not the update itself is about a hundred bytes."""
    (chunk,) = [Chunk(object=reference(encode_object(DELTA)), offset=0, data=encode_object(DELTA))]
    assert len(encode(chunk)) < len(CODED) + 110
    assert len(encode(DELTA)) > len(CODED) + 300


def test_what_is_not_coded_has_no_second_form() -> None:
    plain = DELTA.model_copy(update={"coded": b"", "tensors": encode_tensors([np.zeros(1000, np.float32)])})
    assert encode_object(plain) == encode(plain)


def test_what_packing_makes_longer_is_left() -> None:
    """Noise does not shrink, and a frame is longer than nothing."""
    plain = encode(PATCH)
    assert len(packing.pack(CODED)) > len(CODED)
    assert len(encode_object(PATCH)) < len(plain)


def test_a_frame_that_fits_is_its_own_chunk() -> None:
    payload = encode_object(DELTA)
    chunk = Chunk(object=reference(payload), offset=0, data=payload)
    assert encode(chunk) == payload
    assert decode(payload, Chunk) == chunk


def test_a_frame_in_a_chunks_map_is_a_second_way_and_refused() -> None:
    payload = encode_object(DELTA)
    body = {"v": 1, "kind": "chunk", "object": reference(payload).model_dump(), "offset": 0, "data": payload}
    with pytest.raises(WireError, match="not its one encoding"):
        decode(msgpack.packb(body, use_bin_type=True), Chunk)


def test_a_frame_beyond_a_chunk_is_no_chunk() -> None:
    with pytest.raises(WireError, match="at most"):
        decode(packing.MAGIC + bytes(limits.CHUNK_SIZE_BYTES), Chunk)


def test_a_piece_of_a_larger_frame_is_an_ordinary_chunk() -> None:
    piece = Chunk(
        object=reference(bytes(limits.CHUNK_SIZE_BYTES + 1)).model_copy(),
        offset=0,
        data=packing.MAGIC + bytes(limits.CHUNK_SIZE_BYTES - 4),
    )
    assert decode(encode(piece), Chunk) == piece


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        pytest.param(pack(bytes(70_000_000)), "at most", id="a bomb"),
        pytest.param(pack(b"\x81\xa1v\x02"), "protocol version 2", id="of another version"),
        pytest.param(encode_object(DELTA)[:-3], "frame", id="truncated"),
        pytest.param(encode_object(PATCH), "'patch' where 'delta'", id="another kind"),
    ],
)
def test_packed_bytes_that_are_no_delta_are_refused(payload: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        decode_object(payload, Delta)


def test_an_object_is_held_against_its_readers_bound() -> None:
    with pytest.raises(WireError, match="at most 500") as refused:
        decode_object(encode_object(DELTA), Delta, max_size_bytes=500)
    assert refused.value.reason == "oversized"


def test_the_names_that_frames_refer_to_never_change() -> None:
    """Frozen: bytes packed by an older version must be read by this one."""
    assert decode_object(bytes.fromhex(FROZEN), Patch) == Patch(run="r", version=1, update=b"\1\2")


FROZEN = "28b52ffd20298500003085a1720201020200efc58cf13dc106"
