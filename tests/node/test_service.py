"""A testbed's service does not outlive it, though it is gone before the service has begun."""

import os
import subprocess
import sys

import pytest

from headwater.node.service import STOP_WITH_PARENT

SERVICE = "import asyncio, sys; from headwater.node.service import run_service; sys.exit(run_service(lambda: asyncio.sleep(30)))"


def service(parent: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SERVICE], env=os.environ | {STOP_WITH_PARENT: str(parent)})


def test_whose_testbed_is_gone_already_ends_at_once() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert service(gone.pid).wait(20) == 0


@pytest.mark.parametrize("parent", [os.getpid(), 1], ids=["named", "whoever it is"])
def test_whose_testbed_is_there_goes_on(parent: int) -> None:
    process = service(parent)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
    finally:
        process.kill()
        process.wait()
