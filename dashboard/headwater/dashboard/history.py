"""Law: the history is asked over HTTP and never waited for: a page shows what is known, and is told when more is.

Each question has one answer in memory and at most one asking under way; all of them have bounds. What an operator asks
for is sent with that operator's token, which is kept nowhere here.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import httpx
from pydantic import ValidationError

from headwater.dashboard.view.banner import Trouble
from headwater.dashboard.view.course import Point
from headwater.dashboard.view.recorded import Recorded, point, row, turns_and_refusals
from headwater.dashboard.view.runs import RunRow
from headwater.schemas.errors import ConfigError
from headwater.schemas.http import (
    MAX_PAGE,
    PREFIX,
    Answer,
    NodeDetail,
    Problem,
    ReleaseEntry,
    Releases,
    ReleaseWish,
    Round,
    Rounds,
    RunRequest,
    Runs,
)
from headwater.schemas.run import RunDescription

log = logging.getLogger("headwater.dashboard")

A = TypeVar("A", bound=Answer)

TIMEOUT_S: Final = 10.0
FRESH_S: Final = 3.0
"""An answer is asked for anew after so long, while somebody looks."""

MAX_ANSWERS: Final = 64
MAX_ASKING: Final = 8
MAX_PAGES: Final = 20
"""Of a run's rounds in one asking: ten thousand."""

MAX_RELEASES: Final = 20
"""The newest ones."""

UNSETTLED: Final = 2
"""Newest rounds of a run of which more may become known: the model that one made is measured with the next."""

SAID_TIMEOUT_S: Final = 15.0
Action = Literal["stop", "pause", "resume"]


@dataclass(slots=True)
class _Answer:
    value: Any
    asked_at: float


class _Refused(Exception):
    """The API's own sentence."""


class _Unknown(Exception):
    """The history does not know what it is asked for."""


class History:
    """The cloud's HTTP API as far as a dashboard needs it.

    Args:
        base: its address; None where there is none, and then nothing is known.
        fleet: whose runs are asked for.
        token_file: holds a viewer's token.
        transport: what carries the questions, where it is not the network.

    Raises:
        ConfigError: the address is none, or the token's file cannot be read, or is empty.
    """

    def __init__(
        self,
        base: str | None,
        fleet: str,
        token_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.is_there = base is not None
        self.trouble: Trouble | None = None
        self.revision = 0
        self._fleet = fleet
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._asking: dict[str, asyncio.Task[None]] = {}
        token = _token(token_file)
        self._where = (base or "").rstrip("/")
        try:
            self._client = httpx.AsyncClient(
                base_url=(self._where or "http://none.invalid") + PREFIX,
                timeout=TIMEOUT_S,
                transport=transport,
                headers={"Authorization": f"Bearer {token}"} if token else {},
            )
        except httpx.InvalidURL as error:
            raise ConfigError(f"api: {base}: {error}; give an address as http://cloud:8080") from None

    async def close(self) -> None:
        asking = tuple(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._client.aclose()

    # ── what is known ───────────────────────────────────────────────────────────────────────────────────────────

    def runs(self) -> tuple[RunRow, ...]:
        """This fleet's newest runs, newest first."""
        known: tuple[RunRow, ...] = self._known("runs", self._ask_runs, ())
        return known

    def course(self, run: str) -> tuple[Point, ...]:
        """A run's rounds, all attempts, in order."""
        known: tuple[Point, ...] = self._known(f"course/{run}", lambda: self._ask_course(run), ())
        return known

    def node(self, node: str) -> Recorded:
        """A node's newest parts in rounds, and its refusals."""
        known: Recorded = self._known(f"node/{node}", lambda: self._ask_node(node), Recorded())
        return known

    def releases(self) -> tuple[ReleaseEntry, ...]:
        """This fleet's newest releases of software, newest first."""
        known: tuple[ReleaseEntry, ...] = self._known("releases", self._ask_releases, ())
        return known

    def _known(self, key: str, ask: Callable[[], Awaitable[Any]], nothing: Any) -> Any:
        """The answer that is here; an old one is asked for anew, behind whoever reads this one."""
        if not self.is_there:
            return nothing
        answer = self._answers.get(key)
        is_old = answer is None or time.monotonic() - answer.asked_at > FRESH_S
        if is_old and key not in self._asking and len(self._asking) < MAX_ASKING:
            task = asyncio.create_task(self._ask(key, ask, answer.value if answer else nothing))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return answer.value if answer else nothing

    async def _ask(self, key: str, ask: Callable[[], Awaitable[Any]], before: Any) -> None:
        value, trouble = before, None
        try:
            value = await ask()
        except _Unknown:
            log.debug("only the brokers know of %s so far", key)
        except _Refused as refused:
            trouble = Trouble(self._where, str(refused), time.time(), refuses=True)
        except (httpx.HTTPError, ValidationError) as error:
            trouble = Trouble(self._where, _why(error), time.time())
        self._answers[key] = _Answer(value, time.monotonic())
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        was = self.trouble
        # One that lasts has lasted since it was met first.
        if was is None or trouble is None or (was.why, was.refuses) != (trouble.why, trouble.refuses):
            self.trouble = trouble
        if value != before or self.trouble is not was:
            self.revision += 1

    # ── questions ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask_runs(self) -> tuple[RunRow, ...]:
        runs = await self._get("/runs", Runs, fleet=self._fleet, limit=100)
        return tuple(row(run) for run in runs.runs)

    async def _ask_course(self, run: str) -> tuple[Point, ...]:
        """What is known already is asked for only as far as it may have changed since."""
        answer = self._answers.get(f"course/{run}")
        known: tuple[Point, ...] = answer.value if answer else ()
        settled = tuple(told for told in known if told.round < known[-1].round - UNSETTLED)
        after: int | None = settled[-1].round if settled else None
        told: list[Round] = []
        for _ in range(MAX_PAGES):
            page = await self._get(f"/runs/{run}/rounds", Rounds, limit=MAX_PAGE, **_given(after=after))
            told += page.rounds
            after = page.next
            if after is None:
                break
        return (*settled, *(point(round_) for round_ in told))

    async def _ask_node(self, node: str) -> Recorded:
        return turns_and_refusals(await self._get(f"/nodes/{node}", NodeDetail, fleet=self._fleet, limit=200))

    async def _ask_releases(self) -> tuple[ReleaseEntry, ...]:
        return (await self._get("/releases", Releases, fleet=self._fleet, limit=MAX_RELEASES)).releases

    async def _get(self, path: str, answer: type[A], **asked: Any) -> A:
        response = await self._client.get(path, params=asked)
        if response.status_code == httpx.codes.NOT_FOUND:
            raise _Unknown
        if response.status_code != httpx.codes.OK:
            raise _Refused(_said(response))
        return answer.model_validate_json(response.content)

    # ── what an operator asks for ───────────────────────────────────────────────────────────────────────────────

    async def accepts(self, token: str) -> str:
        """Why this is no operator's token, or ""."""
        # A run that cannot be: who may stop runs is told that there is none, and nothing else comes of it.
        status, said = await self._post(token, "/runs/no-such-run/stop", "")
        return "" if status == httpx.codes.NOT_FOUND else said or "The API took it, but not as an operator's."

    async def start(self, token: str, description: RunDescription, forward: str | None = None) -> str:
        """Ask for a run; returns why it was refused, or ""."""
        request = RunRequest(description=description, fleet=self._fleet, forward=forward)
        return (await self._post(token, "/runs", request.model_dump_json(exclude_none=True)))[1]

    async def act(self, token: str, run: str, action: Action) -> str:
        """Stop, pause or resume a run; returns why it was refused, or ""."""
        return (await self._post(token, f"/runs/{run}/{action}", ""))[1]

    async def ask_of_release(self, token: str, counter: int, wish: ReleaseWish) -> str:
        """Pause or resume a release; returns why it was refused, or ""."""
        return (await self._post(token, f"/releases/{counter}/{wish}", "", fleet=self._fleet))[1]

    async def _post(self, token: str, path: str, body: str, **asked: str) -> tuple[int, str]:
        """The answer's status, 0 where there is none, and why it is a refusal, or ""."""
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            response = await self._client.post(
                path, params=asked, content=body, headers=headers, timeout=SAID_TIMEOUT_S
            )
        except UnicodeEncodeError:
            return 0, "A token has letters and digits only; paste it again."
        except httpx.HTTPError as error:
            return 0, f"The cloud's API at {self._where} was not reached ({_why(error)}); try again."
        for changed in ("runs", "releases"):
            if changed in self._answers:
                self._answers[changed].asked_at = -math.inf
        return response.status_code, "" if response.is_success else _said(response)


def _given(**asked: Any) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def _why(error: httpx.HTTPError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        return "its answer cannot be read; is it of another version?"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {TIMEOUT_S:g} s"
    return "no connection"


def _said(response: httpx.Response) -> str:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return f"it answered {response.status_code}"
    return problem.detail or problem.title


def _token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"api_token_file: {file} cannot be read; give a readable file") from None
    if not token:
        raise ConfigError(f"api_token_file: {file} is empty; put the token in its first line")
    return token
