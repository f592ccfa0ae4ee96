"""Waiting for a database: what is tried again, what is not, what people hear of it."""

import logging

import pytest

from headwater.cloud import patience
from headwater.cloud.history import HistoryAway, LeaseLost
from headwater.cloud.patience import Patience
from headwater.schemas.errors import HistoryError


class Database:
    """Fails in turn, and then answers."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.asked = 0

    async def answer(self) -> str:
        self.asked += 1
        if self.faults:
            raise self.faults.pop(0)
        return "answer"


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def patient(told: list[str], monkeypatch: pytest.MonkeyPatch) -> Patience:
    monkeypatch.setattr(patience, "MAX_WAIT_S", 0.02)

    async def tell(why: str) -> None:
        told.append(why)

    return Patience(tell, chance=lambda: 0.5)


async def test_an_outage_is_told_once_and_so_is_its_end(
    patient: Patience, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    database = Database(*(HistoryAway(f"refused {i}") for i in range(5)))
    assert await patient.through(database.answer) == "answer"
    assert database.asked == 6
    assert told == ["waiting for the database: refused 0", ""]
    assert [record.message for record in caplog.records] == [
        "waiting for the database: refused 0",
        "the database is back; 5 attempts failed",
    ]


async def test_what_works_is_not_spoken_of(patient: Patience, told: list[str]) -> None:
    assert await patient.through(Database().answer) == "answer"
    assert told == []


@pytest.mark.parametrize("fault", [HistoryError("damaged"), LeaseLost("another leads"), ValueError("a bug")])
async def test_what_does_not_pass_is_not_tried_again(patient: Patience, told: list[str], fault: Exception) -> None:
    database = Database(fault)
    with pytest.raises(type(fault)):
        await patient.through(database.answer)
    assert database.asked == 1
    assert told == []
