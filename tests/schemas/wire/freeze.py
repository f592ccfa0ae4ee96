"""Writes the frozen bytes of messages that have none yet; never changes a frozen one.

    python tests/schemas/wire/freeze.py

A change of the protocol gets new files beside the old, and the old ones must stay readable.
"""

import sys
from pathlib import Path
from typing import Any

import msgpack

sys.path.insert(0, str(Path(__file__).parent.parent))

from messages_by_name import MESSAGES

from headwater.schemas.wire import encode


def commented(payload: bytes) -> str:
    """One line for each key and value of the message's msgpack map, the bytes before the `#`."""
    body = msgpack.unpackb(payload, use_list=False)
    packer = msgpack.Packer(use_bin_type=True)
    lines = [_line(packer.pack_map_header(len(body)), f"a map of {len(body)}")]
    for key, value in body.items():
        lines.append(_line(packer.pack(key), key))
        lines += _value(packer, value, "  ")
    return "\n".join(lines) + "\n"


def _value(packer: Any, value: Any, indent: str) -> list[str]:
    if isinstance(value, dict):
        lines = [_line(packer.pack_map_header(len(value)), f"{indent}a map of {len(value)}")]
        for key, inner in value.items():
            lines.append(_line(packer.pack(key), f"{indent}{key}"))
            lines += _value(packer, inner, indent + "  ")
        return lines
    if isinstance(value, tuple):
        lines = [_line(packer.pack_array_header(len(value)), f"{indent}an array of {len(value)}")]
        for inner in value:
            lines += _value(packer, inner, indent + "  ")
        return lines
    return [_line(packer.pack(value), f"{indent}{value!r}")]


def _line(payload: bytes, comment: str) -> str:
    return f"{payload.hex(' ')}  # {comment}"


def main() -> None:
    for name, message in MESSAGES.items():
        path = Path(__file__).parent / f"{name}.hex"
        if not path.exists():
            path.write_text(commented(encode(message)), encoding="utf-8")
            print(f"froze {path.name}")


if __name__ == "__main__":
    main()
