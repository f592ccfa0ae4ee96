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
