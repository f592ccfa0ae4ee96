"""Each tier's example is its list of settings: every one stands there, with its default, and all of them hold."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, SecretStr

from headwater.schemas.config import _is_model, _members, load, resolve
from headwater.schemas.run import RunDescription
from headwater.schemas.settings import (
    BridgeSettings,
    CloudSettings,
    DashboardSettings,
    DeviceSettings,
    GatewaySettings,
)
from headwater.schemas.sources import DigitsSource, PythonSource, WatchSource

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"
TIERS: Final[dict[str, type[BaseModel]]] = {
    "run": RunDescription,
    "device": DeviceSettings,
    "gateway": GatewaySettings,
    "cloud": CloudSettings,
    "bridge": BridgeSettings,
    "dashboard": DashboardSettings,
}
ELSEWHERE: Final = {
    # Every kind of model is in docs/models.md, every kind of source in docs/data.md.
    *_members(RunDescription.model_fields["model"].annotation),
    *(WatchSource, DigitsSource, PythonSource),
}
NOT_IN_A_FILE: Final = {"broker.password", "uplink.password", "brokers.cloud.password", "system"}
"""A password is a variable's or another file's; which bridge it is the command says."""

OWN: Final = {"name", "data", "rounds", "fleet", "node", "parent", "state", "host", "port", "tls", "labels"}
"""Settings of which every owner has other values; an example's is one."""

COMMENTED: Final = re.compile(r"^# (?=\[+[\w.-]+\]+\s*(#|$)|[\w-]+ = )", re.MULTILINE)


def told(name: str, *, commented: bool) -> dict[str, Any]:
    """An example's settings, those in comments too if `commented`."""
    text = (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(COMMENTED.sub("", text) if commented else text)


Told = tuple[type[BaseModel], str, dict[str, Any]]


def tables(model: type[BaseModel], values: dict[str, Any], path: str = "") -> Iterator[Told]:
    """Each table of an example: what it describes, its path, and its settings."""
    yield model, path, values
    for name in (name for name in model.model_fields if name in values):
        for annotation in _members(model.model_fields[name].annotation):
            for kind, inner, place in _inside(annotation, values[name], path + name):
                yield from tables(kind, inner, f"{place}.")


def _inside(annotation: Any, value: Any, path: str) -> Iterator[tuple[type[BaseModel], dict[str, Any], str]]:
    """What lies in a setting: one table, or several by their names or in a row."""
    each = [(annotation, value, path)]
    if get_origin(annotation) is dict:
        each = [(get_args(annotation)[1], one, f"{path}.{key}") for key, one in value.items()]
    elif get_origin(annotation) is tuple:
        each = [(get_args(annotation)[0], one, path) for one in value]
    for of_one, one, place in each:
        yield from ((kind, one, place) for kind in _members(of_one) if _describes(kind, one))


def _describes(member: Any, value: object) -> bool:
    if not _is_model(member) or not isinstance(value, dict):
        return False
    kind = member.model_fields.get("kind")
    return kind is None or get_origin(kind.annotation) is not Literal or value["kind"] in get_args(kind.annotation)


def left_out(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """The settings that stand nowhere: a table that is there twice is told in full once."""
    found: dict[type[BaseModel], tuple[str, set[str]]] = {}
    for kind, path, settings in tables(model, values):
        found.setdefault(kind, (path, set()))[1].update(settings)
    missing = {
        path + name
        for kind, (path, names) in found.items()
        if kind not in ELSEWHERE
        for name in kind.model_fields.keys() - names
    }
    return sorted(missing - NOT_IN_A_FILE)


def other_than_default(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """Settings with a default for which the example has another value."""
    return [
        f"{path}{name} = {settings[name]!r}, by default {default!r}"
        for kind, path, settings in tables(model, values)
        if kind not in ELSEWHERE
        for name, default in _defaults(kind).items()
        if name in settings and name not in OWN and settings[name] != default
    ]


def _defaults(kind: type[BaseModel]) -> dict[str, object]:
    """Those that a TOML can say."""
    fields = {n: field.get_default(call_default_factory=True) for n, field in kind.model_fields.items()}
    plain = {n: list(value) if isinstance(value, tuple) else value for n, value in fields.items()}
    texts = {n: value.get_secret_value() if isinstance(value, SecretStr) else value for n, value in plain.items()}
    return {n: value for n, value in texts.items() if isinstance(value, bool | int | float | str | list)}


@pytest.mark.parametrize("name", TIERS)
def test_every_setting_stands_in_the_example(name: str) -> None:
    assert left_out(TIERS[name], told(name, commented=True)) == []


@pytest.mark.parametrize("name", TIERS)
def test_what_the_example_says_unasked_is_the_default(name: str) -> None:
    assert other_than_default(TIERS[name], told(name, commented=False)) == []


@pytest.mark.parametrize("name", TIERS)
def test_the_example_holds_as_it_stands_and_with_all_that_is_in_comments(name: str) -> None:
    flags = {("system",): "thingsboard"} if name == "bridge" else {}
    assert load(TIERS[name], EXAMPLES / f"{name}.toml", flags=flags).origins
    text = COMMENTED.sub("", (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8"))
    resolve(TIERS[name], text=text, name=name, flags=flags)


@pytest.mark.parametrize(
    ("setting", "missing"),
    [
        ("keepalive_s", ["broker.keepalive_s"]),
        ("store_size_bytes", ["store_size_bytes"]),
        ("max_per_minute", ["serving.max_per_minute"]),
        ("lag_s", ["data.pump.lag_s"]),
        ("after_s", ["fallback.after_s"]),
    ],
)
def test_a_setting_that_is_left_out_is_found(setting: str, missing: list[str]) -> None:
    text = (EXAMPLES / "device.toml").read_text(encoding="utf-8")
    without = re.sub(rf"^(# )?{setting} = .*\n", "", text, flags=re.MULTILINE)
    assert left_out(DeviceSettings, tomllib.loads(COMMENTED.sub("", without))) == missing


def test_a_default_that_changed_is_found() -> None:
    values = told("device", commented=False)
    values["broker"]["keepalive_s"] = 31.0
    assert other_than_default(DeviceSettings, values) == ["broker.keepalive_s = 31.0, by default 30.0"]
