"""Law: a scenario is one TOML: who learns what from which data, below whom, and who takes no part and is tested on.

NAME.toml, in this folder:  title, about, story   what people read
                            member                what a device belongs to: a person, a driver, a home
                            [clusters]            each gateway's devices
                            [sources]             each device's data, and that of `unseen`
                            [run]                 the run, as `headwater run start` takes it
"""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Final

from pydantic import Field, ValidationError, model_validator

from headwater.schemas.base import Frozen, Name, NodeId, Positive, Text
from headwater.schemas.errors import ConfigError
from headwater.schemas.run import RunDescription
from headwater.schemas.sources import PreparedSource, StaticSource
from headwater.testbed.tree import Tree

DEFAULT: Final = "wearables"
UNSEEN: Final = "unseen"
_ENDING: Final = ".toml"

Source = Annotated[StaticSource, Field(discriminator="kind")]


class Scenario(Frozen):
    """`unit` and `scale` say what a regression's target is for people: they read its error times `scale`."""

    name: Name
    title: Name
    about: Text
    story: Text
    member: Name
    clusters: Annotated[dict[NodeId, tuple[NodeId, ...]], Field(min_length=1)]
    sources: dict[NodeId, Source]
    run: RunDescription
    unit: str = ""
    scale: Positive = 1.0

    @model_validator(mode="after")
    def _everyone_has_data(self) -> "Scenario":
        wanted = {*self.devices, UNSEEN}
        if set(self.sources) != wanted:
            odd = sorted(set(self.sources) ^ wanted)[0]
            raise ValueError(f"sources: {odd}: a source belongs to each device of [clusters] and to {UNSEEN}")
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(device for devices in self.clusters.values() for device in devices)

    @property
    def stranger(self) -> str:
        return f"the unseen {self.member}"

    @property
    def prepared(self) -> tuple[str, ...]:
        """The data sets that must have been prepared."""
        return tuple(sorted({source.name for source in self.sources.values() if isinstance(source, PreparedSource)}))

    def tree(self) -> Tree:
        data = {device: {self.run.data: self.sources[device].model_dump(mode="json")} for device in self.devices}
        return Tree(fleet="demo", clusters=self.clusters, data=data)


def names() -> tuple[str, ...]:
    """Of all scenarios, the default first."""
    found = sorted(file.name.removesuffix(_ENDING) for file in _folder() if file.name.endswith(_ENDING))
    return (DEFAULT, *(name for name in found if name != DEFAULT))


def scenario(name: str) -> Scenario:
    """Raises ConfigError naming those that there are."""
    if name not in names():
        raise ConfigError(f"scenario: no {name!r}; there are {', '.join(names())}")
    text = files(__name__).joinpath(name + _ENDING).read_text(encoding="utf-8")
    return read(name, text)


def read(name: str, text: str) -> Scenario:
    """A scenario's TOML. Raises ConfigError with the first field at fault."""
    try:
        told = tomllib.loads(text)
        return Scenario.model_validate({"name": name, **told}, strict=False)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"scenario {name}: {error}; this is no TOML") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "scenario"
        raise ConfigError(f"scenario {name}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def _folder() -> Iterator[Traversable]:
    return files(__name__).iterdir()
