"""An owner's rule has the last word, and whatever it does the device goes on."""

import re
import sys
import threading
import time
from types import ModuleType

import pytest

from headwater.device.consent import Consent, judged
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Plan, RoundKey
from headwater.schemas.wire import reference

REF = reference(b"x")
PLAN = Plan(key=RoundKey(run="r", round=3), task="train", data="d", model=REF, bundle=REF)


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package of the owner's."""
    module = ModuleType("owners_package")
    monkeypatch.setitem(sys.modules, "owners_package", module)
    return module


def failing(**_: object) -> bool:
    raise ZeroDivisionError("division by zero")


def leaving(**_: object) -> bool:
    raise SystemExit("enough")


ANSWERS = {
    "yes": (lambda **_: True, None),
    "no": (lambda **_: False, "rule says no"),
    "a sentence": (lambda **_: "not on Sundays", "not on Sundays"),
    "nothing": (lambda **_: None, "rule returned NoneType; return True, False or a sentence"),
    "nearly yes": (lambda **_: 1, "rule returned int; return True, False or a sentence"),
    "an exception": (failing, "rule failed with ZeroDivisionError: division by zero"),
    "an exit": (leaving, "rule failed with SystemExit: enough"),
    "other arguments": (lambda run: True, "rule failed with TypeError: .*unexpected keyword"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(name: str) -> None:
    rule, expected = ANSWERS[name]
    why = judged("rule", rule, {"run": "r", "round": 3, "data": "d", "examples": 7})  # type: ignore[arg-type]
    if expected is None:
        assert why is None
    else:
        assert re.match(expected, why or "")


async def test_a_rule_is_told_what_it_is_about(owner: ModuleType) -> None:
    asked: list[dict[str, object]] = []

    def rule(**question: object) -> str:
        asked.append(question | {"thread": threading.current_thread() is threading.main_thread()})
        return "no"

    owner.rule = rule  # type: ignore[attr-defined]
    assert await Consent("owners_package:rule").objection(PLAN, 7) == "no"
    assert asked == [{"run": "r", "round": 3, "data": "d", "examples": 7, "thread": False}]


async def test_a_rule_that_hangs_is_a_no_and_is_not_asked_again_meanwhile(owner: ModuleType) -> None:
    asked, end = [], threading.Event()

    def rule(**_: object) -> bool:
        asked.append(1)
        end.wait(10)
        return True

    owner.rule = rule  # type: ignore[attr-defined]
    consent = Consent("owners_package:rule", answer_within_s=0.05)
    began = time.monotonic()
    assert await consent.objection(PLAN, 7) == "conditions.rule: owners_package:rule did not answer within 0.05 s"
    assert await consent.objection(PLAN, 7) == (
        "conditions.rule: owners_package:rule has not yet answered about an earlier plan"
    )
    assert time.monotonic() - began < 5
    end.set()
    assert consent._asked is not None
    consent._asked.join(10)
    assert await consent.objection(PLAN, 7) is None
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("nowhere_at_all:f", r"conditions\.rule: nowhere_at_all:f: No module named .*; is the package installed"),
        ("owners_package:f", r"conditions\.rule: owners_package:f: .*no attribute 'f'"),
        ("owners_package:__name__", r"conditions\.rule: owners_package:__name__: it is a str; name a function"),
    ],
)
def test_a_rule_that_is_not_there_stops_the_start(entry: str, problem: str, owner: ModuleType) -> None:
    with pytest.raises(ConfigError, match=problem):
        Consent(entry)
