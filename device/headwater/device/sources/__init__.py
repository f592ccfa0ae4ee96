"""Law: examples are checked once, at the door; inside, a `Dataset` is finite, of one shape, and has something to learn.

watch.py   digits.py   files.py   prepared.py   python.py      one module for each kind that is read once
live/                                                          sensors, whose examples come while the agent runs
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

from headwater.device.sources.dataset import DataMismatch, Dataset, checked, fits
from headwater.device.sources.digits import load_digits
from headwater.device.sources.files import load_file
from headwater.device.sources.live.sensors import LiveSource
from headwater.device.sources.prepared import load_prepared
from headwater.device.sources.python import load_python
from headwater.device.sources.source import Fixed, Source
from headwater.device.sources.watch import load_watch
from headwater.schemas.errors import ConfigError
from headwater.schemas.sources import (
    DigitsSource,
    FileSource,
    PreparedSource,
    PythonSource,
    SensorSource,
    SourceSpec,
    StaticSource,
    WatchSource,
)

__all__ = ["DataMismatch", "Dataset", "Fixed", "LiveSource", "Source", "fits", "load", "open_sources", "store_path"]


def open_sources(specs: Mapping[str, SourceSpec], folder: Path) -> dict[str, Source]:
    """The sources of a device; what live ones keep lies in the folder.

    Raises:
        DataError: by source, with the mend.
        ConfigError: two sources would write one store.
    """
    sources: dict[str, Source] = {}
    stores: dict[Path, str] = {}
    for key, spec in specs.items():
        if not isinstance(spec, SensorSource):
            sources[key] = Fixed(load(key, spec))
            continue
        path = store_path(key, spec, folder)
        if path in stores:
            raise ConfigError(f"data.{key}.store: {path} is that of data.{stores[path]}; give each source its own")
        stores[path] = key
        sources[key] = LiveSource(key, spec, path)
    return sources


def store_path(key: str, spec: SensorSource, folder: Path) -> Path:
    """Where a live source keeps its windows."""
    return (spec.store or folder / f"{_file_name(key)}.db").resolve()


def load(key: str, spec: StaticSource) -> Dataset:
    """The data set under a key.

    Raises:
        DataError: by source, column, row and value, with the mend.
    """
    match spec:
        case WatchSource():
            dataset = load_watch(spec.persons)
        case DigitsSource():
            dataset = load_digits(spec)
        case FileSource():
            dataset = load_file(spec)
        case PythonSource():
            dataset = load_python(spec)
        case PreparedSource():
            dataset = load_prepared(spec)
    return checked(f"data.{key}", dataset)


def _file_name(key: str) -> str:
    """A file's name that no other key has."""
    name = quote(key, safe=" ")
    return name if len(name) <= 200 and not name.startswith(".") else blake2b(key.encode(), digest_size=16).hexdigest()
