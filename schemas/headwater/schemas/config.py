"""Law: a configuration is three layers, file < environment < flags, and every value knows where it came from.

Pure: texts and mappings in, values or one complete list of problems out. `HEADWATER_BROKER__PORT` is `broker.port`.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from headwater.schemas.errors import ConfigError

T = TypeVar("T", bound=BaseModel)
PREFIX: Final = "HEADWATER_"
MASK: Final = "********"
_SECRET: Final = re.compile(r"password$|secret|token", re.IGNORECASE)
_IN_URL: Final = re.compile(r"(://[^:/@\s]*):[^@/\s]*@")

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: `device.toml:12`, `HEADWATER_NODE`, `--node` or `default`."""

    layer: str
    place: str


@dataclass(frozen=True, slots=True)
class Resolved(Generic[T]):
    """A validated configuration with the origin of each value that was given."""

    value: T
    origins: Mapping[Key, Origin]


class Invalid(ConfigError):
    """All the problems of one configuration, one a line, each with its place."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def resolve(
    model: type[T],
    *,
    text: str = "",
    name: str = "configuration",
    environment: Mapping[str, str] | None = None,
    flags: Mapping[Key, object] | None = None,
    others: Iterable[type[BaseModel]] = (),
) -> Resolved[T]:
    """Lay the three layers over each other and validate.

    Args:
        text: TOML. name: what to call it in messages.
        environment: variables; those without the prefix are passed over, and so are those that `others` know.
        flags: key path to value; None means that the flag was not given.

    Raises:
        Invalid: with every problem found.
    """
    data, origins = _file_layer(text, name)
    problems = _environment_layer(model, environment or {}, tuple(others), data, origins)
    for key, value in (flags or {}).items():
        if value is not None:
            _put(data, key, value, origins, Origin("flag", "--" + "-".join(key).replace("_", "-")))
    try:
        value = model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems += [_problem(model, item, data, origins, name) for item in error.errors(include_url=False)]
        raise Invalid(problems) from None
    if problems:
        raise Invalid(problems)
    return Resolved(value, origins)


def load(
    model: type[T],
    path: Path | None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[Key, object] | None = None,
    others: Iterable[type[BaseModel]] = (),
) -> Resolved[T]:
    """`resolve` with the file read. Raises Invalid also where it cannot be."""
    try:
        text = path.read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid([f"{path}: {error}; give a readable TOML file"]) from None
    return resolve(
        model, text=text, name=str(path or "configuration"), environment=environment, flags=flags, others=others
    )


def explain(resolved: Resolved[Any]) -> list[tuple[str, str, str]]:
    """Rows of key, value and origin for `--print-config`; secrets are masked."""
    return [
        (".".join(key), shown(key, value), (resolved.origins.get(key) or Origin("default", "default")).place)
        for key, value in _leaves(resolved.value.model_dump(), ())
    ]


def shown(key: Key, value: object) -> str:
    """A value as it may be printed."""
    raw = value.get_secret_value() if isinstance(value, SecretStr) else value
    if raw is None:
        return "-"
    if _SECRET.search(key[-1]) or (isinstance(value, SecretStr) and "://" not in str(raw)):
        return MASK
    return _IN_URL.sub(rf"\1:{MASK}@", json.dumps(raw, default=str) if not isinstance(raw, str) else raw)


# ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _file_layer(text: str, name: str) -> tuple[dict[str, Any], dict[Key, Origin]]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"{name}:{place[1]}:{place[2]}" if place else f"{name}:{text.count(chr(10)) + 1}"
        raise Invalid([f"{where}: {re.sub(r' .at (line|end).*', '', str(error))}; this is no TOML"]) from None
    lines = locate(text, data)
    return data, {key: Origin("file", f"{name}:{lines[key]}") for key, _ in _leaves(data, ()) if key in lines}


def _environment_layer(
    model: type[BaseModel],
    environment: Mapping[str, str],
    others: tuple[type[BaseModel], ...],
    data: dict[str, Any],
    origins: dict[Key, Origin],
) -> list[str]:
    known = _variables(model)
    elsewhere = {name for other in others for name in _variables(other)}
    problems = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX):
            continue
        if variable in known:
            _put(data, known[variable], _parsed(text), origins, Origin("environment", variable))
        elif variable not in elsewhere:
            problems.append(f"{variable}: no such setting{_did_you_mean(variable, known)}")
    return problems


def _variables(model: type[BaseModel], key: Key = ()) -> dict[str, Key]:
    """The environment's names of a model's settings, nested tables included."""
    names: dict[str, Key] = {}
    for field, info in model.model_fields.items():
        nested = _nested(info.annotation)
        if nested:
            names |= _variables(nested, (*key, field))
        else:
            names[PREFIX + "__".join((*key, field)).upper()] = (*key, field)
    return names


def _nested(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *getattr(annotation, "__args__", ()))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _parsed(text: str) -> object:
    """A variable's text as TOML would read it, or as it stands."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _put(data: dict[str, Any], key: Key, value: object, origins: dict[Key, Origin], origin: Origin) -> None:
    for part in key[:-1]:
        table = data.setdefault(part, {})
        if not isinstance(table, dict):
            table = data[part] = {}
        data = table
    data[key[-1]] = value
    origins[key] = origin


def _leaves(data: object, key: Key) -> Iterable[tuple[Key, object]]:
    if isinstance(data, dict) and data:
        for name, value in data.items():
            yield from _leaves(value, (*key, str(name)))
    elif key:
        yield key, data


# ── problems ────────────────────────────────────────────────────────────────────────────────────────────────────


def _problem(model: type[BaseModel], item: Any, data: dict[str, Any], origins: Mapping[Key, Origin], name: str) -> str:
    path = tuple(str(part) for part in item["loc"])
    key = _existing(path, data)
    place = _place(key, origins) or name
    dotted = ".".join(_plain(path, data)) or "configuration"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"{place}: {dotted}: unknown key{_did_you_mean(path[-1], _siblings(model, path))}"
    if item["type"] == "missing":
        return f"{place}: {dotted}: missing; give it a value"
    if item["type"] == "union_tag_invalid":
        message = f"{item['ctx']['tag']!r} is none of {item['ctx']['expected_tags']}"
    value = "" if isinstance(item["input"], dict) or not path else f" (it is {shown(path, item['input'])})"
    return f"{place}: {dotted}: {message[:1].lower() + message[1:]}{value}"


def _existing(path: Key, data: Any) -> Key:
    """The path without the parts that pydantic adds for union members, as far as the data go."""
    found: list[str] = []
    for part in path:
        if isinstance(data, dict) and part in data:
            data = data[part]
            found.append(part)
        elif isinstance(data, list) and part.isdigit():
            break
    return tuple(found)


def _plain(path: Key, data: Any) -> Key:
    """The path as its owner wrote it: without the kinds that pydantic adds for the members of a union."""
    plain: list[str] = []
    for part in path:
        if isinstance(data, dict) and data.get("kind") == part and part not in data:
            continue
        plain.append(part)
        data = data.get(part) if isinstance(data, dict) else None
    return tuple(plain)


def _place(key: Key, origins: Mapping[Key, Origin]) -> str | None:
    """The place of a key, or of the first value below it."""
    while key:
        for other, origin in origins.items():
            if other[: len(key)] == key:
                return origin.place
        key = key[:-1]
    return None


def _siblings(model: type[BaseModel], path: Key) -> list[str]:
    fields: list[str] = list(model.model_fields)
    for part in path[:-1]:
        info = model.model_fields.get(part)
        nested = _nested(info.annotation) if info else None
        if nested is None:
            break
        model = nested
        fields = list(model.model_fields)
    return fields


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"


# ── line numbers ────────────────────────────────────────────────────────────────────────────────────────────────

_HEADER: Final = re.compile(r"^\s*\[{1,2}\s*(?P<path>[^\[\]]+?)\s*\]{1,2}\s*(#.*)?$")
_PAIR: Final = re.compile(r"""^\s*(?P<path>(?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART: Final = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def locate(text: str, data: Mapping[str, Any]) -> dict[Key, int]:
    """The line (from 1) of each key path of valid TOML. tomllib gives no positions, so its keys are looked up here.

    A value over several lines, or an inline table, has the line on which it begins.
    """
    lines: dict[Key, int] = {}
    table: Key = ()
    pending = ""
    for number, line in enumerate(text.splitlines(), 1):
        if pending:
            pending = "" if _complete(pending + line + "\n") else pending + line + "\n"
            continue
        if header := _HEADER.match(line):
            table = _parts(header["path"])
            lines.setdefault(table, number)
        elif pair := _PAIR.match(line):
            key = (*table, *_parts(pair["path"]))
            lines[key] = number
            pending = "" if _complete(line + "\n") else line + "\n"
    for key, _ in _leaves(data, ()):
        for end in range(len(key) - 1, 0, -1):
            if key not in lines and key[:end] in lines:
                lines[key] = lines[key[:end]]
    return lines


def _parts(path: str) -> Key:
    return tuple(part.strip("\"'") for part in _PART.findall(path))


def _complete(pair: str) -> bool:
    try:
        tomllib.loads(pair)
    except tomllib.TOMLDecodeError:
        return False
    return True
