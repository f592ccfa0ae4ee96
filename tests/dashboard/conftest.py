"""One browser for the tests of a module. It takes the thread's event loop, which those that are async want for themselves."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from support.browsers import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened
