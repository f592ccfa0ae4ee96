"""Law: MQTT 3.1.1, section 4.7: what is a topic, what is a filter, and which filter covers which."""

from typing import Final

MAX_LEVELS: Final = 64
"""Levels of a topic or filter. A bound of ours: walking a tree of topics must not exhaust the stack."""


def is_topic(text: str) -> bool:
    """Whether a message may be published to `text`."""
    return _is_sound(text) and "+" not in text and "#" not in text


def is_filter(text: str) -> bool:
    """Whether `text` may be subscribed: `+` alone in its level, `#` alone in the last one."""
    *inner, last = text.split("/")
    return (
        _is_sound(text)
        and all("#" not in level and ("+" not in level or level == "+") for level in inner)
        and (last in ("+", "#") or not {"+", "#"} & set(last))
    )


def covers(allowed: str, asked: str) -> bool:
    """Whether every topic that the filter `asked` matches is matched by the filter `allowed` too."""
    if asked.startswith("$") and allowed[:1] in ("+", "#"):
        return False
    allowed_levels, asked_levels = allowed.split("/"), asked.split("/")
    for index, level in enumerate(allowed_levels):
        if level == "#":
            return True
        if index >= len(asked_levels):
            return False
        if asked_levels[index] == "#" or level not in ("+", asked_levels[index]):
            return False
    return len(allowed_levels) == len(asked_levels)


def _is_sound(text: str) -> bool:
    return bool(text) and "\0" not in text and text.count("/") < MAX_LEVELS
