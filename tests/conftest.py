"""Lets every test import `support`, and run on both databases."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from headwater.schemas.quiet import QUIET

sys.path.insert(0, str(Path(__file__).parent))
os.environ.update(QUIET)

# How long an example takes says something of the machine and its neighbours, and nothing of the law.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.live)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database."""
    from support.postgres import database_url

    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'history.db'}"
    else:
        with database_url() as address:
            yield address


LONGEST = ("testbed", "deploy", "dashboard", "sim")
"""Folders whose files take minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first, so that no core waits for another at the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)
