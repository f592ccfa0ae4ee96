"""Law: what learning is compared on is dealt in one place: the same examples to the same devices, judged alike.

digits      scikit-learn's, MLP 64-32-10
wearables   windows of nine people's smartwatches (seglearn), pooled and dealt anew, MLP 72-64-7 behind a normaliser
            that is learned too; the tenth person is unseen

Labels are dealt by draws from Dirichlet(alpha) (Hsu et al. 2019): at 0.1 a device has mostly one to three of them.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from headwater.device.sources.dataset import Dataset, dataset
from headwater.device.sources.digits import digits
from headwater.device.sources.digits import shards as dealt
from headwater.device.sources.watch import load_watch
from headwater.schemas.run import RunDescription
from headwater.testbed.baselines import together

DATA: Final = "examples"
DEVICES: Final = 10
PEOPLE: Final = 9
STRANGER: Final = 10
OWN_TEST: Final = 0.25
"""Of a device's examples, where it has a test part of its own."""

LEAST: Final = 8
"""Examples of a device with a test part of its own: whoever the draw leaves fewer gets them from whoever has most."""

EVERYONE: Final = "everyone"
UNSEEN: Final = "unseen"

Task = Literal["digits", "wearables"]
MODELS: Final[Mapping[Task, Mapping[str, Any]]] = {
    "digits": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (32,)},
    "wearables": {"kind": "mlp", "features": 72, "classes": 7, "hidden": (64,), "normalise": True},
}

Case = TypeVar("Case")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Fleet:
    """`data` are by device. `tests` are what any model is judged on, by name, in their test parts."""

    task: Task
    data: Mapping[str, Dataset]
    tests: Mapping[str, Dataset]

    @property
    def two_gateways(self) -> dict[str, tuple[str, ...]]:
        """One half of the devices below each."""
        devices = tuple(self.data)
        half = len(devices) // 2
        return {"gw1": devices[:half], "gw2": devices[half:]}


def fleet_of(task: Task, alpha: float, seed: int, devices: int = DEVICES) -> Fleet:
    """Training parts are dealt; the test part is everyone's, and each device holds an even share of it."""
    pool, tests = _pool(task, seed)
    hands = dealt(pool.train_y.astype(np.int64), devices, alpha, seed)
    shares = np.array_split(np.arange(len(pool.test_y)), devices)
    data = {
        _name(number): dataset(pool.train_x[hand], pool.train_y[hand], pool.test_x[share], pool.test_y[share])
        for number, (hand, share) in enumerate(zip(hands, shares, strict=True))
    }
    return Fleet(task, data, tests)


def with_own_tests(alpha: float, seed: int, devices: int = DEVICES) -> Fleet:
    """Digits, all of them dealt: a quarter of what a device has is its own test part, and these are everyone's."""
    x, y, _ = digits(seed)
    hands = [list(hand) for hand in dealt(y, devices, alpha, seed)]
    for hand in hands:
        while len(hand) < LEAST:
            hand.append(max(hands, key=len).pop())
    data = {_name(number): split(x[hand], y[hand], [seed, number]) for number, hand in enumerate(hands)}
    return Fleet("digits", data, {EVERYONE: together(list(data.values()))})


def split(x: NDArray[np.float32], y: NDArray[np.int64], seed: Sequence[int]) -> Dataset:
    """A device's examples in two parts."""
    rows = np.random.default_rng([*seed]).permutation(len(y))
    cut = round(OWN_TEST * len(y))
    test, train = rows[:cut], rows[cut:]
    return dataset(x[train], y[train], x[test], y[test])


def _pool(task: Task, seed: int) -> tuple[Dataset, Mapping[str, Dataset]]:
    if task == "digits":
        x, y, test = digits(seed)
        pool = dataset(x[~test], y[~test], x[test], y[test])
        return pool, {EVERYONE: pool}
    pool, stranger = load_watch(range(1, PEOPLE + 1)), load_watch([STRANGER])
    return pool, {EVERYONE: pool, UNSEEN: stranger}


def _name(number: int) -> str:
    return f"d{number:02}"


def described(task: Task, seed: int, rounds: int, **sections: Any) -> RunDescription:
    """A run whose devices all take part, unless the sections say otherwise; the model is not measured by devices."""
    base = {
        "name": DATA,
        "data": DATA,
        "rounds": rounds,
        "evaluate_every": 0,
        "seed": seed,
        "model": MODELS[task],
        "local": {"batch_size": 16, "learning_rate": 0.1},
        "cohort": {"quorum": 1.0, "deadline_s": 600.0},
    }
    return RunDescription.model_validate(base | sections)


def in_processes(measure: Callable[[Case], Result], cases: Sequence[Case], jobs: int) -> list[Result]:
    """The result of each case, in their order; `jobs` cases at once, each in a process of its own beyond one."""
    if jobs == 1:
        return [measure(case) for case in cases]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(measure, cases))
