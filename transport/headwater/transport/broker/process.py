"""Law: the broker lives in a process of its own and never outlives the one that wanted it.

The parent writes the config as one line of JSON on stdin, the child answers with one line, `{"port": …}` or
`{"error": …}`. Stdin stays open: when it ends, the parent is gone and the child goes too.
"""

import asyncio
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Final, Self, cast

from pydantic import ValidationError

from headwater.schemas.errors import HeadwaterError
from headwater.transport.broker.config import BrokerConfig, BrokerStartError

_START_TIMEOUT_S: Final = 20.0
_STOP_TIMEOUT_S: Final = 10.0
_SPARE_FILES: Final = 64


class BrokerProcess:
    """A broker in its own process, as `spawn` returns it; as a context manager it stops at the end."""

    def __init__(self, process: subprocess.Popen[bytes], host: str, port: int) -> None:
        self._process = process
        self.host = host
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the process: by SIGTERM, and by SIGKILL if it takes longer than ten seconds."""
        _end(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def spawn(config: BrokerConfig) -> BrokerProcess:
    """Starts a broker in its own process and returns when it accepts connections.

    Raises:
        BrokerStartError: the broker said why it cannot start, or said nothing within twenty seconds.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "headwater.transport.broker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C on a terminal goes to who spawned it alone, who ends it.
        process_group=0,
    )
    try:
        return BrokerProcess(process, config.host, _hand_over(process, config))
    except BaseException:
        _end(process)
        raise


def serve(config: BrokerConfig, ready: Callable[[int], None]) -> None:
    """Runs a broker in this process until SIGINT or SIGTERM; `ready` gets the port once it accepts.

    Raises:
        BrokerStartError: see `EmbeddedBroker.start`.
    """
    asyncio.run(_serve(config, ready, None))


def main() -> int:
    """The child's side of `spawn`. Returns the exit code."""
    try:
        config = BrokerConfig.model_validate_json(sys.stdin.buffer.readline())
        asyncio.run(_serve(config, lambda port: _say({"port": port}), sys.stdin.buffer))
    except (HeadwaterError, ValidationError) as error:
        _say({"error": str(error)})
        return 1
    return 0


async def _serve(config: BrokerConfig, ready: Callable[[int], None], lifeline: IO[bytes] | None) -> None:
    # Imported here, so that a parent that only spawns does not load amqtt.
    from headwater.transport.broker.server import EmbeddedBroker

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    _allow_open_files(config.limits.max_connections + _SPARE_FILES)
    broker = EmbeddedBroker(config)
    port = await broker.start()
    try:
        if lifeline:
            _watch(lifeline, loop, stopping)
        ready(port)
        await stopping.wait()
    finally:
        await broker.stop()


def _watch(lifeline: IO[bytes], loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Sets `stopping` when the other end of `lifeline` is closed."""

    def look() -> None:
        if not os.read(lifeline.fileno(), 4096):
            loop.remove_reader(lifeline.fileno())
            stopping.set()

    with suppress(PermissionError):  # a plain file has no other end: only a signal stops the broker then
        loop.add_reader(lifeline.fileno(), look)


def _allow_open_files(needed: int) -> None:
    """Raises the limit of open files, where the system has one and it is too low.

    Raises:
        BrokerStartError: the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BrokerStartError(
            f"limits.max_connections: needs {needed} open files, the system allows {hard}; lower it, or raise "
            "`ulimit -Hn`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _hand_over(process: subprocess.Popen[bytes], config: BrokerConfig) -> int:
    """Gives the child its config and returns the port that it answers with."""
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    with suppress(BrokenPipeError):
        stdin.write(config.model_dump_json().encode() + b"\n")
        stdin.flush()
    ready, _, _ = select.select([stdout], [], [], _START_TIMEOUT_S)
    if not ready:
        raise BrokerStartError(f"the broker process said nothing within {_START_TIMEOUT_S:g} s")
    line = stdout.readline()
    if not line:
        raise BrokerStartError(
            f"the broker process ended with code {process.wait(_STOP_TIMEOUT_S)}; its stderr says why"
        )
    answer: dict[str, int | str] = json.loads(line)
    if "error" in answer:
        raise BrokerStartError(str(answer["error"]))
    return int(answer["port"])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_TIMEOUT_S)
    for stream in (process.stdin, process.stdout):
        # What the child did not live to read would be written once more.
        with suppress(BrokenPipeError):
            if stream:
                stream.close()


def _say(answer: dict[str, int | str]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
