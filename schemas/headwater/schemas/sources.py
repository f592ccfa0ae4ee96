"""Law: where a device's examples come from is said in its configuration, under the data key that runs name.

The data themselves are read by `headwater.device.sources`, and stay there.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from headwater.schemas.base import Frozen, Name, Positive

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
    The last `test_fraction` of the rows is the test part.
    """

    kind: Literal["file"]
    path: Path
    features: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]
    target: Name
    classes: Annotated[int, Field(ge=0)] = 0
    labels: tuple[Name, ...] = ()
    test_fraction: OpenFraction = 0.25


class PythonSource(Frozen):
    """A function of the owner's, `package.module:function`; it returns train_x, train_y, test_x, test_y."""

    kind: Literal["python"]
    entry: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    arguments: dict[str, Any] = Field(default_factory=dict)


SourceSpec = Annotated[WatchSource | DigitsSource | FileSource | PythonSource, Field(discriminator="kind")]
