"""Law: a run's course is its rounds in order, each told once, whether the history says it or somebody listened.

Train figures are of a round; test figures are of the model that the round made, and come with the round after it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from headwater.dashboard.view.state import Closed
from headwater.schemas.statuses import DeviceFigures, Figures, RoundStatus, Times

MAX_POINTS: Final = 400
"""In one line of a chart; longer courses are thinned out, their ends kept."""


@dataclass(frozen=True, slots=True)
class Point:
    """A round of the cloud's that has ended. `at` is its end, `accuracy` and `test_loss` are of the model it made.

    `mean` and `worst` are over devices, of accuracy or, where there are no classes, of the loss; `personal` likewise
    of the devices' own models.
    """

    round: int
    attempt: int
    task: str
    state: str
    at: float
    elapsed_s: float
    cohort: int
    received: int
    refused: int
    devices: int
    examples: int
    bytes_down: int
    bytes_up: int
    loss: float | None = None
    test_loss: float | None = None
    accuracy: float | None = None
    mean: float | None = None
    worst: float | None = None
    personal_mean: float | None = None
    personal_worst: float | None = None
    times: Times | None = None
    epsilon: float | None = None

    @property
    def trains(self) -> bool:
        return self.task == "train" and self.state == "closed"


def heard_course(rounds: Iterable[Closed]) -> tuple[Point, ...]:
    """The points of what was heard live: test figures move to the round whose model they measure."""
    told = list(rounds)
    measured = {closed.status.round - 1: closed.status for closed in told if _measures(closed.status)}
    return tuple(_with_test(_point(closed), measured.get(closed.status.round)) for closed in told)


def merged(recorded: Iterable[Point], heard: Iterable[Point]) -> tuple[Point, ...]:
    """One course of two tellings, by round and attempt: the history's word first, what it lacks as it was heard."""
    points = {(point.round, point.attempt, point.task): point for point in heard}
    for point in recorded:
        key = (point.round, point.attempt, point.task)
        points[key] = _filled(point, points.get(key))
    return tuple(sorted(points.values(), key=lambda point: (point.round, point.attempt, point.at)))


def trained(course: Iterable[Point]) -> tuple[Point, ...]:
    """The rounds that made a model, one each."""
    by_round = {point.round: point for point in course if point.trains}
    return tuple(by_round[number] for number in sorted(by_round))


def thinned(points: tuple[Point, ...], most: int = MAX_POINTS) -> tuple[Point, ...]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(points) <= most:
        return points
    return tuple(points[round(place * (len(points) - 1) / (most - 1))] for place in range(most))


def _measures(status: RoundStatus) -> bool:
    return status.state == "closed" and any(name.startswith("test/") for name in status.metrics)


def _point(closed: Closed) -> Point:
    status = closed.status
    return Point(
        round=status.round,
        attempt=status.attempt,
        task=status.task,
        state=status.state,
        at=closed.at,
        elapsed_s=status.elapsed_s,
        cohort=status.cohort,
        received=status.received,
        refused=status.refused,
        devices=status.devices,
        examples=status.examples,
        bytes_down=status.bytes_down,
        bytes_up=status.bytes_up,
        loss=status.metrics.get("train/loss"),
        times=status.times,
        epsilon=status.epsilon_spent,
    )


def _with_test(point: Point, measured: RoundStatus | None) -> Point:
    if measured is None or not point.trains:
        return point
    mean, worst = spread(measured.figures.get("test"))
    personal_mean, personal_worst = spread(measured.figures.get("personal"))
    return replace(
        point,
        test_loss=measured.metrics.get("test/loss"),
        accuracy=measured.metrics.get("test/correct"),
        mean=mean,
        worst=worst,
        personal_mean=personal_mean,
        personal_worst=personal_worst,
    )


def spread(figures: Figures | None) -> tuple[float | None, float | None]:
    """Mean and worst decile over devices."""
    by_device: DeviceFigures | None = figures.by_device if figures else None
    return (by_device.mean, by_device.worst_decile) if by_device else (None, None)


def _filled(recorded: Point, heard: Point | None) -> Point:
    """What the history does not keep of a round, as it was heard."""
    if heard is None:
        return recorded
    return replace(
        recorded,
        times=recorded.times or heard.times,
        epsilon=heard.epsilon if recorded.epsilon is None else recorded.epsilon,
        accuracy=heard.accuracy if recorded.accuracy is None else recorded.accuracy,
        test_loss=heard.test_loss if recorded.test_loss is None else recorded.test_loss,
        mean=heard.mean if recorded.mean is None else recorded.mean,
        worst=heard.worst if recorded.worst is None else recorded.worst,
    )
