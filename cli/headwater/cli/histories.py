"""Law: `--database` names the history; HEADWATER_DATABASE does, too, and alone may hold a URL with a password.

Whoever only reads makes no database: a name with a slip in it would be an empty history.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from headwater.schemas.config import shown
from headwater.schemas.errors import ConfigError

if TYPE_CHECKING:
    from headwater.cloud.history import History


def without_password(context: typer.Context, parameter: typer.CallbackParam, url: str | None) -> str | None:
    """A flag is read by whoever lists processes. Raises ConfigError."""
    source = context.get_parameter_source(parameter.name or "")
    is_flag = source is not None and source.name == "COMMANDLINE"
    if url is not None and is_flag and shown((parameter.name or "",), url) != url:
        raise ConfigError("--database: others can read the password in it; put the URL into HEADWATER_DATABASE")
    return url


Database = Annotated[
    str,
    typer.Option(
        envvar="HEADWATER_DATABASE",
        help="The history's SQLAlchemy URL; one with a password only by the variable.",
        show_envvar=True,
        callback=without_password,
    ),
]
DEFAULT: Final = "sqlite:///headwater.db"


@contextmanager
def opened(url: str, *, creates: bool = False) -> Iterator["History"]:
    """The history, for as long as a command needs it; made where it is not there, if the command `creates` one.

    Raises:
        HistoryError: it is not there, or cannot be opened.
    """
    from headwater.cloud.history import open_history

    history = open_history(url, creates=creates)
    try:
        yield history
    finally:
        history.close()
