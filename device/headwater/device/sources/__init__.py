"""Law: examples are checked once, at the door; inside, a `Dataset` is finite, of one shape, and has something to learn.

watch.py   digits.py   files.py   python.py      one module for each kind of source
"""

from headwater.device.sources.dataset import DataMismatch, Dataset, checked, fits
from headwater.device.sources.digits import load_digits
from headwater.device.sources.files import load_file
from headwater.device.sources.python import load_python
from headwater.device.sources.watch import load_watch
from headwater.schemas.sources import DigitsSource, FileSource, PythonSource, SourceSpec, WatchSource

__all__ = ["DataMismatch", "Dataset", "fits", "load"]


def load(key: str, spec: SourceSpec) -> Dataset:
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
    return checked(f"data.{key}", dataset)
