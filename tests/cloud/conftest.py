"""Each test of the history runs on both databases."""

from collections.abc import Iterator

import pytest

from headwater.cloud.history import History, open_history


@pytest.fixture
def history(url: str) -> Iterator[History]:
    opened = open_history(url)
    yield opened
    opened.close()
