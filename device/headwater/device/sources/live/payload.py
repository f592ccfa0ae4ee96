"""Law: a payload is anybody's bytes: it becomes finite numbers or a reason why not, within stated caps, and no more.

Pure: `(bytes, description) -> value`.
"""

import json
import math
import re
from functools import lru_cache
from typing import Any, Final, Literal

import msgpack
import numpy as np

from headwater.schemas.sources import Channel, Label, Reading

MAX_PAYLOAD_SIZE_BYTES: Final = 256 * 1024
MAX_NESTING: Final = 32
MAX_SAMPLES: Final = 16_384
"""Numbers in one payload."""

Reason = Literal[
    "oversized", "nested too deeply", "malformed", "not there", "no number", "not finite", "no known label"
]

_LARGEST: Final = float(np.finfo(np.float32).max)
_MILLISECONDS: Final = 1e11
"""A time above this is not in seconds: it would lie after the year 5000."""

_TEXT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_PART: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


class Unreadable(Exception):
    """Why a payload gave no value. `reason` is one of few; the value itself is not told, for it is private."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason


def document(payload: bytes, reading: Reading) -> Any:
    """What the payload holds, in Python's plain types; readings of one topic and format may share it.

    Raises:
        Unreadable: oversized, nested too deeply, or not of its format.
    """
    if len(payload) > MAX_PAYLOAD_SIZE_BYTES:
        raise Unreadable("oversized", f"{len(payload)} bytes; at most {MAX_PAYLOAD_SIZE_BYTES}")
    try:
        match reading.format:
            case "json":
                return _json(payload)
            case "msgpack":
                return _msgpack(payload)
            case "text":
                return payload.decode().strip()
    except (RecursionError, msgpack.StackError):
        raise Unreadable("nested too deeply", f"more than {MAX_NESTING} levels") from None
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        raise Unreadable("malformed", f"this is no {reading.format}") from None


def numbers(content: Any, channel: Channel) -> tuple[float, ...]:
    """The numbers of a channel in a payload's content: one, or those of a list.

    Raises:
        Unreadable: there is none, it is no number, or not finite in float32.
    """
    value = part(content, channel.path)
    if not isinstance(value, list):
        return (_number(value, channel),)
    if len(value) > MAX_SAMPLES:
        raise Unreadable("oversized", f"{len(value)} numbers; at most {MAX_SAMPLES}")
    return tuple(_number(item, channel) for item in value)


def sampled_at(content: Any, channel: Channel) -> float | None:
    """The payload's own time in seconds since 1970, where the channel says that it has one; milliseconds are told by
    their size.

    Raises:
        Unreadable: it has none.
    """
    if channel.time is None:
        return None
    value = part(content, channel.time)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unreadable("no number", f"{channel.time} is the time of {channel.name!r}")
    return value / 1000 if value > _MILLISECONDS else float(value)


def target(content: Any, label: Label) -> float:
    """The label in a payload's content: the number of a class, or a number.

    Raises:
        Unreadable: there is none, or it is none of the classes.
    """
    value = part(content, label.path)
    if not label.is_class:
        return _finite(value, "the label")
    if label.labels:
        word = _word(value)
        if word not in label.labels:
            raise Unreadable("no known label", f"it is none of {', '.join(label.labels)}")
        return float(label.labels.index(word))
    number = _finite(value, "the label")
    if number != int(number) or not 0 <= number < label.classes:
        raise Unreadable("no known label", f"classes are 0 to {label.classes - 1}")
    return number


def part(content: Any, path: str) -> Any:
    """What lies at `$.a.b[0]`.

    Raises:
        Unreadable: nothing does.
    """
    for name, index in parts(path):
        if isinstance(content, dict) and name is not None and name in content:
            content = content[name]
        elif isinstance(content, list) and name is None and index < len(content):
            content = content[index]
        else:
            raise Unreadable("not there", path)
    return content


@lru_cache(maxsize=1024)
def parts(path: str) -> tuple[tuple[str | None, int], ...]:
    return tuple((match[1], int(match[2] or 0)) for match in _PART.finditer(path))


# ── formats ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _json(payload: bytes) -> Any:
    # The openers bound the depth; only where there are many it is worth counting.
    if payload.count(b"[") + payload.count(b"{") > MAX_NESTING:
        depth = 0
        for bracket in _BRACKET.finditer(_TEXT.sub(b"", payload)):
            depth += 1 if bracket[0] in b"[{" else -1
            if depth > MAX_NESTING:
                raise RecursionError
    return json.loads(payload)


def _msgpack(payload: bytes) -> Any:
    content = msgpack.unpackb(
        payload,
        raw=False,
        strict_map_key=True,
        max_str_len=MAX_PAYLOAD_SIZE_BYTES,
        max_bin_len=MAX_PAYLOAD_SIZE_BYTES,
        max_array_len=MAX_SAMPLES,
        max_map_len=MAX_SAMPLES,
        max_ext_len=0,
    )
    _check_nesting(content, MAX_NESTING)
    return content


def _check_nesting(content: Any, left: int) -> None:
    if isinstance(content, dict | list):
        if not left:
            raise RecursionError
        for item in content.values() if isinstance(content, dict) else content:
            _check_nesting(item, left - 1)


# ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _number(value: Any, channel: Channel) -> float:
    known = channel.values.get(value, value) if isinstance(value, str) else value
    return _finite(known, repr(channel.name))


def _finite(value: Any, name: str) -> float:
    if isinstance(value, str) and "_" not in value:
        try:
            value = float(value)
        except ValueError:
            raise Unreadable("no number", name) from None
    if not isinstance(value, int | float):
        raise Unreadable("no number", name)
    # Compared before it is converted: an integer may have more digits than a float can hold.
    if not -_LARGEST <= value <= _LARGEST:
        raise Unreadable("not finite", name)
    return float(value)


def _word(value: Any) -> str:
    """A label as its owner would write it: `true`, `3`, `worn`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) else ""
