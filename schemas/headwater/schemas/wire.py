"""Law: a message has one encoding; bytes that are not exactly such an encoding are refused, whatever they are.

msgpack maps in a fixed field order with a version and a kind in front. Sizes and counts are capped before anything
is built, depth by msgpack's own stack and then by the schema; unknown fields, duplicate keys, NaN and infinity are
errors, and so is any second way of writing the same message.

An object with a coded update may travel packed: its encoding in a Zstandard frame that knows the schema's field names.
What is in the frame is the one encoding; the frame itself is not, since every version of the library packs as it
likes. So an object's name is that of the bytes that travel, and who needs to compare messages unpacks them. A frame
that fits into one chunk is that chunk: its name follows from it.
"""

import hashlib
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

import msgpack
from pydantic import BaseModel, ValidationError

from headwater.schemas import limits, packing
from headwater.schemas.messages import (
    MESSAGES,
    Chunk,
    Delta,
    Message,
    Metric,
    ObjectRef,
    Patch,
    Reason,
    RoundKey,
    Signed,
)

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=BaseModel)

_BY_KIND: Final = {message.kind: message for message in MESSAGES}
_SIGNED: Final[bytes] = msgpack.packb({"v": limits.PROTOCOL_VERSION, "kind": Signed.kind})[1:]
"""What the one encoding of a `Signed` has behind the number of its entries."""


class WireError(ValueError):
    """Bytes that are no message of this protocol. `reason` is one of `messages.Reason`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def encode(message: Message) -> bytes:
    """The one encoding of a message."""
    if isinstance(message, Chunk) and _is_whole_frame(message):
        return message.data
    body = {"v": limits.PROTOCOL_VERSION, "kind": message.kind} | message.model_dump()
    return bytes(msgpack.packb(body, use_bin_type=True))


def decode(payload: bytes, expected: type[M], *, max_size_bytes: int = limits.MAX_MESSAGE_SIZE_BYTES) -> M:
    """The message in `payload`.

    Raises:
        WireError: oversized, truncated, of another version or kind, or in any way not `encode`'s output.
    """
    if expected is Chunk and payload.startswith(packing.MAGIC):
        return cast(M, _whole(payload))
    body = _unpack(payload, max_size_bytes)
    version = body.pop("v", None)
    if type(version) is not int:
        raise WireError("malformed", "v: no version; this is not a Headwater message")
    if version != limits.PROTOCOL_VERSION:
        raise WireError(
            "malformed",
            f"v: protocol version {version}, this node speaks {limits.PROTOCOL_VERSION}; update the older of the two",
        )
    kind = body.pop("kind", None)
    if kind != expected.kind:
        known = f"{kind!r}" if isinstance(kind, str) and kind in _BY_KIND else "an unknown kind"
        raise WireError("malformed", f"kind: {known} where {expected.kind!r} belongs")
    try:
        message = expected.model_validate(body)
    except ValidationError as error:
        raise WireError("malformed", _first_problem(error)) from None
    if encode(message) != payload:
        raise WireError("malformed", f"{expected.kind}: not its one encoding (field order, number types, padding)")
    return cast(M, message)


def is_signed(payload: bytes) -> bool:
    """Whether bytes say of themselves that they are a `Signed`, without a look at the rest."""
    return payload[1 : 1 + len(_SIGNED)] == _SIGNED


def encode_object(message: Message) -> bytes:
    """An object's bytes: packed where a coded update is in it, it is small, and that makes it shorter."""
    payload = encode(message)
    has_code = isinstance(message, Patch) or (isinstance(message, Delta) and bool(message.coded))
    if not has_code or len(payload) > limits.MAX_PACKED_SIZE_BYTES:
        return payload
    return min(payload, packing.pack(payload, _field_names()), key=len)


def decode_object(payload: bytes, expected: type[M], *, max_size_bytes: int = limits.MAX_OBJECT_SIZE_BYTES) -> M:
    """As `decode`, for a reassembled object, packed or not; `max_size_bytes` is what it may be unpacked."""
    if not payload.startswith(packing.MAGIC):
        return decode(payload, expected, max_size_bytes=max_size_bytes)
    try:
        payload = packing.unpack(payload, max_size_bytes, _field_names())
    except packing.PackingError as error:
        raise WireError("oversized" if error.is_oversized else "malformed", f"payload: {error}") from None
    return decode(payload, expected, max_size_bytes=max_size_bytes)


@lru_cache(maxsize=1)
def _field_names() -> bytes:
    """What a frame may refer to: a patch and a delta as they are without their contents, the likeliest last.

    It is part of the protocol: another one needs another `PROTOCOL_VERSION`. `tests/schemas` freezes it.
    """
    key = RoundKey(run="run", round=1)
    names = ("examples", "correct", "local_steps", "absolute_error", "squared_error", "error", "loss")
    metrics = [Metric(split=split, name=name, total=1, weight=1) for split in ("test", "train") for name in names]
    patch = Patch(run="run", version=1, update=b"\0")
    tallied = Delta(key=key, sender="gateway", task="train", weight=1, examples=1, devices=1, coded=b"\0")
    return encode(patch) + encode(tallied.model_copy(update={"metrics": tuple(metrics)}))


def _is_whole_frame(chunk: Chunk) -> bool:
    return chunk.object.size_bytes == len(chunk.data) and chunk.data.startswith(packing.MAGIC)


def _whole(frame: bytes) -> Chunk:
    """The one chunk that a frame is."""
    if len(frame) > limits.CHUNK_SIZE_BYTES:
        raise WireError("oversized", f"payload: {len(frame)} bytes; a chunk has {limits.CHUNK_SIZE_BYTES} at most")
    return Chunk(object=reference(frame), offset=0, data=frame)


def encode_status(status: BaseModel) -> bytes:
    """JSON for people."""
    return status.model_dump_json(exclude_none=False).encode()


def decode_status(payload: bytes, expected: type[S]) -> S:
    """Raises WireError for anything but the JSON of `expected`; fields that a later version added are ignored."""
    if len(payload) > limits.MAX_STATUS_SIZE_BYTES:
        raise WireError("oversized", f"status: {len(payload)} bytes; at most {limits.MAX_STATUS_SIZE_BYTES}")
    try:
        return expected.model_validate_json(payload, strict=True, extra="ignore")
    except ValidationError as error:
        raise WireError("malformed", _first_problem(error)) from None


def reference(payload: bytes) -> ObjectRef:
    """The name of an object: its hash and size."""
    return ObjectRef(sha256=hashlib.sha256(payload).digest(), size_bytes=len(payload))


def _unpack(payload: bytes, max_size_bytes: int) -> dict[str, Any]:
    if len(payload) > max_size_bytes:
        raise WireError("oversized", f"payload: {len(payload)} bytes; at most {max_size_bytes}")
    try:
        body = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            use_list=False,
            object_pairs_hook=_unique,
            max_str_len=limits.MAX_TEXT_LENGTH * 4,
            max_bin_len=max_size_bytes,
            max_array_len=max(limits.MAX_ARRAY_ENTRIES, limits.MAX_CHILDREN),
            max_map_len=limits.MAX_MAP_ENTRIES,
            max_ext_len=0,
        )
    except msgpack.StackError:
        raise WireError("malformed", "payload: nested too deeply") from None
    except (ValueError, RecursionError, TypeError, OverflowError) as error:
        raise WireError("malformed", f"payload: {error}") from None
    if not isinstance(body, dict):
        raise WireError("malformed", "payload: not a msgpack map")
    return body


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a key stands twice in one map")
    return body


def _first_problem(error: ValidationError) -> str:
    """`field: what is wrong` for the first problem, without the value: a payload may be private."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "message"
    return f"{field}: {problem['msg']}"[: limits.MAX_TEXT_LENGTH]
