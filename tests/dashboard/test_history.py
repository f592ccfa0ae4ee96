"""The history over HTTP: asked beside whoever reads, no more than it must be, and missed without a fuss."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from headwater.dashboard import history as module
from headwater.dashboard.history import History
from headwater.schemas.errors import ConfigError
from headwater.schemas.http import Problem, Round, Rounds


def told(number: int) -> Round:
    common: dict[str, Any] = {
        "attempt": 0,
        "task": "train",
        "state": "closed",
        "cohort": 1,
        "received": 1,
        "devices": 1,
    }
    counts = dict.fromkeys(("examples", "refused", "bytes_down", "bytes_up"), 0)
    figures = {"elapsed_s": 1.0, "loss": 1 / number, "test_loss": None, "accuracy": None}
    return Round.model_validate(
        {"round": number, "opened_at": "2026-01-01T00:00:00Z", **common, **counts, **figures}, strict=False
    )


class Api:
    """A run's rounds in pages, and an operator's token."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.is_up, self.missed = rounds, True, 0
        self.asked: list[int] = []
        self.app = FastAPI()
        self.app.add_api_route("/api/v1/runs/{run}/rounds", self._rounds)
        self.app.add_api_route("/api/v1/runs/{run}/stop", self._stop, methods=["POST"])

    def _rounds(self, run: str, limit: int, after: int = 0) -> JSONResponse:
        if not self.is_up:
            self.missed += 1
            raise httpx.ConnectError("nobody there")
        if run != "r1":
            return _problem(404, "run: unknown")
        self.asked.append(after)
        numbers = range(after + 1, min(after + limit, self.rounds) + 1)
        page = Rounds(
            rounds=tuple(map(told, numbers)), next=numbers[-1] if numbers and numbers[-1] < self.rounds else None
        )
        return JSONResponse(page.model_dump(mode="json"))

    def _stop(self, run: str, request: Request) -> JSONResponse:
        role = request.headers["Authorization"].removeprefix("Bearer ")
        codes = {"operator": (404, "run: unknown"), "viewer": (403, "needs an operator's")}
        return _problem(*codes.get(role, (401, "is none that is known")))


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse(Problem(title="no", status=status, detail=detail).model_dump(), status)


@asynccontextmanager
async def asking(api: Api, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[History]:
    monkeypatch.setattr(module, "FRESH_S", 0.0)
    history = History("http://cloud", "plant", transport=httpx.ASGITransport(api.app))
    try:
        yield history
    finally:
        await history.close()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 (what is looked at tells nobody)
            await asyncio.sleep(0.01)


async def test_whoever_reads_does_not_wait_and_is_told_when_more_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(Api(3), monkeypatch) as history:
        assert history.course("r1") == ()
        await until(lambda: history.revision)
        assert [point.round for point in history.course("r1")] == [1, 2, 3]


async def test_a_long_course_is_asked_for_once_and_then_only_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(1200)
    async with asking(api, monkeypatch) as history:
        await until(lambda: len(history.course("r1")) == 1200)
        assert api.asked[:3] == [0, 500, 1000]
        api.rounds = 1201
        await until(lambda: len(history.course("r1")) == 1201)
        assert set(api.asked[3:]) == {1197}
        assert [point.round for point in history.course("r1")] == list(range(1, 1202))


async def test_an_api_that_is_away_is_said_and_what_was_known_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(3)
    async with asking(api, monkeypatch) as history:
        await until(lambda: history.course("r1"))
        api.is_up = False
        await until(lambda: history.course("r1") and history.trouble)
        assert history.trouble is not None
        since = history.trouble.since
        await until(lambda: history.course("r1") and api.missed > 3)
        assert history.trouble.since == since
        assert len(history.course("r1")) == 3
        api.is_up = True
        await until(lambda: history.course("r1") and not history.trouble)


async def test_a_run_that_only_brokers_know_of_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(Api(3), monkeypatch) as history:
        history.course("heard")
        await until(lambda: not history._asking)
        assert (history.course("heard"), history.trouble) == ((), None)


async def test_a_cloud_from_before_there_were_releases_has_none_and_that_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with asking(Api(3), monkeypatch) as history:
        history.releases()
        await until(lambda: not history._asking)
        assert (history.releases(), history.trouble) == ((), None)


@pytest.mark.parametrize(
    ("token", "said"), [("operator", ""), ("viewer", "operator"), ("other", "known"), ("ünsinn", "letters")]
)
async def test_a_token_is_an_operators_or_not(token: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(Api(1), monkeypatch) as history:
        answer = await history.accepts(token)
        assert said in answer
        assert bool(said) == bool(answer)


async def test_without_an_api_nothing_is_known_and_nothing_asked() -> None:
    history = History(None, "plant")
    assert (history.runs(), history.course("r1"), history.node("d1").turns, history._asking) == ((), (), (), {})
    assert (history.releases(), history._asking) == ((), {})
    await history.close()


def test_a_viewers_token_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="api_token_file"):
        History("http://cloud", "plant", tmp_path / "none")
