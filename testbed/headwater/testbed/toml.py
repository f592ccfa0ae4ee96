"""Law: what the testbed writes for its services is plain TOML that a person could have written."""

import json
from collections.abc import Mapping
from typing import Any


def to_toml(settings: Mapping[str, Any]) -> str:
    """TOML of nested tables with strings, numbers, booleans and lists of them; None is left out."""
    return "\n".join(_table(settings, ())) + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [
        f"{key} = {_value(value)}"
        for key, value in table.items()
        if not isinstance(value, Mapping) and value is not None
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_table(value, (*path, key))]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    # JSON's strings, numbers and booleans are TOML's.
    return json.dumps(value)
