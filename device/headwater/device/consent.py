"""Law: an owner's own rule is asked before any plan is followed; whatever it does, the device goes on.

    def rule(run: str, round: int, data: str, examples: int) -> bool | str

It answers True, or False or a sentence: then the plan is declined. So it is where the rule fails, gives something else,
or takes longer than `ANSWER_WITHIN_S`. It runs in a thread of its own, which nobody can stop: until it has answered
the rule is not asked again.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

from headwater.device.entry import NoEntry, function_of
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Plan

ANSWER_WITHIN_S: Final = 5.0


class Consent:
    """The owner's rule.

    Raises:
        ConfigError: there is no such function.
    """

    def __init__(self, entry: str, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        try:
            self._rule = function_of(entry)
        except NoEntry as error:
            raise ConfigError(f"conditions.rule: {error}") from None
        self._name = f"conditions.rule: {entry}"
        self._answer_within_s = answer_within_s
        self._asked: threading.Thread | None = None

    async def objection(self, plan: Plan, examples: int) -> str | None:
        """Why the plan is not to be followed, or None."""
        if self._asked is not None and self._asked.is_alive():
            return f"{self._name} has not yet answered about an earlier plan"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | None] = loop.create_future()

        def tell(why: str | None) -> None:
            if not answer.done():
                answer.set_result(why)

        def think() -> None:
            why = self._answered(plan, examples)
            # The device may be ending meanwhile.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, why)

        # A thread of the loop's own would be waited for when the device ends.
        self._asked = threading.Thread(target=think, name="owner's rule", daemon=True)
        self._asked.start()
        try:
            return await asyncio.wait_for(answer, self._answer_within_s)
        except TimeoutError:
            return f"{self._name} did not answer within {self._answer_within_s:g} s"

    def _answered(self, plan: Plan, examples: int) -> str | None:
        return judged(
            self._name,
            self._rule,
            {
                "run": plan.key.run,
                "round": plan.key.round,
                "data": plan.data,
                "examples": examples,
            },
        )


def judged(name: str, rule: Callable[..., Any], question: dict[str, Any]) -> str | None:
    """What a rule's answer means: None where it is True."""
    try:
        answer = rule(**question)
    except BaseException as error:
        # Also what would end a thread in silence.
        return f"{name} failed with {type(error).__name__}: {error}"
    if answer is True:
        return None
    if answer is False:
        return f"{name} says no"
    if isinstance(answer, str):
        return answer
    return f"{name} returned {type(answer).__name__}; return True, False or a sentence"
