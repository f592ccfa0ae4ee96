"""Law: a step's examples, weights and seeds follow from the plan, the node and its number, wherever a run is cut.

A plan's steps are cut into segments wherever time asks for it. Rows are dealt one pass after the other, so memory is
that of a segment, however many epochs a plan has.
"""

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.batches import minibatches, shuffling
from headwater.schemas.messages import RoundKey

SEGMENT_ROWS: Final = 262_144
"""Rows of one segment at most: its indices and weights take 3 MB."""

_SEEDS: Final = 0x5EED
"""Sets the stream of seeds apart from that of shuffles."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a plan trains."""

    batch_size: int
    epochs: int
    learning_rate: float
    seed: int
    key: RoundKey
    node: str

    def steps_a_pass(self, examples: int) -> int:
        """Minibatches of one pass over so many examples; the last may be ragged."""
        return -(-examples // min(self.batch_size, examples))


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps that are run at once. `epochs` counts the passes that are over after them."""

    order: NDArray[np.int64]
    mask: NDArray[np.float32]
    seeds: NDArray[np.int64]
    epochs: int

    @property
    def steps(self) -> int:
        return len(self.order)

    def repeated(self, times: int) -> "Segment":
        """A single step's rows, so many times over; each time draws its own random numbers."""
        seeds = self.seeds + np.arange(times)
        return Segment(np.repeat(self.order, times, axis=0), np.repeat(self.mask, times, axis=0), seeds, self.epochs)


class Steps:
    """A plan's steps, from the pass `begin` on. `Manifest` says what a step's inputs are."""

    def __init__(self, course: Course, examples: int, begin: int = 0) -> None:
        self._course = course
        self._examples = examples
        self._passes = begin
        self._rng = shuffling(course.seed, course.key, course.node)
        for _ in range(begin):
            self._rng.permutation(examples)
        self._each = course.steps_a_pass(examples)
        self._most = max(SEGMENT_ROWS // min(course.batch_size, examples), 1)
        self._open: Segment | None = None

    def take(self, most: int) -> Segment | None:
        """The next steps, at most so many, never across a pass's end in its middle; None after the last."""
        most = max(min(most, self._most), 1)
        if self._open is None:
            left = self._course.epochs - self._passes
            if left <= 0:
                return None
            passes = min(max(most // self._each, 1), left)
            self._open = self._dealt(passes)
        taken, self._open = _cut(self._open, most)
        return taken

    def _dealt(self, passes: int) -> Segment:
        course = self._course
        order, mask = minibatches(self._examples, course.batch_size, passes, self._rng)
        numbers = range(self._passes, self._passes + passes)
        self._passes += passes
        return Segment(order, mask, np.concatenate([self._seeds(number) for number in numbers]), self._passes)

    def _seeds(self, number: int) -> NDArray[np.int64]:
        course = self._course
        node = zlib.crc32(course.node.encode())
        rng = np.random.default_rng([course.seed, course.key.round, course.key.step, node, number, _SEEDS])
        return rng.integers(0, 2**31, size=self._each, dtype=np.int64)


class Minibatches:
    """A plan's minibatches by number, each asked for once or more, in ascending order."""

    def __init__(self, course: Course, examples: int) -> None:
        self._steps = Steps(course, examples)
        self._number = -1
        self._last: Segment | None = None

    def at(self, number: int) -> Segment:
        """Raises ValueError for one that has gone by, or comes behind the last."""
        while self._number < number:
            self._number, self._last = self._number + 1, self._steps.take(1)
        if self._last is None or self._number != number:
            raise ValueError(f"batch: {number} after {self._number}; ask for them in their order, to the last")
        return self._last


def _cut(segment: Segment, most: int) -> tuple[Segment, Segment | None]:
    """The first steps, and the rest. Only the last of a pass's parts ends it."""
    if segment.steps <= most:
        return segment, None
    parts = [
        Segment(segment.order[at], segment.mask[at], segment.seeds[at], segment.epochs)
        for at in (slice(0, most), slice(most, None))
    ]
    return Segment(parts[0].order, parts[0].mask, parts[0].seeds, segment.epochs - 1), parts[1]


class Pace:
    """How many steps fit into a segment: measured, and grown by no more than eightfold at a time.

    The first segment of a graph is a single step, for nobody knows yet how long that takes.
    """

    def __init__(self, target_s: float = 0.3) -> None:
        self._target_s = target_s
        self.steps = 1

    def measured(self, steps: int, elapsed_s: float) -> None:
        """What a segment took."""
        fit = int(self._target_s * steps / max(elapsed_s, 1e-6))
        self.steps = max(1, min(fit, 8 * max(self.steps, steps)))
