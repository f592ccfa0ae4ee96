"""Law: what an experiment tracker is told of a run is what its history has, by round and under stable names."""

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

from headwater.bridges.experiments import Experiment, Scalar, flattened
from headwater.schemas.base import Split

if TYPE_CHECKING:
    from headwater.cloud.history import RoundRecord, RunRecord
    from headwater.schemas.statuses import Figures

Tracker = Literal["mlflow", "tensorboard"]
TRACKERS: Final = get_args(Tracker)
TARGETS: Final[dict[Tracker, str]] = {"mlflow": "sqlite:///mlflow.db", "tensorboard": "tensorboard"}
_COUNTED: Final = ("cohort", "received", "refused", "devices", "examples", "bytes_down", "bytes_up", "elapsed_s")


def target_of(tracker: Tracker, target: str | None) -> str:
    """Where to: what was said, for MLflow its own variable, or a file or folder here."""
    known = os.environ.get("MLFLOW_TRACKING_URI") if tracker == "mlflow" else None
    return target or known or TARGETS[tracker]


def tell(tracker: Tracker, target: str, experiment: Experiment) -> str:
    """Write it there; returns how it is called there. Raises ConfigError."""
    if tracker == "mlflow":
        from headwater.bridges.experiments import mlflow

        return mlflow.write(experiment, target)
    from headwater.bridges.experiments import tensorboard

    return str(tensorboard.write(experiment, Path(target)))


def experiment_of(
    record: "RunRecord", rounds: Sequence["RoundRecord"], version: int | None, model: bytes | None
) -> Experiment:
    """A run of the history. What is of a failed attempt is left out: a round is told once."""
    return Experiment(
        run=record.id,
        name=record.name,
        fleet=record.fleet,
        state=record.state,
        started_at=record.started_at or record.queued_at,
        ended_at=record.ended_at,
        settings=flattened(record.description.model_dump(mode="json")),
        scalars=tuple(scalar for round_ in rounds if round_.state == "closed" for scalar in _scalars(round_)),
        version=version,
        model=model,
    )


def _scalars(round_: "RoundRecord") -> Iterator[Scalar]:
    at = round_.opened_at + timedelta(seconds=round_.elapsed_s)
    for name, value in _named(round_):
        if value is not None:
            yield Scalar(name, round_.round, at, float(value))


def _named(round_: "RoundRecord") -> Iterator[tuple[str, float | None]]:
    if round_.task == "train":
        yield "train/loss", round_.loss
        for name in _COUNTED:
            yield f"round/{name}", getattr(round_, name)
    if round_.task in ("train", "evaluate"):
        yield "test/loss", round_.test_loss
        yield "test/accuracy", round_.accuracy
        for split in get_args(Split):
            yield from _figures(split, getattr(round_, split))


def _figures(split: str, figures: "Figures | None") -> Iterator[tuple[str, float | None]]:
    if figures is None:
        return
    yield f"{split}/balanced_accuracy", figures.balanced_accuracy
    if figures.by_device is not None:
        yield f"{split}/device_mean", figures.by_device.mean
        yield f"{split}/device_worst_decile", figures.by_device.worst_decile
