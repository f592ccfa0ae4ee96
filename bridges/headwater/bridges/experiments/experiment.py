"""Law: a run, for whoever keeps experiments, is what it was asked to do and a row of numbers by round."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

State = Literal["queued", "running", "paused", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number of one round, and when it was known."""

    name: str
    round: int
    at: datetime
    value: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """A run of a fleet. `settings` are flat, by dotted name; `model` is the newest one as ONNX, of round `version`."""

    run: str
    name: str
    fleet: str
    state: State
    started_at: datetime
    ended_at: datetime | None
    settings: Mapping[str, str]
    scalars: tuple[Scalar, ...]
    version: int | None = None
    model: bytes | None = None


def flattened(description: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of nested tables by dotted name, as text; what is unset is left out."""
    return dict(_leaves(description, ""))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, str(value)
