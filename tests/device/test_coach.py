"""Between two segments a device may stop, wait, or lose its power: what was finished is not lost, and no more is run."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater.core.graph import compile_bundle
from headwater.core.local import Memory
from headwater.core.models import mlp
from headwater.device import coach, state
from headwater.device.coach import Beside
from headwater.device.consent import Consent
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.runtime.steps import Pace
from headwater.device.runtime.trainer import Trainer, Training
from headwater.device.sources.dataset import Dataset
from headwater.device.state import LocalState
from headwater.node.child import Decline
from headwater.schemas.messages import Delta, RoundKey
from headwater.schemas.settings import ConditionSettings
from headwater.schemas.tensors import decode_tensor
from support.deltas import untimed
from support.devices import averaging, bundle
from support.working import agent, assignment, classes

ZERO = (np.zeros((), np.float32),)
SLOW = bundle({"train": averaging()})


def numbers(count: int = 60) -> Dataset:
    x = np.linspace(1, 3, count, dtype=np.float32)
    return Dataset(x, x, x[:0], x[:0])


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker(Bounds(niceness=0))
    yield started
    started.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One step a segment, and how many each segment had."""
    done: list[int] = []
    advance = Training.advance

    def counting(self: Training, segment, *rest, **more):  # type: ignore[no-untyped-def]
        advance(self, segment, *rest, **more)
        done.append(segment.steps)

    monkeypatch.setattr(Pace, "measured", lambda *_: None)
    monkeypatch.setattr(Training, "advance", counting)
    return done


def _has(counted: list[int], segments: int) -> None:
    while len(counted) < segments:
        time.sleep(0.01)


# ── stopping and waiting ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_superseded_plan_stops_at_the_next_segment(worker: Worker, tmp_path: Path, counted: list[int]) -> None:
    working = asyncio.ensure_future(
        agent(worker, tmp_path, numbers()).work(assignment(SLOW, ZERO, local_epochs=10_000))
    )
    await asyncio.to_thread(_has, counted, 20)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await asyncio.sleep(0.1)
    stopped = len(counted)
    await asyncio.sleep(0.3)
    assert len(counted) == stopped


async def test_a_plan_waits_for_its_conditions_and_says_so(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    obstacles = iter(["too hot", "too hot", "battery low", None])
    beside = Beside(lambda: next(obstacles, None), look_every_s=0.02)
    with caplog.at_level(logging.INFO, "headwater.device"):
        result = await agent(worker, tmp_path, numbers(), beside).work(assignment(SLOW, ZERO))
    assert isinstance(result, Delta)
    assert [r.message for r in caplog.records if "training" in r.message] == [
        "training waits: too hot",
        "training waits: battery low",
        "training goes on",
    ]


async def test_a_plan_that_would_wait_too_long_is_declined_in_words(worker: Worker, tmp_path: Path) -> None:
    beside = Beside(lambda: "it is 12:00, outside conditions.hours 22:00-06:00", look_every_s=0.02)
    started = time.monotonic()
    result = await agent(worker, tmp_path, numbers(), beside).work(assignment(SLOW, ZERO, deadline_s=0.2))
    assert result == Decline(
        "not_now",
        "the device's own conditions did not hold in time: it is 12:00, outside conditions.hours 22:00-06:00",
    )
    assert 0.1 < time.monotonic() - started < 2


@pytest.mark.parametrize("patience_s", [0.0, 0.2])
async def test_a_device_without_patience_declines_long_before_the_plan_is_over(
    patience_s: float, worker: Worker, tmp_path: Path
) -> None:
    beside = Beside(lambda: "too hot", ConditionSettings(patience_s=patience_s), look_every_s=0.02)
    started = time.monotonic()
    result = await agent(worker, tmp_path, numbers(), beside).work(assignment(SLOW, ZERO, deadline_s=60.0))
    assert result == Decline("not_now", "the device's own conditions did not hold in time: too hot")
    assert patience_s <= time.monotonic() - started < patience_s + 5


async def test_patience_outlasts_an_obstacle_that_is_shorter(worker: Worker, tmp_path: Path) -> None:
    obstacles = iter(["too hot", "too hot"])
    beside = Beside(lambda: next(obstacles, None), ConditionSettings(patience_s=10.0), look_every_s=0.02)
    assert isinstance(await agent(worker, tmp_path, numbers(), beside).work(assignment(SLOW, ZERO)), Delta)


async def test_the_owners_rule_declines_in_its_own_words(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = ModuleType("rules")
    rules.small = lambda examples, **_: examples < 60 or "too much for today"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rules", rules)
    beside = Beside(consent=Consent("rules:small"))
    declined = await agent(worker, tmp_path, numbers(60), beside).work(assignment(SLOW, ZERO))
    assert declined == Decline("not_now", "too much for today")
    assert isinstance(await agent(worker, tmp_path, numbers(59), beside).work(assignment(SLOW, ZERO)), Delta)


async def test_conditions_that_fail_in_the_middle_pause_and_the_result_is_the_same(
    worker: Worker, tmp_path: Path, counted: list[int]
) -> None:
    seen: list[int] = []

    def look() -> str | None:
        if 3 <= len(counted) < 4 and len(seen) < 5:
            seen.append(len(counted))
            return "unplugged"
        return None

    undisturbed = await agent(worker, tmp_path / "a", numbers()).work(assignment(SLOW, ZERO, local_epochs=5))
    counted.clear()
    paused = await agent(worker, tmp_path / "b", numbers(), Beside(look, look_every_s=0.02)).work(
        assignment(SLOW, ZERO, local_epochs=5)
    )
    assert seen == [3] * 5
    assert untimed(paused) == untimed(undisturbed)


async def test_a_share_of_the_processor_is_kept(worker: Worker, tmp_path: Path) -> None:
    async def took_s(share: float) -> float:
        beside = Beside(conditions=ConditionSettings(max_cpu_share=share))
        started = time.monotonic()
        assert isinstance(
            await agent(worker, tmp_path, numbers(20_000), beside).work(assignment(SLOW, ZERO, local_epochs=20)), Delta
        )
        return time.monotonic() - started

    await took_s(1.0)
    assert await took_s(0.2) > 2.5 * await took_s(1.0)


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────

DEVICE = """
import asyncio, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_coach import *
coach.CHECKPOINT_AFTER_S = 0.0
advance = Training.advance
def slowly(self, segment, *rest, **more):
    advance(self, segment, *rest, **more)
    print("step", flush=True)
    time.sleep(0.02)
Training.advance = slowly
Pace.measured = lambda *_: None
async def main():
    await agent(Worker(), Path(sys.argv[1]), numbers()).work(assignment(SLOW, ZERO, local_epochs=20))
asyncio.run(main())
"""


def _steps_until_killed(folder: Path, steps: int) -> int:
    """What a device has done when its power goes, after so many steps."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", DEVICE, str(folder), str(tests), str(tests / "device")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as device:
        assert device.stdout is not None
        done = sum(1 for _ in zip(range(steps), device.stdout, strict=False))
        os.kill(device.pid, signal.SIGKILL)
        return done + len(device.stdout.readlines())


async def test_a_reboot_costs_one_epoch_at_most(
    worker: Worker, tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coach, "CHECKPOINT_AFTER_S", 0.0)
    each, plan = 2, assignment(SLOW, ZERO, local_epochs=20)
    done = await asyncio.to_thread(_steps_until_killed, tmp_path / "state", each * 7 + 1)
    resumed = await agent(worker, tmp_path / "state", numbers()).work(plan)
    assert 20 * each <= done + len(counted) <= 20 * each + each
    counted.clear()
    whole = await agent(worker, tmp_path / "other", numbers()).work(plan)
    assert len(counted) == 20 * each
    assert untimed(whole) == untimed(resumed)


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"local_epochs": 21}, {"key": RoundKey(run="r", round=1, attempt=1)}, {"learning_rate": 0.02}],
    ids=str,
)
async def test_a_checkpoint_of_another_plan_is_not_taken(
    change: dict[str, object], worker: Worker, tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coach, "CHECKPOINT_AFTER_S", 0.0)
    await agent(worker, tmp_path, numbers()).work(assignment(SLOW, ZERO, local_epochs=20))
    counted.clear()
    await agent(worker, tmp_path, numbers()).work(assignment(SLOW, ZERO, local_epochs=20))
    assert counted == []
    again = assignment(SLOW, ZERO, local_epochs=20)
    await agent(worker, tmp_path, numbers()).work(replace(again, plan=again.plan.model_copy(update=change)))
    assert len(counted) >= 40


async def test_a_short_plan_never_touches_the_disk(worker: Worker, tmp_path: Path) -> None:
    assert isinstance(await agent(worker, tmp_path / "state", numbers()).work(assignment(SLOW, ZERO)), Delta)
    assert not (tmp_path / "state").exists()


async def test_a_disk_that_takes_nothing_costs_no_training(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coach, "CHECKPOINT_AFTER_S", 0.0)
    (tmp_path / "file").write_text("in the way of a folder")
    result = await agent(worker, tmp_path / "file", numbers()).work(assignment(SLOW, ZERO, local_epochs=3))
    assert isinstance(result, Delta)
    assert "could not be kept" in caplog.text


# ── personal parameters ─────────────────────────────────────────────────────────────────────────────────────────

OWN = compile_bundle(
    mlp(4, (8,), 3, rng=np.random.default_rng(0)), objective="cross_entropy", name="m", personal=("*bias",)
)


def loss_of(delta: Delta | Decline) -> float:
    assert isinstance(delta, Delta)
    return next(m.total / m.weight for m in delta.metrics if (m.split, m.name) == ("test", "loss"))


async def test_personal_parameters_stay_here_survive_and_are_used(worker: Worker, tmp_path: Path) -> None:
    personal = [p for p in OWN.manifest.parameters if p.personal]
    shared = OWN.manifest.shared
    assert len(personal) == 2
    assert len(shared) == 2
    plan = assignment(OWN.bundle, OWN.initial, local_epochs=20, learning_rate=0.5)
    before = await agent(worker, tmp_path, classes()).work(assignment(OWN.bundle, OWN.initial, task="evaluate"))
    first = await agent(worker, tmp_path, classes()).work(plan)
    assert isinstance(first, Delta)
    assert [tensor.shape for tensor in first.tensors] == [parameter.shape for parameter in shared]
    stored = LocalState(tmp_path).kept("r")
    assert set(stored) == {f"own {parameter.name}" for parameter in personal}
    kept = {name.removeprefix("own "): value for name, value in stored.items()}
    named = {p.name: value for p, value in zip(OWN.manifest.parameters, OWN.initial, strict=True)}
    assert all((kept[name] != named[name]).any() for name in kept)
    # A fresh agent, as after a reboot, and the same model: its own parameters are there.
    after = await agent(worker, tmp_path, classes()).work(assignment(OWN.bundle, OWN.initial, task="evaluate"))
    mixed = tuple(kept.get(p.name, named[p.name]) for p in OWN.manifest.parameters)
    data = classes()
    expected = Trainer(OWN.bundle, worker).evaluate(mixed, data.test_x, data.test_y, time_limit_s=9)
    assert loss_of(after) == pytest.approx(next(m.total / m.weight for m in expected.metrics if m.name == "loss"))
    assert loss_of(after) != loss_of(before)
    second = await agent(worker, tmp_path, classes()).work(plan)
    assert isinstance(second, Delta)
    assert any((decode_tensor(a) != decode_tensor(b)).any() for a, b in zip(first.tensors, second.tensors, strict=True))
    other = plan.plan.model_copy(update={"key": RoundKey(run="other", round=1)})
    assert (await agent(worker, tmp_path, classes()).work(replace(plan, plan=other))).tensors == first.tensors  # type: ignore[union-attr]


async def test_personal_parameters_that_do_not_fit_begin_anew(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [p.name for p in OWN.manifest.parameters if p.personal]
    wrong = {f"own {names[0]}": np.zeros((99,), np.float32), f"own {names[1]}": np.full(3, np.nan, np.float32)}
    LocalState(tmp_path / "wrong").save_memory("r", Memory(wrong))
    plan = assignment(OWN.bundle, OWN.initial)
    found = await agent(worker, tmp_path / "wrong", classes()).work(plan)
    assert caplog.text.count("begins anew") == 2
    assert untimed(found) == untimed(await agent(worker, tmp_path / "none", classes()).work(plan))


PENDING = Memory(
    {"own a": np.arange(20, dtype=np.float32), "control b": np.ones((2, 2), np.float64)},
    RoundKey(run="r", round=3, step=2, attempt=1),
    {"control b": np.zeros((2, 2), np.float64)},
)


def same(one: Memory, other: Memory) -> None:
    assert one.pending == other.pending
    for found, expected in ((one.kept, other.kept), (one.if_taken, other.if_taken)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    "memory", [Memory(), Memory({"own a": np.zeros(3)}), PENDING], ids=["empty", "kept", "pending"]
)
def test_both_futures_survive(memory: Memory, tmp_path: Path) -> None:
    LocalState(tmp_path).save_memory("r", memory)
    same(LocalState(tmp_path).memory("r"), memory)


def test_the_newest_runs_are_kept(tmp_path: Path) -> None:
    kept = LocalState(tmp_path)
    for number in range(state.RUNS_KEPT + 3):
        kept.save_memory(f"run{number}", Memory({"a": np.array([number], np.float32)}))
        os.utime(tmp_path / "memory" / f"run{number}", (number, number))
    kept.save_memory("last", Memory({"a": np.zeros(1, np.float32)}))
    left = {path.name for path in (tmp_path / "memory").iterdir()}
    assert len(left) == state.RUNS_KEPT
    assert {"last", f"run{state.RUNS_KEPT + 2}"} <= left
    assert kept.kept("run0") == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 500), st.integers(1, 255), st.booleans())
def test_a_damaged_file_is_no_state(tmp_path: Path, position: int, flip: int, cut: bool) -> None:
    kept = LocalState(tmp_path)
    kept.save_memory("r", PENDING)
    path = tmp_path / "memory" / "r"
    payload = bytearray(path.read_bytes())
    at = position % len(payload)
    payload[at] ^= flip
    path.write_bytes(payload[:at] if cut else payload)
    assert kept.memory("r") == Memory()


def test_what_is_written_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = LocalState(tmp_path)
    kept.save_memory("r", Memory({"a": np.zeros(3, np.float32)}))

    def fails(*_: object) -> None:
        raise OSError("no power")

    replace_: Callable[..., None] = os.replace
    monkeypatch.setattr(os, "replace", fails)
    kept.save_memory("r", Memory({"a": np.ones(3, np.float32)}))
    monkeypatch.setattr(os, "replace", replace_)
    np.testing.assert_array_equal(kept.kept("r")["a"], np.zeros(3))
    assert [path.name for path in (tmp_path / "memory").iterdir()] == ["r"]
