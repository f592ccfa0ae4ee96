"""Whatever a graph does to its worker, the agent lives on: it says why, and the next plan gets a fresh worker."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.device.agent import Agent, Means
from headwater.device.runtime import client
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.runtime.failures import GraphRefused, TrainingTimedOut, WorkerFailed
from headwater.device.runtime.frames import Frame, FrameError, parts, read
from headwater.device.runtime.guard import check_graph
from headwater.device.runtime.steps import Course
from headwater.device.runtime.trainer import Carry, Trainer
from headwater.device.sources import Fixed
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.node.child import Assignment, Decline
from headwater.schemas.messages import Bundle, Model, Plan, RoundKey
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode, reference
from support.devices import averaging, bundle, long_kernel, long_scan, many_values, model, node, of_one_value

ZERO = (np.zeros((), np.float32),)
HONEST = bundle({"train": averaging()})


@pytest.fixture
def worker() -> Iterator[Worker]:
    started = Worker(Bounds(niceness=0))
    yield started
    started.close()


def numbers(count: int = 64) -> Dataset:
    x = np.linspace(1, 3, count, dtype=np.float32)
    return Dataset(x, x, x, x)


def train(worker: Worker, made: Bundle, *, epochs: int = 1, limit_s: float = 20.0) -> Carry:
    course = Course(16, epochs, 0.5, seed=1, key=RoundKey(run="r", round=1), node="d")
    return Trainer(made, worker).train(ZERO, numbers(), course=course, time_limit_s=limit_s)


def still_works(worker: Worker) -> None:
    carry = train(worker, HONEST, epochs=30)
    assert carry.parameters[0] == pytest.approx(2.0, abs=0.3)


def until(holds: Callable[[], bool], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_scan_that_would_take_hours_is_stopped_between_two_operators(worker: Worker) -> None:
    still_works(worker)
    before = worker.pid
    started = time.monotonic()
    with pytest.raises(TrainingTimedOut, match=r"train: stopped after 0\.[0-9]+ s$"):
        train(worker, bundle({"train": long_scan()}), epochs=10_000, limit_s=0.5)
    assert time.monotonic() - started < 0.5 + client.GRACE_S
    assert worker.pid == before
    still_works(worker)


def test_a_kernel_that_looks_at_no_clock_is_killed_with_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GRACE_S", 0.5)
    worker = Worker(Bounds(memory_limit_bytes=4 * 2**30, niceness=0))
    still_works(worker)
    before, started = worker.pid, time.monotonic()
    with pytest.raises(TrainingTimedOut, match=r"train: stopped after .* s, with its worker"):
        train(worker, bundle({"train": long_kernel()}), limit_s=2.0)
    assert time.monotonic() - started < 5
    assert worker.pid is None
    still_works(worker)
    assert worker.pid != before
    worker.close()


# ── memory ──────────────────────────────────────────────────────────────────────────────────────────────────────

BOMBS = {
    "expand": [node("Expand", "one", "size", out="z")],
    "fill": [node("ConstantOfShape", "size", out="z")],
    "tile": [node("Tile", "square", "size", out="z")],
    "outer product": [
        node("Expand", "one", "tall", out="a"),
        node("Transpose", "a", out="b"),
        node("MatMul", "a", "b", out="z"),
    ],
    "by way of arithmetic": [
        node("Shape", "square", out="s"),
        node("Mul", "s", "much", out="t"),
        node("Expand", "one", "t", out="z"),
    ],
    "broadcast": [
        node("Expand", "one", "tall", out="a"),
        node("Transpose", "a", out="b"),
        node("Add", "a", "b", out="z"),
    ],
}
CONSTANTS = {
    "one": np.ones((1, 1), np.float32),
    "square": np.ones((100, 100), np.float32),
    "size": np.array([100_000, 100_000]),
    "tall": np.array([50_000, 1]),
    "much": np.array([1000, 1000]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_value_that_is_too_large_is_refused_before_it_is_computed(name: str, worker: Worker) -> None:
    with pytest.raises(GraphRefused, match=r"train: node 'z' \(\w+\): gives up to \d+ elements; at most \d+ fit"):
        train(worker, bundle({"train": of_one_value(BOMBS[name], "z", CONSTANTS)}))
    assert worker.pid is not None


def test_a_size_that_depends_on_data_is_refused(worker: Worker) -> None:
    nodes = [node("Gather", "order", "zero", out="row"), node("Expand", "one", "row", out="z")]
    with pytest.raises(GraphRefused, match=r"'z' \(Expand\): its size follows from 'row', which is not known before"):
        train(worker, bundle({"train": of_one_value(nodes, "z", CONSTANTS | {"zero": np.array(0)})}))


def test_values_that_are_too_many_meet_the_memory_limit_and_not_the_agent(worker: Worker) -> None:
    still_works(worker)
    me = psutil.Process()
    before = me.memory_info().rss
    with pytest.raises(WorkerFailed, match=r"train: takes more than the 1024 MB that worker\.memory_limit_mb allows"):
        train(worker, bundle({"train": many_values()}))
    assert me.memory_info().rss - before < 32 * 2**20
    assert worker.pid is None
    still_works(worker)


def test_an_answer_that_is_larger_than_the_manifest_says_is_not_read(worker: Worker) -> None:
    nodes = [node("Expand", "one", "some", out="new_w"), node("ReduceSum", "new_w", out="loss", keepdims=0)]
    constants = {"one": np.ones((1,), np.float32), "some": np.array([1_000_000])}
    graph = model(nodes, {}, {"new_w": (1, ["n"]), "loss": (1, ())}, constants)
    with pytest.raises(WorkerFailed, match=r"the worker's answer is none: frame: .* at most 16"):
        train(worker, bundle({"train": graph}))
    still_works(worker)


# ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_whoever_asks_first_is_answered_first(worker: Worker) -> None:
    """A training that asks again and again does not keep a prediction waiting for more than the segment under way."""
    stop, waits = threading.Event(), []

    def busily() -> None:
        while not stop.is_set():
            worker.ask(Frame({"do": "hello"}, {"x": np.zeros(2_000_000)}))

    busy = threading.Thread(target=busily)
    busy.start()
    for _ in range(50):
        began = time.monotonic()
        worker.ask(Frame({"do": "hello"}))
        waits.append(time.monotonic() - began)
    stop.set()
    busy.join()
    assert sorted(waits)[45] < 0.2


# ── a worker that goes away ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("which", "says"), [(signal.SIGKILL, "was killed"), (signal.SIGSEGV, r"crashed \(SIGSEGV\)")])
def test_a_worker_that_dies_in_the_middle_costs_one_training(which: signal.Signals, says: str, worker: Worker) -> None:
    still_works(worker)
    pid = worker.pid
    assert pid is not None
    threading.Timer(0.3, os.kill, (pid, which)).start()
    with pytest.raises(WorkerFailed, match=f"train: the worker {says}"):
        train(worker, bundle({"train": long_scan()}), epochs=10_000)
    still_works(worker)


def test_a_worker_that_died_between_two_requests_costs_nothing(worker: Worker) -> None:
    still_works(worker)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: worker.pid is None)
    still_works(worker)


def test_an_idle_worker_is_ended_unless_it_is_kept() -> None:
    worker = Worker(Bounds(idle_s=0.3, niceness=0))
    still_works(worker)
    with worker.kept():
        time.sleep(1.0)
        assert worker.pid is not None
    until(lambda: worker.pid is None)
    still_works(worker)
    worker.close()


def test_an_interrupt_from_a_terminal_is_for_the_agent() -> None:
    worker = Worker(Bounds(niceness=0))
    still_works(worker)
    assert worker.pid is not None
    assert os.getpgid(worker.pid) != os.getpgid(0)
    worker.close()


ORPHAN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, threading, time
sys.path.insert(0, sys.argv[2])
from test_worker import Worker, bundle, long_kernel, train
from headwater.device.runtime.client import Bounds
worker = Worker(Bounds(memory_limit_bytes=4 * 2**30))
threading.Thread(target=train, args=(worker, bundle({"train": long_kernel()})), kwargs={"limit_s": 60}).start()
while worker.pid is None: time.sleep(0.01)
time.sleep(1.5)
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_dies_with_its_agent_even_in_the_middle_of_a_kernel() -> None:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", ORPHAN, str(tests), str(tests / "device")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert psutil.pid_exists(pid)
        agent.kill()
        until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 5.0)


def test_a_worker_has_few_rights_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_BROKER__PASSWORD", "hush")
    worker = Worker(Bounds(memory_limit_bytes=600 * 2**20, niceness=3))
    worker.ask(Frame({"do": "hello"}))
    process = psutil.Process(worker.pid)
    before = psutil.Process().nice()
    assert process.nice() == min(before + 3, 19)
    assert "hush" not in process.environ().values()
    assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text().strip() == "800"
    limits = {what: process.rlimit(getattr(psutil, f"RLIMIT_{what}"))[0] for what in ("AS", "CORE", "FSIZE", "NOFILE")}
    assert limits == {"AS": 600 * 2**20, "CORE": 0, "FSIZE": 0, "NOFILE": 64}
    worker.close()


# ── what onnxruntime is given ───────────────────────────────────────────────────────────────────────────────────


def test_onnxruntime_sees_only_what_the_guard_has_read(worker: Worker) -> None:
    # Its producer's name makes these bytes onnxruntime's own format too, where the guard sees an honest model.
    payload = averaging()
    twofold = b"\x08\x0a\x12\x04ORTM" + payload.removeprefix(b"\x08\x0a")
    assert twofold[4:8] == b"ORTM"
    assert b"ORTM" not in check_graph(twofold).SerializeToString()
    assert train(worker, bundle({"train": twofold}), epochs=30).parameters[0] == pytest.approx(2.0, abs=0.3)


# ── the agent ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (many_values(), "takes more than the 1024 MB"),
        (long_scan(), "stopped after"),
    ],
    ids=["memory", "time"],
)
async def test_an_agent_declines_in_a_plain_sentence_and_goes_on(
    graph: bytes, says: str, worker: Worker, tmp_path: Path
) -> None:
    agent = Agent(
        "d", {"d": Fixed(numbers())}, time_limit_s=3.0, means=Means(worker=worker, state=LocalState(tmp_path))
    )

    async def work(made: Bundle, epochs: int) -> object:
        given = Model(run="r", version=0, tensors=encode_tensors(ZERO))
        plan = Plan(
            key=RoundKey(run="r", round=1),
            task="train",
            data="d",
            model=reference(encode(given)),
            bundle=reference(encode(made)),
            local_epochs=epochs,
        )
        return await agent.work(Assignment(plan, given, made, time.monotonic()))

    declined = await work(bundle({"train": graph}), 10_000)
    assert isinstance(declined, Decline)
    assert declined.reason == "training_failed"
    assert says in declined.detail
    assert not isinstance(await work(HONEST, 30), Decline)


# ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────


def unpacked(payload: bytes, max_size_bytes: int = 10_000) -> Frame:
    file = io.BytesIO(payload)

    def fill(buffer: memoryview) -> None:
        if file.readinto(buffer) != len(buffer):
            raise EOFError

    return read(fill, max_size_bytes)


def packed(frame: Frame) -> bytes:
    return b"".join(bytes(part) for part in parts(frame))


EXAMPLE = Frame(
    {"do": "run", "held": None},
    {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2],
        "odd": np.array([1, 2, 3], np.uint8),
        "b": np.array(7, np.int64),
        "none": np.zeros((0, 4), np.float64),
    },
)


def test_a_frame_comes_out_as_it_went_in() -> None:
    found = unpacked(packed(EXAMPLE))
    assert found.header == EXAMPLE.header
    assert list(found.arrays) == list(EXAMPLE.arrays)
    for name, array in EXAMPLE.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_a_frame_that_is_too_large_is_not_read() -> None:
    with pytest.raises(FrameError, match="at most 20"):
        unpacked(packed(EXAMPLE), 20)


@given(st.integers(0, 400), st.integers(0, 255), st.binary(max_size=20))
def test_a_damaged_frame_is_read_or_refused_and_nothing_worse(position: int, byte: int, more: bytes) -> None:
    payload = bytearray(packed(EXAMPLE) + more)
    payload[position % len(payload)] = byte
    try:
        unpacked(bytes(payload))
    except (FrameError, EOFError):
        return


@given(st.binary(max_size=200))
def test_random_bytes_are_no_frame(payload: bytes) -> None:
    with pytest.raises((FrameError, EOFError)):
        unpacked(payload)


def test_onnxruntime_tells_its_makers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it may, it leaves a name for this device and a queue of what it has to tell in the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    worker = Worker()
    try:
        worker.ask(Frame({"do": "hello"}))
        assert worker.pid is not None
        threads = psutil.Process(worker.pid).num_threads()
    finally:
        worker.close()
    assert list(tmp_path.rglob("*")) == []
    assert threads == 2, "its own, and the one that watches for the agent's end"
