"""Law: an owner's function is trusted to run, and its result is checked like any other data."""

from headwater.device.entry import NoEntry, function_of
from headwater.device.sources.dataset import Dataset, dataset
from headwater.schemas.errors import DataError
from headwater.schemas.sources import PythonSource


def load_python(spec: PythonSource) -> Dataset:
    """What `package.module:function` returns: train_x, train_y, test_x, test_y.

    Raises:
        DataError: the entry point is not there, fails, or returns something else.
    """
    try:
        function = function_of(spec.entry)
    except NoEntry as error:
        raise DataError(f"entry: {error}") from None
    try:
        result = function(**spec.arguments)
    except Exception as error:
        raise DataError(f"entry: {spec.entry} failed with {type(error).__name__}: {error}") from error
    if isinstance(result, Dataset):
        result = (result.train_x, result.train_y, result.test_x, result.test_y)
    if not isinstance(result, tuple) or len(result) != 4:
        raise DataError(
            f"entry: {spec.entry} returned {type(result).__name__}; return train_x, train_y, test_x, test_y"
        )
    try:
        return dataset(*result)
    except DataError as error:
        raise DataError(f"entry: {spec.entry}: {error}") from None
