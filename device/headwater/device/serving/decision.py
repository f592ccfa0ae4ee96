"""Law: a model is served that was not measured to be worse than the last good one; every decision has its sentence.

`good` is the last model that held its score, measured on the same test part as the candidate; `served` answers now.
They differ only while a model is served on trust, because there was nothing to measure it on.
"""

from dataclasses import dataclass
from typing import Literal

Action = Literal["keep", "swap", "roll back"]


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over the device's own test part: of `accuracy` more is better, of every other name less."""

    name: str
    value: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A model version by name and content, and what it scored; without a score it is taken on trust."""

    run: str
    round: int
    sha256: str
    score: Score | None = None

    def __str__(self) -> str:
        return f"round {self.round} of {self.run}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the candidate, and why."""

    action: Action
    reason: str


def decide(good: Standing | None, served: Standing | None, candidate: Standing, max_drop: float) -> Decision:
    """What a candidate changes. `max_drop` is in points of accuracy, and a share of every other score.

    keep: what is served goes on. swap: the candidate is served. roll back: the last good one is served again.
    """
    if good is None or served is None:
        return Decision("swap", f"{candidate} is the first here")
    if candidate.score is None or good.score is None:
        if candidate.sha256 == served.sha256:
            return Decision("keep", f"{candidate} is served already")
        return Decision("swap", f"{candidate} is newer, and there is nothing to measure it on")
    if candidate.score.name != good.score.name:
        return Decision("swap", f"{candidate} has another score than {good}: {candidate.score}, not {good.score.name}")
    if not _fell(good.score, candidate.score, max_drop):
        action: Action = "keep" if candidate.sha256 == served.sha256 else "swap"
        return Decision(action, f"{candidate} has {candidate.score}, {good} has {good.score}")
    fallen = f"{candidate} has {candidate.score}, too far from the {good.score.value:.4g} of {good}"
    if served.sha256 == good.sha256:
        return Decision("keep", f"{fallen}, which stays")
    return Decision("roll back", f"{fallen}, which is served again")


def _fell(good: Score, candidate: Score, max_drop: float) -> bool:
    if good.name == "accuracy":
        return candidate.value < good.value - max_drop
    return candidate.value > good.value + max_drop * abs(good.value)
