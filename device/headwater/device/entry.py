"""Law: an owner's function is named `package.module:function`; whatever its import does is told in one sentence."""

import importlib
from collections.abc import Callable
from operator import attrgetter
from typing import Any


class NoEntry(Exception):
    """There is no such function, or its module cannot be imported."""


def function_of(entry: str) -> Callable[..., Any]:
    """Raises NoEntry, saying why."""
    module_name, _, attribute = entry.partition(":")
    try:
        function = attrgetter(attribute)(importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        raise NoEntry(f"{entry}: {error}; is the package installed for this Python?") from None
    except Exception as error:
        raise NoEntry(f"{entry}: importing it failed with {type(error).__name__}: {error}") from error
    if not callable(function):
        raise NoEntry(f"{entry}: it is a {type(function).__name__}; name a function")
    return function  # type: ignore[no-any-return]
