"""Law: a worker that is late, or gone, costs one plan and never the agent, which waits for it against a hard clock.

A worker is started by the first request, ended after some idle seconds, and started anew by the next request after
it ended, whatever ended it.
"""

import contextlib
import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater.device.runtime.failures import GraphRefused, TrainingTimedOut, WorkerFailed
from headwater.device.runtime.frames import Array, Frame, FrameError, parts, read
from headwater.device.runtime.turns import Turns
from headwater.schemas.quiet import QUIET

log = logging.getLogger("headwater.device")

MODULE: Final = "headwater.device.runtime.worker"
START_LIMIT_S: Final = 60.0
"""A small board takes seconds to load onnxruntime."""

REQUEST_LIMIT_S: Final = 60.0
"""To take graphs or arrays, and to guard them."""

GRACE_S: Final = 2.0
"""After its time limit a graph stops between two operators; a worker that has not answered by then is killed."""

END_LIMIT_S: Final = 1.0
PIPE_SIZE_BYTES: Final = 1024 * 1024
OUT_OF_MEMORY: Final = 12
"""The worker's exit code when it had no memory left for a request."""

# One core is what a graph gets; and glibc would reserve 64 MB of addresses for each thread.
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", **QUIET}


class UnknownBundle(Exception):
    """The worker does not have this bundle: it is a fresh one, or had others to keep."""


class UnknownSlot(Exception):
    """The worker does not have these held arrays: it is a fresh one, or has not been told yet."""


_FAILURES: Final[Mapping[str, type[Exception]]] = {
    "refused": GraphRefused,
    "timed_out": TrainingTimedOut,
    "memory": WorkerFailed,
    "unknown_bundle": UnknownBundle,
    "unknown_slot": UnknownSlot,
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a worker may take of the device."""

    memory_limit_bytes: int = 1024 * 2**20
    niceness: int = 10
    idle_s: float = 60.0


class Worker:
    """The process that runs graphs, as the agent sees it. Any thread may ask; each request has its turn."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._turns = Turns()
        self._used_at = 0.0
        self._keepers = 0

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    @property
    def memory_bytes(self) -> float | None:
        """What the process has in memory, by Linux; 0 while there is none, None where nobody says."""
        pid = self.pid
        if pid is None:
            return 0.0
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return None
        return float(pages * os.sysconf("SC_PAGE_SIZE"))

    def ask(
        self, request: Frame, *, limit_s: float = REQUEST_LIMIT_S, max_answer_bytes: int = 0
    ) -> Mapping[str, Array]:
        """The arrays of the answer.

        Raises:
            GraphRefused, TrainingTimedOut: as the worker says, or because it had to be killed.
            WorkerFailed: it has no memory left, or ended.
            UnknownBundle, UnknownSlot: it does not have what the request names.
        """
        with self._turns:
            try:
                answer = self._exchange(self._running(), request, limit_s + GRACE_S, max_answer_bytes)
            except TimeoutError:
                self._end(kill=True)
                raise TrainingTimedOut(f"{_what(request)}: stopped after {limit_s:.3g} s, with its worker") from None
            except (EOFError, BrokenPipeError):
                raise WorkerFailed(f"{_what(request)}: {self._last_words()}") from None
            except FrameError as error:
                self._end(kill=True)
                raise WorkerFailed(f"{_what(request)}: the worker's answer is none: {error}") from None
            except BaseException:
                # Half a frame is in a pipe now.
                self._end(kill=True)
                raise
            finally:
                self._used_at = time.monotonic()
            failure = answer.header.get("failure")
            if failure == "memory":
                # What it had gathered so far would stay with it.
                self._end(kill=True)
        if failure is not None:
            raise _FAILURES.get(str(failure), WorkerFailed)(str(answer.header.get("says")))
        return answer.arrays

    def check(self) -> None:
        """Make sure that the process starts and answers. Raises what `ask` does."""
        self.ask(Frame({"do": "hello"}))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """While this lasts the worker is not ended for idleness: for what must answer at once."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1

    def close(self) -> None:
        """End the process, in the middle of a request too; that request fails. The next one starts a fresh worker."""
        process = self._process
        if process is not None:
            process.kill()
        with self._turns:
            self._end(kill=True)

    # ── the process ─────────────────────────────────────────────────────────────────────────────────────────────

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            log.info("the worker had ended (%s); a fresh one starts", self._last_words())
        if self._process is None:
            self._process = self._start()
            self._ended = threading.Event()
            self._exchange(self._process, Frame({"do": "hello"}), START_LIMIT_S, 0)
            watch = threading.Thread(target=self._end_when_idle, args=(self._ended,), daemon=True, name="idle worker")
            watch.start()
        return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        # The settings' variables hold passwords, and a graph has no business with them.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
        command = [sys.executable, "-P", "-m", MODULE, str(self._bounds.memory_limit_bytes), str(self._bounds.niceness)]
        # Ctrl-C on a terminal reaches a whole group of processes, and the worker ends when its agent says so.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=inherited | _ENVIRONMENT,
            process_group=0,
        )
        for pipe in (_fd(process.stdin), _fd(process.stdout)):
            os.set_blocking(pipe, False)
            # Linux alone lets a pipe be larger.
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE_BYTES)
        return process

    def _end(self, *, kill: bool) -> int:
        """End the process and forget it; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        self._ended.set()
        _close(process.stdin)
        if kill:
            process.kill()
        try:
            return process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            _close(process.stdout)

    def _last_words(self) -> str:
        """Why the process is gone, as well as its exit code says."""
        code = self._end(kill=False)
        if code == OUT_OF_MEMORY:
            megabytes = self._bounds.memory_limit_bytes // 2**20
            return f"takes more than the {megabytes} MB that worker.memory_limit_mb allows"
        if code == -signal.SIGKILL:
            return "the worker was killed, perhaps because the device is short of memory"
        if code < 0:
            return f"the worker crashed ({signal.Signals(-code).name})"
        return f"the worker ended with exit code {code}"

    def _end_when_idle(self, ended: threading.Event) -> None:
        wait_s = self._bounds.idle_s
        while not ended.wait(max(wait_s, 0.05)):
            wait_s = self._bounds.idle_s
            if self._keepers or not self._turns.try_take():
                continue
            try:
                wait_s = self._used_at + self._bounds.idle_s - time.monotonic()
                if wait_s <= 0 and not ended.is_set():
                    self._end(kill=False)
            finally:
                self._turns.give()

    # ── one exchange ────────────────────────────────────────────────────────────────────────────────────────────

    def _exchange(self, process: subprocess.Popen[bytes], request: Frame, limit_s: float, max_bytes: int) -> Frame:
        """Raises TimeoutError, EOFError or BrokenPipeError, FrameError."""
        until = time.monotonic() + limit_s
        requests, answers = _fd(process.stdin), _fd(process.stdout)
        for part in parts(request):
            _write(requests, part, until)
        return read(lambda buffer: _fill(answers, buffer, until), max_bytes)


def _write(target: int, data: memoryview, until: float) -> None:
    while data:
        try:
            data = data[os.write(target, data) :]
        except BlockingIOError:
            _wait(target, select.POLLOUT, until)


def _fill(source: int, buffer: memoryview, until: float) -> None:
    while buffer:
        try:
            count = os.readv(source, [buffer])
        except BlockingIOError:
            _wait(source, select.POLLIN, until)
            continue
        if not count:
            raise EOFError
        buffer = buffer[count:]


def _wait(pipe: int, event: int, until: float) -> None:
    polled = select.poll()
    polled.register(pipe, event)
    if not polled.poll(max(until - time.monotonic(), 0.0) * 1000):
        raise TimeoutError


def _fd(pipe: Any) -> int:
    return int(pipe.fileno())


def _close(pipe: Any) -> None:
    with contextlib.suppress(OSError):
        pipe.close()


def _what(request: Frame) -> str:
    return str(request.header.get("graph") or request.header["do"])
