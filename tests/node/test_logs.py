"""Each line says who wrote it and for which round, wherever it is written; as JSON it is one object, whatever it holds."""

import asyncio
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from headwater.node.logs import about, set_up_logging
from headwater.schemas.messages import RoundKey
from headwater.schemas.settings import LogSettings

log = logging.getLogger("headwater.test")
KEY = RoundKey(run="bearings", round=7)


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook)
    yield
    root.handlers[:], root.level = handlers, level
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def begin(format_: Literal["text", "json"]) -> None:
    set_up_logging(LogSettings(format=format_), "gw1")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        pytest.param(None, {}, id="outside of any run"),
        pytest.param("bearings", {"run": "bearings"}, id="between rounds"),
        pytest.param(KEY, {"run": "bearings", "round": 7}, id="in a round"),
        pytest.param(
            KEY.model_copy(update={"step": 1, "attempt": 2}),
            {"run": "bearings", "round": 7, "step": 1, "attempt": 2},
            id="in a later attempt of an edge round",
        ),
    ],
)
def test_a_line_of_json_says_who_when_and_in_which_round(
    what: RoundKey | str | None, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    begin("json")
    with about(what):
        log.warning("%s is gone:\n%s", "d1", "silent")
    (line,) = lines(capsys)
    assert line.pop("time")[-6:] == "+00:00"
    common = {"level": "warning", "node": "gw1", "logger": "headwater.test", "message": "d1 is gone:\nsilent"}
    assert line == common | expected


@pytest.mark.parametrize(
    ("what", "where"),
    [
        (None, "gw1"),
        (KEY, "gw1 bearings/7"),
        (KEY.model_copy(update={"step": 1}), "gw1 bearings/7.1"),
        (KEY.model_copy(update={"attempt": 2}), "gw1 bearings/7.0.2"),
        ("r" * 64, f"gw1 {'r' * 24}"),
    ],
)
def test_a_line_for_people_is_short(
    what: RoundKey | str | None, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin("text")
    with about(what):
        log.info("took %d", 3)
    assert capsys.readouterr().err.endswith(f" INFO    {where}: took 3\n")


async def test_what_is_begun_in_a_round_is_about_it_and_what_follows_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    begin("json")

    async def beside() -> None:
        log.info("a task")
        await asyncio.to_thread(log.info, "a thread")

    with about("bearings"):
        with about(KEY):
            task = asyncio.create_task(beside())
        await task
        log.info("the run")
    log.info("nothing")
    told = {line["message"]: (line.get("run"), line.get("round")) for line in lines(capsys)}
    assert told == {
        "a task": ("bearings", 7),
        "a thread": ("bearings", 7),
        "the run": ("bearings", None),
        "nothing": (None, None),
    }


def test_whatever_goes_wrong_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    begin("json")
    try:
        raise ValueError("over\ntwo lines")
    except ValueError:
        log.exception("failed")
    log.info("%d fits not", "text")
    log.info("%(round)d is not there", {"run": "bearings"})
    warnings.warn("deprecated", stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    failed, unfit, absent, warned, died = lines(capsys)
    assert failed["exception"].endswith("ValueError: over\ntwo lines")
    assert unfit["message"].startswith("%d fits not ('text',)")
    assert absent["message"].startswith("%(round)d is not there")
    assert "deprecated" in warned["message"]
    assert died["message"] == "ZeroDivisionError: division by zero"


ENDS = """
import sys
from headwater.node.logs import set_up_logging
from headwater.node.service import run_service
from headwater.schemas.errors import DataError
from headwater.schemas.settings import LogSettings

async def main():
    raise {error}

set_up_logging(LogSettings(format="{format}"), "d1")
sys.exit(run_service(main))
"""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [("DataError('no such file')", 5, "no such file"), ("KeyError('x')", 1, "KeyError: 'x'")],
)
def test_a_service_that_ends_badly_says_why_in_its_logs_format(error: str, code: int, says: str) -> None:
    as_json = subprocess.run(
        [sys.executable, "-c", ENDS.format(error=error, format="json")], capture_output=True, text=True, timeout=60
    )
    assert as_json.returncode == code
    (line,) = [json.loads(line) for line in as_json.stderr.splitlines()]
    assert (line["level"], line["message"]) == ("critical", says)
    for_people = subprocess.run(
        [sys.executable, "-c", ENDS.format(error=error, format="text")], capture_output=True, text=True, timeout=60
    )
    assert for_people.returncode == code
    assert says in for_people.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        pytest.param(
            "gone\n2026-01-01 00:00:00 INFO    cloud: all is well", r"gone\n2026-01-01 00:00:00 INFO", id="a line more"
        ),
        pytest.param("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07", id="orders for a terminal"),
        pytest.param("a\u2028b\u0085c\u202ed", r"a\u2028b\x85c\u202ed", id="other ends of a line, and its direction"),
        pytest.param("trop chaud: 75 °C — 熱い", "trop chaud: 75 °C — 熱い", id="what is only text"),
    ],
)
def test_what_others_say_stays_within_its_line(detail: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A child's refusal is a sentence of its own making."""
    begin("text")
    log.warning("%s cannot follow round %d: %s", "d1", 7, detail)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
