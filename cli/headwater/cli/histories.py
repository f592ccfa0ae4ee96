"""Law: `--database` names the history; HEADWATER_DATABASE does, too, and is the place for a URL with a password."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from headwater.cloud.history import History

Database = Annotated[
    str, typer.Option(envvar="HEADWATER_DATABASE", help="The history's SQLAlchemy URL.", show_envvar=True)
]
DEFAULT: Final = "sqlite:///headwater.db"


@contextmanager
def opened(url: str) -> Iterator["History"]:
    """The history, for as long as a command needs it. Raises HistoryError."""
    from headwater.cloud.history import open_history

    history = open_history(url)
    try:
        yield history
    finally:
        history.close()
