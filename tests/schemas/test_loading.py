"""What is imported is not looked through for garbage; what comes after it is, also where an import failed."""

import gc
from collections.abc import Iterator

import pytest

from headwater.schemas.loading import loading


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_nobody_looks_for_garbage_while_loading() -> None:
    with loading():
        assert not gc.isenabled()
        loaded = [object() for _ in range(10)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(loaded)


def test_what_cannot_be_loaded_leaves_the_process_as_it_was() -> None:
    with pytest.raises(ModuleNotFoundError), loading():
        raise ModuleNotFoundError("no such part")
    assert gc.isenabled()
