"""Law: a configuration is three layers, file < environment < flags, and every value knows where it came from.

Pure: texts and mappings in, values or one complete list of problems out. `HEADWATER_BROKER__PORT` is `broker.port`.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from headwater.schemas.errors import ConfigError
from headwater.schemas.patterns import IN_WORDS

T = TypeVar("T", bound=BaseModel)
PREFIX: Final = "HEADWATER_"
MASK: Final = "********"
_SECRET: Final = re.compile(r"passw(or)?d$|passphrase$|secret|token|api_?key|credential", re.IGNORECASE)
# Up to the last @: a password may hold any of : / @ and blanks.
_IN_URL: Final = re.compile(r"(://[^:/]*):.*@", re.DOTALL)
_IN_QUERY: Final = re.compile(r"([?&][^=&]*(?:passw|secret|token|key)[^=&]*=)[^&]*", re.IGNORECASE)

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
        value = checked(model, data, name, origins)
    except Invalid as error:
        raise Invalid((*problems, *error.problems)) from None
    if problems:
        raise Invalid(problems)
    return Resolved(value, origins)


def checked(model: type[T], data: dict[str, Any], name: str, origins: Mapping[Key, Origin] | None = None) -> T:
    """What was read of TOML or JSON as a value; `name` stands for the place of what `origins` do not know.

    Raises:
        Invalid: with every problem found.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise refused(model, error, name, data, origins) from None


def refused(
    model: type[BaseModel],
    error: ValidationError,
    name: str,
    data: Mapping[str, Any] | None = None,
    origins: Mapping[Key, Origin] | None = None,
) -> Invalid:
    """What `model` does not take, for the owner of the values: each with its field. What came over a wire is not told
    so, for a payload may be private.

    Args:
        data: the table that it was made of, if it was: a path into it is then told as its owner wrote it.
    """
    found = error.errors(include_url=False)
    return Invalid(_problem(model, item, dict(data or {}), origins or {}, name) for item in found)


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
    if value is None:
        return "-"
    masked = _masked(key[-1], value)
    return masked if isinstance(masked, str) else json.dumps(masked, default=str)


def _masked(name: str, value: object) -> object:
    """The value without its secrets, however deep they lie; of a URL only the password is one. Where a secret lies is
    none: `token_file` and `http.tokens` are paths."""
    if isinstance(value, Path):
        return str(value)
    if _SECRET.search(name):
        return MASK
    if isinstance(value, Mapping):
        return {inner: _masked(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(name, item) for item in value]
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(value, SecretStr) and "://" not in value.get_secret_value():
        return MASK
    return _IN_URL.sub(rf"\1:{MASK}@", _IN_QUERY.sub(rf"\1{MASK}", text)) if isinstance(text, str) else text


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
            value = _parsed(text, takes_text=_takes_text(_follow(model, known[variable])))
            _put(data, known[variable], value, origins, Origin("environment", variable))
        elif variable not in elsewhere:
            problems.append(f"{variable}: no such setting{did_you_mean(variable, known)}")
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
    return next((member for member in _members(annotation) if _is_model(member)), None)


def _parsed(text: str, *, takes_text: bool) -> object:
    """A variable's text as TOML would read it, or as it stands: always where the setting takes only text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if takes_text and not isinstance(value, str) else value


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
    message = _message(item)
    if item["type"] == "extra_forbidden":
        return f"{place}: {dotted}: unknown key{did_you_mean(path[-1], _siblings(model, path))}"
    if item["type"] == "missing":
        return f"{place}: {dotted}: missing; give it a value"
    if item["type"] == "union_tag_not_found":
        return f"{place}: {dotted}.kind: missing; say what kind it is"
    if item["type"] == "union_tag_invalid":
        message = f"{item['ctx']['tag']!r} is none of {item['ctx']['expected_tags']}"
    value = "" if isinstance(item["input"], dict) or not path else f" (it is {shown(path, item['input'])})"
    return f"{place}: {dotted}: {message}{value}"


def in_words(error: ValidationError) -> str:
    """What is wrong with which field, without the values, of which some may be secret."""
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'it'}: {_message(item)}" for item in found)


def _message(item: Any) -> str:
    """What pydantic says of a value, as words within a sentence and never as a regular expression."""
    if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] in IN_WORDS:
        return IN_WORDS[item["ctx"]["pattern"]]
    message = str(item["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


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
    models = [member for member in _members(_follow(model, path[:-1])) if _is_model(member)]
    return [field for member in models for field in member.model_fields]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is none of these."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known)) or 'none'}"


# ── types ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _follow(annotation: Any, path: Key) -> Any:
    """The type at the end of a key path; the kinds that pydantic adds for the members of a union count as keys."""
    for part in path:
        annotation = next(filter(None, (_step(member, part) for member in _members(annotation))), None)
    return annotation


def _step(member: Any, part: str) -> Any:
    if get_origin(member) is dict:
        return get_args(member)[1]
    if not _is_model(member):
        return None
    if part in member.model_fields:
        return member.model_fields[part].annotation
    kind = member.model_fields.get("kind")
    return member if kind and part in get_args(kind.annotation) else None


def _members(annotation: Any) -> Iterator[Any]:
    """The types of a union, or the one type, without their annotations."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _takes_text(annotation: Any) -> bool:
    return all(
        member in (str, SecretStr, Path, NoneType)
        or (get_origin(member) is Literal and all(isinstance(value, str) for value in get_args(member)))
        for member in _members(annotation)
    )


# ── line numbers ────────────────────────────────────────────────────────────────────────────────────────────────

_PART: Final = r"""(?:[\w-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_PATH: Final = rf"(?P<path>{_PART}(?:\s*\.\s*{_PART})*)"
_HEADER: Final = re.compile(rf"^\s*\[{{1,2}}\s*{_PATH}\s*\]{{1,2}}\s*(#.*)?$")
_PAIR: Final = re.compile(rf"^\s*{_PATH}\s*=")
_CLOSING: Final = ("]", "}", '"""', "'''")
"""What the last line of a value over several lines must hold."""


def locate(text: str, data: Mapping[str, Any]) -> dict[Key, int]:
    """The line (from 1) of each key path of valid TOML. tomllib gives no positions, so its keys are looked up here.

    A value over several lines, or an inline table, has the line on which it begins.
    """
    lines: dict[Key, int] = {}
    table: Key = ()
    pending = ""
    # Only a line feed ends a line of TOML; splitlines would also break at other marks within a text.
    for number, line in enumerate(text.split("\n"), 1):
        if pending:
            pending += line + "\n"
            if any(mark in line for mark in _CLOSING) and _complete(pending):
                pending = ""
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
    """The parts of a dotted key; tomllib itself reads the quotes."""
    data, parts = tomllib.loads(f"{path} = 0"), []
    while isinstance(data, dict):
        ((part, data),) = data.items()
        parts.append(part)
    return tuple(parts)


def _complete(pair: str) -> bool:
    try:
        tomllib.loads(pair)
    except tomllib.TOMLDecodeError:
        return False
    return True
