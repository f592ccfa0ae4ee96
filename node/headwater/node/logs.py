"""Law: a line of the log is one event, and says which node wrote it, and for which run and round where there is one.

What is worked on is a context variable: it goes along into tasks and threads that are begun meanwhile, and nobody
passes it on by hand. As JSON each line is one object, whatever goes wrong.
"""

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from headwater.schemas.messages import RoundKey
from headwater.schemas.settings import LogSettings

log = logging.getLogger("headwater.node")

MAX_RUN_TOLD: Final = 24
"""Of a longer run's name a line for people has the beginning."""

_ABOUT: ContextVar[RoundKey | str | None] = ContextVar("headwater_about", default=None)


@contextmanager
def about(what: RoundKey | str | None) -> Iterator[None]:
    """Lines that are written inside are about this round, or this run; None leaves it as it is."""
    if what is None:
        yield
        return
    token = _ABOUT.set(what)
    try:
        yield
    finally:
        _ABOUT.reset(token)


def set_up_logging(settings: LogSettings, node: str) -> None:
    """One line an event, to stderr; text for people, or JSON for collectors."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines(node) if settings.format == "json" else _Text(node))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    if settings.format == "json":
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread


def say_at_the_end(sentence: str) -> None:
    """Why a service ends, on stderr: a line of its log where that is JSON."""
    if any(isinstance(handler.formatter, _JsonLines) for handler in logging.getLogger().handlers):
        log.critical("%s", sentence)
    else:
        print(f"headwater: {sentence}", file=sys.stderr)


def _uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, where))


def _uncaught_in_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        _uncaught(failed.exc_type, failed.exc_value, failed.exc_traceback)


def _message(record: logging.LogRecord) -> str:
    """What a line says; one whose arguments do not fit says that much."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError) as error:
        return f"{record.msg} {record.args!r} ({error})"


def printable(text: str) -> str:
    """One line that orders a terminal nothing: much of what is told was said by others, over the network."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class _Text(logging.Formatter):
    """A line for people: when, how bad, who, in which round, what."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        line = f"{time} {record.levelname:<7} {self._node}{_label(_ABOUT.get())}: {printable(_message(record))}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _label(what: RoundKey | str | None) -> str:
    """` run/round`, and what the round's step and attempt are where they are not the first."""
    match what:
        case RoundKey(run=run, round=number, step=step, attempt=attempt):
            rest = f".{step}.{attempt}" if attempt else f".{step}" if step else ""
            return f" {run[:MAX_RUN_TOLD]}/{number}{rest}"
        case str():
            return f" {what[:MAX_RUN_TOLD]}"
    return ""


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "node": self._node,
            **_fields(_ABOUT.get()),
            "logger": record.name,
            "message": _message(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _fields(what: RoundKey | str | None) -> dict[str, Any]:
    match what:
        case RoundKey(run=run, round=number, step=step, attempt=attempt):
            rest = {name: value for name, value in (("step", step), ("attempt", attempt)) if value}
            return {"run": run, "round": number, **rest}
        case str():
            return {"run": what}
    return {}
