"""Each test of the history runs on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.cloud.history import History, open_history
from support.postgres import database_url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.live)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'history.db'}"
    else:
        with database_url() as address:
            yield address


@pytest.fixture
def history(url: str) -> Iterator[History]:
    opened = open_history(url)
    yield opened
    opened.close()
