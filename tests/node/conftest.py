"""Brokers of both kinds, each shared by the tests of a module, and a fleet on it for each test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.brokers import broker
from support.fleets import Fleet


@pytest.fixture(scope="module", params=["embedded", pytest.param("mosquitto", marks=pytest.mark.live)])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with broker(request.param) as opened:
        yield opened


@pytest.fixture
async def fleet(port: int, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(port, tmp_path)
    yield fleet
    await fleet.end()
