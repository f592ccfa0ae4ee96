"""Law: where a device's examples come from is said in its configuration, under the data key that runs name.

The data themselves are read by `headwater.device.sources`, and stay there.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, FiniteFloat, model_validator

from headwater.schemas import patterns
from headwater.schemas.base import EntryPoint, Frozen, Name, Positive
from headwater.schemas.links import BrokerSettings

MAX_HELD_POINTS: Final = 100_000
"""Grid points over which one sample may hold: it bounds the work that a single message makes."""

MAX_WINDOW_SIZE_BYTES: Final = 4 * 1024 * 1024
OpenFraction = Annotated[float, Field(ge=0, lt=1)]


class WatchSource(Frozen):
    """Smartwatch recordings of seven shoulder exercises, from the package seglearn: those of some of its ten people."""

    kind: Literal["watch"]
    persons: Annotated[tuple[Annotated[int, Field(ge=1, le=10)], ...], Field(min_length=1)]


class DigitsSource(Frozen):
    """Shard `index` of scikit-learn's digits, dealt to `devices` devices with label skew Dirichlet(`alpha`)."""

    kind: Literal["digits"]
    devices: Annotated[int, Field(ge=1, le=1000)]
    index: Annotated[int, Field(ge=0)]
    alpha: Positive = 0.3
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _index_is_a_device(self) -> "DigitsSource":
        if self.index >= self.devices:
            raise ValueError(f"index: {self.index} where there are {self.devices} devices; count from 0")
        return self


class FileSource(Frozen):
    """A table in a CSV, NPZ or Parquet file.

    `features` are column names (for NPZ: one array name), `target` the column to learn. Classes are integers, or
    named in `labels` so that every device numbers them alike; without `classes` and `labels` the target is a number.
    The last `test_fraction` of the rows is the test part. `weight` is a column that says how much a training row counts
    (1 without it): a row of weight 2 counts like two.
    """

    kind: Literal["file"]
    path: Path
    features: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]
    target: Name
    classes: Annotated[int, Field(ge=0)] = 0
    labels: tuple[Name, ...] = ()
    weight: Name | None = None
    test_fraction: OpenFraction = 0.25


class PythonSource(Frozen):
    """A function of the owner's, `package.module:function`; it returns train_x, train_y, test_x, test_y."""

    kind: Literal["python"]
    entry: EntryPoint
    arguments: dict[str, Any] = Field(default_factory=dict)


PartName = Annotated[str, Field(pattern=patterns.PART)]
"""A file or folder of that name lies right where it is looked for, and nowhere else."""


class PreparedSource(Frozen):
    """Parts of a data set that `headwater data prepare NAME` has made: a driver, a home, a turbine each.

    They lie in `folder`; without it, where that command puts them.
    """

    kind: Literal["prepared"]
    name: PartName
    parts: Annotated[tuple[PartName, ...], Field(min_length=1, max_length=1024)]
    folder: Path | None = None


TopicName = Annotated[str, Field(pattern=patterns.TOPIC, max_length=1024)]
"""One MQTT topic, without wildcards."""

JsonPath = Annotated[str, Field(pattern=patterns.JSON_PATH, max_length=256)]
"""Where in a payload the value lies: `$`, `$.a.b[0]`."""

PayloadFormat = Literal["json", "msgpack", "text"]
Layout = Literal["channels_first", "time_first", "flat"]


class Reading(Frozen):
    """Where a value comes from: a topic, the payload's format, and the path of the value within it.

    `text` is a number or a word as it stands; JSON reads a bare number too.
    """

    topic: TopicName
    format: PayloadFormat = "json"
    path: JsonPath = "$"

    @model_validator(mode="after")
    def _text_has_no_parts(self) -> "Reading":
        if self.format == "text" and self.path != "$":
            raise ValueError(f"path: {self.path} in a text; a text has no parts, leave it out")
        return self


class Channel(Reading):
    """One number over time. A list of numbers in one payload is that many samples, a `period_s` apart, the last now.

    `values` gives words their numbers (`{ON = 1, OFF = 0}`); true and false are 1 and 0. `time` is the path of the
    sample's own time, in seconds since 1970; without it a sample is as old as its arrival. What the broker had
    retained is of an unknown age: it is passed over unless `retained` says that it still holds.
    """

    name: Name
    values: Annotated[dict[Name, FiniteFloat], Field(max_length=1024, default_factory=dict)]
    time: JsonPath | None = None
    retained: bool = False


class Label(Reading):
    """What is to be learned. It holds from when it came until the next one, at most `holds_s`.

    Classes are named in `labels`, or are the whole numbers below `classes`; without both the target is a number. A
    value that is none of them ends the last one, and so does an empty payload: what was not labelled is not learned.
    """

    labels: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()
    classes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    holds_s: Positive | None = None

    @model_validator(mode="after")
    def _labels_are_classes(self) -> "Label":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: one stands there twice; name each once")
        if self.labels and self.classes not in (0, len(self.labels)):
            raise ValueError(f"classes: {self.classes} where there are {len(self.labels)} labels; leave it out")
        return self

    @property
    def is_class(self) -> bool:
        return bool(self.labels or self.classes)


class Forecast(Frozen):
    """The target is what comes next: the `steps` following values of these channels, or of all."""

    channels: Annotated[tuple[Name, ...], Field(max_length=1024)] = ()
    steps: Annotated[int, Field(ge=1, le=65_536)] = 1


class SensorSource(Frozen):
    """Windows of live MQTT sensors, kept in a bounded store on the device's disk.

    All channels are put on one grid of `period_s`, each holding its last value; where one is silent for longer than
    `max_gap_s` (ten periods, unless given) the window breaks off. Sample times may be late by `lag_s`. A window is
    `window` grid points, one begins every `stride` (as long as the window, unless given). x is float32
    `[channels, window]` as convolutions take it, `[window, channels]` as recurrence and attention do, or `flat`: one
    row of numbers. With neither `label` nor `forecast` there is no target.

    The store keeps the `newest` windows, or a `reservoir`: a uniform sample of all that ever were. A `test_fraction`
    of the time, in stretches of several windows, is the test part; no grid point is in both parts.
    `store` is the file; unless given it lies in the device's state folder.
    """

    kind: Literal["mqtt"]
    broker: BrokerSettings | None = None
    channels: Annotated[tuple[Channel, ...], Field(max_length=1024)]
    label: Label | None = None
    forecast: Forecast | None = None
    window: Annotated[int, Field(ge=1, le=65_536)] = 1
    stride: Annotated[int | None, Field(ge=1, le=65_536)] = None
    period_s: Annotated[FiniteFloat, Field(ge=0.0001, le=86_400)] = 1.0
    max_gap_s: Positive | None = None
    lag_s: Annotated[FiniteFloat, Field(ge=0, le=86_400)] = 0.0
    layout: Layout = "channels_first"
    max_examples: Annotated[int, Field(ge=2, le=10_000_000)] = 5000
    max_size_bytes: Annotated[int, Field(ge=64 * 1024, le=4 * 1024**3)] = 64 * 1024 * 1024
    keep: Literal["newest", "reservoir"] = "newest"
    test_fraction: OpenFraction = 0.25
    store: Path | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> "SensorSource":
        names = [channel.name for channel in self.channels]
        if not names:
            raise ValueError("channels: none; give a [[channels]] table for each number")
        if len(set(names)) != len(names):
            raise ValueError("channels: two have the same name; name each once")
        if self.label and self.forecast:
            raise ValueError("forecast: there is a label too; an example has one target, take one of them out")
        unknown = set(self.forecast.channels if self.forecast else ()) - set(names)
        if unknown:
            raise ValueError(f"forecast.channels: no channel {sorted(unknown)[0]!r}; there are {', '.join(names)}")
        if self.gap_s / self.period_s > MAX_HELD_POINTS:
            raise ValueError(
                f"max_gap_s: {self.gap_s:g} is more than {MAX_HELD_POINTS} periods of {self.period_s:g} s; "
                "lengthen period_s, or shorten it"
            )
        if len(names) * self.span * 4 > MAX_WINDOW_SIZE_BYTES:
            raise ValueError(
                f"window: {len(names)} channels × {self.span} points are more than {MAX_WINDOW_SIZE_BYTES} bytes; "
                "shorten it"
            )
        return self

    @property
    def gap_s(self) -> float:
        return 10 * self.period_s if self.max_gap_s is None else self.max_gap_s

    @property
    def step(self) -> int:
        """Grid points from one window's begin to the next's."""
        return self.stride or self.window

    @property
    def span(self) -> int:
        """Grid points that an example needs, its target included."""
        return self.window + (self.forecast.steps if self.forecast else 0)

    @property
    def forecast_channels(self) -> tuple[int, ...]:
        """Which channels are the target."""
        names = self.forecast.channels if self.forecast else ()
        return tuple(i for i, channel in enumerate(self.channels) if not names or channel.name in names)


StaticSource = WatchSource | DigitsSource | FileSource | PythonSource | PreparedSource
"""Those that are read once."""

SourceSpec = Annotated[StaticSource | SensorSource, Field(discriminator="kind")]
