"""Law: onnxruntime runs here and nowhere else: a bounded process of its own, which dies with the agent.

python -m headwater.device.runtime.worker MEMORY_LIMIT_BYTES NICENESS

It reads frames from its standard input and answers each on its standard output. It imports no contract, no MQTT
and no settings, opens no file for a graph, and keeps nothing but graphs and the arrays that it was told to hold.
"""

import contextlib
import gc
import os
import resource
import select
import sys
import threading
from typing import Final, NoReturn

MAX_OPEN_FILES: Final = 64
OUT_OF_MEMORY: Final = 12
"""Exit code of a worker that could not even read a request."""

OUT_OF_MEMORY_SCORE: Final = 800
"""How readily the kernel takes this process when memory is short, from -1000 to 1000."""


def main() -> int:
    limit_bytes, niceness = int(sys.argv[1]), int(sys.argv[2])
    requests, answers = os.dup(0), os.dup(1)
    _bound(limit_bytes, niceness)
    _leave_the_pipes()
    threading.Thread(target=_die_with_the_agent, args=(answers,), daemon=True).start()
    try:
        _serve(requests, answers, limit_bytes)
    except (EOFError, BrokenPipeError):
        return 0
    except MemoryError:
        return OUT_OF_MEMORY


def _serve(requests: int, answers: int, limit_bytes: int) -> NoReturn:
    # Only now, below the limits. Files may grow until here, for Python keeps what it compiled; and what is being
    # imported is no garbage: looking for some would take a sixth of the start.
    gc.disable()
    from headwater.device.runtime.frames import parts, read
    from headwater.device.runtime.runner import Runner

    gc.freeze()
    gc.enable()
    _limit(resource.RLIMIT_FSIZE, 0)
    runner = Runner(limit_bytes)
    while True:
        frame = read(lambda buffer: _fill(requests, buffer), limit_bytes)
        answer = runner.answer(frame)
        for part in parts(answer):
            _write(answers, part)
        del frame, answer


def _bound(limit_bytes: int, niceness: int) -> None:
    """No more memory than that, no core dump, few open files; and everything else on the device goes first."""
    _limit(resource.RLIMIT_AS, limit_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    with contextlib.suppress(OSError):
        os.nice(niceness)
    # A device that runs out of memory loses its worker, not its agent.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(OUT_OF_MEMORY_SCORE))


def _limit(what: int, limit: int) -> None:
    """Lower a limit; one that is lower already stays."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(what, (limit, limit))


def _leave_the_pipes() -> None:
    """Whatever a library prints must not get between the frames."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)


def _die_with_the_agent(answers: int) -> None:
    """Wakes when nobody reads the answers any more, even in the middle of a kernel."""
    watched = select.poll()
    watched.register(answers, 0)
    watched.poll()
    os._exit(1)


def _fill(source: int, buffer: memoryview) -> None:
    while buffer:
        count = os.readv(source, [buffer])
        if not count:
            raise EOFError
        buffer = buffer[count:]


def _write(target: int, data: memoryview) -> None:
    while data:
        data = data[os.write(target, data) :]


if __name__ == "__main__":
    sys.exit(main())
