"""Law: what a choice knows of a child is a value; what is not known is None, and no rule takes it for a number."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from headwater.schemas.learning import Selection


@dataclass(frozen=True, slots=True)
class Candidate:
    """A child that may be chosen.

    Args:
        loss: mean training loss of its last update, `loss_age_rounds` rounds ago.
        round_s: from a round's opening to the arrival of its update.
        waited_rounds: since it was last asked; None: it never was.
        histogram: its examples by label, with noise; empty where it does not share that.
        battery_percent: None without a battery.
    """

    name: str
    examples: int | None = None
    loss: float | None = None
    loss_age_rounds: int = 1
    round_s: float | None = None
    waited_rounds: int | None = None
    histogram: tuple[float, ...] = ()
    battery_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """By what a parent chooses: the plan's rule, and what it knows.

    `known` says it of each child by name. `rounds` counts those that this parent hosted before, `deadline_s` is how
    long this one may take.
    """

    selection: Selection = field(default_factory=Selection)
    known: Mapping[str, Candidate] = field(default_factory=dict)
    rounds: int = 0
    deadline_s: float = float("inf")


@dataclass(frozen=True, slots=True)
class Draw:
    """`places` of the candidates are to be named, of whom there are at least as many, in the order of their names."""

    candidates: tuple[Candidate, ...]
    places: int
    situation: Situation
    rng: np.random.Generator

    @property
    def selection(self) -> Selection:
        return self.situation.selection
