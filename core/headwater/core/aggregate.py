"""Law: a sum is folded as its terms arrive and divided once, at the top; its memory is one model, whatever the fleet.

    Δ = (Σ w_k·Δ_k) / (Σ w_k)          FedAvg, McMahan et al. 2017, algorithm 1

A term is already weighted (`w·Δ`), so devices and gateways add alike, and any tree gives the flat result.
Sums are kept in float64: the order of arrival then cannot be seen in a float32 model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.schemas.base import Split
from headwater.schemas.manifest import LOCAL_STEPS, Manifest
from headwater.schemas.messages import Counts, Metric
from headwater.schemas.tensors import Array, decode_tensor, encode_tensor

Sums = tuple[NDArray[np.float64], ...]
Parameters = tuple[NDArray[np.float32], ...]


class WeightedSum:
    """A running sum of weighted terms with the sum of their weights, and of their metrics and tallies.

    The only mutable value of this room: adding in place is what keeps the memory at one model.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], models: int = 1) -> None:
        self._shapes = tuple(shapes)
        self._totals: list[Sums | None] = [None] * models
        self._metrics: dict[tuple[Split, str], tuple[float, float]] = {}
        self._tallies: dict[tuple[Split, str], NDArray[np.float64]] = {}
        self._shares = [0.0] * models
        self._steps = [(0.0, 0.0)] * models
        self.weight = 0.0

    def add(
        self,
        terms: Sequence[Array],
        weight: float,
        metrics: Iterable[Metric] = (),
        tallies: Iterable[Counts] = (),
        *,
        factor: float = 1.0,
        shares: Sequence[float] = (),
    ) -> None:
        """Fold one contribution: `terms` are w·Δ in the shapes given at the start, and `factor` times them is added.

        The weight counts whole: a discounted update takes a smaller step, it is not made up for (FedBuff, Nguyen et
        al. 2022, algorithm 1).

        Args:
            shares: of several models that coexist, the weight of each; `terms` are those of the ones that have any.

        Raises:
            ValueError: terms of other shapes, a weight that is negative or not finite, shares that are not the
                weight's, or a tally of another length than before. Nothing is added then.
        """
        parts = tuple(shares) or (weight,)
        present = [model for model, share in enumerate(parts) if share > 0]
        if len(parts) != len(self._shares):
            raise ValueError(f"shares: {len(parts)} where there are {len(self._shares)} models")
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: {weight} is not a finite number of at least 0")
        if min(parts) < 0 or not np.isclose(sum(parts), weight):
            raise ValueError(f"shares: {list(parts)} do not make the weight {weight}")
        if tuple(term.shape for term in terms) != len(present) * self._shapes:
            raise ValueError(f"terms: shapes {[term.shape for term in terms]} where {list(self._shapes)} belong")
        counted, metrics = self._with(tallies), tuple(metrics)
        for place, model in enumerate(present):
            self._add_to(model, terms[place * len(self._shapes) :][: len(self._shapes)], factor)
            self._shares[model] += parts[model]
            self._count_steps(model, parts[model] / weight, metrics)
        self.weight += weight
        for metric in metrics:
            before, divisor = self._metrics.get((metric.split, metric.name), (0.0, 0.0))
            self._metrics[metric.split, metric.name] = (before + metric.total, divisor + metric.weight)
        self._tallies = counted

    def _add_to(self, model: int, terms: Sequence[Array], factor: float) -> None:
        totals = self._totals[model]
        if totals is None:
            totals = self._totals[model] = tuple(np.zeros(shape, dtype=np.float64) for shape in self._shapes)
        for total, term in zip(totals, terms, strict=True):
            total += term if factor == 1 else factor * np.asarray(term, dtype=np.float64)

    def _count_steps(self, model: int, share: float, metrics: Iterable[Metric]) -> None:
        for metric in metrics:
            if (metric.split, metric.name) == ("train", LOCAL_STEPS):
                total, weight = self._steps[model]
                self._steps[model] = (total + share * metric.total, weight + share * metric.weight)

    def _with(self, tallies: Iterable[Counts]) -> dict[tuple[Split, str], NDArray[np.float64]]:
        """The tallies so far and these: whole counts up to 2**53 are exact, whatever the order."""
        counted = dict(self._tallies)
        for tally in tallies:
            values, before = decode_tensor(tally.values, tally.name), counted.get((tally.split, tally.name))
            if before is not None and before.shape != values.shape:
                raise ValueError(f"{tally.name}: {len(values)} counts where {len(before)} belong")
            counted[tally.split, tally.name] = values if before is None else before + values
        return counted

    @property
    def totals(self) -> Sums:
        """Σ w·Δ in float64 of each model that anything was added to, or nothing."""
        return tuple(total for totals in self._totals if totals is not None for total in totals)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of several models that coexist, the weight of each; nothing of a single one."""
        return tuple(self._shares) if len(self._shares) > 1 else ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(
            Metric(split=split, name=name, total=total, weight=weight)
            for (split, name), (total, weight) in sorted(self._metrics.items())
        )

    @property
    def tallies(self) -> tuple[Counts, ...]:
        return tuple(
            Counts(split=split, name=name, values=encode_tensor(values))
            for (split, name), values in sorted(self._tallies.items())
        )

    def local_steps(self, model: int = 0) -> float:
        """How many plain steps are behind a model's mean (FedNova), 1 where devices do not normalise."""
        total, weight = self._steps[model]
        return total / weight if weight > 0 else 1.0

    def mean(self, model: int = 0) -> Sums:
        """Σ w·Δ / Σ w of one model, in float64.

        Raises:
            ValueError: nothing was added, or nothing that weighs.
        """
        totals, share = self._totals[model], self._shares[model]
        if totals is None or not share > 0:
            raise ValueError("weight: nothing was added, so there is no mean")
        return tuple(total / share for total in totals)


def weighted(delta: Sequence[Array], weight: float) -> Parameters:
    """w·Δ of one device, in float32 as it travels."""
    return tuple((np.asarray(tensor, dtype=np.float64) * weight).astype(np.float32) for tensor in delta)


def difference(new: Sequence[Array], old: Sequence[Array]) -> Sums:
    """new − old in float64."""
    return tuple(np.asarray(a, dtype=np.float64) - b for a, b in zip(new, old, strict=True))


def moved(parameters: Sequence[Array], step: Sequence[Array]) -> Parameters:
    """parameters + step, rounded once to float32."""
    return tuple(
        (p + np.asarray(s, dtype=np.float64)).astype(np.float32) for p, s in zip(parameters, step, strict=True)
    )


def shared(manifest: Manifest, parameters: Sequence[Array]) -> tuple[Array, ...]:
    """Those of a model's parameters that its delta is about: they move, and they are no device's own."""
    names = {parameter.name for parameter in manifest.shared}
    return tuple(
        value for parameter, value in zip(manifest.parameters, parameters, strict=True) if parameter.name in names
    )


def stepped(manifest: Manifest, parameters: Sequence[Array], step: Sequence[Array]) -> Parameters:
    """The model after a step of its shared parameters; the others stay, and the personal ones are only initial."""
    return with_shared(manifest, parameters, moved(shared(manifest, parameters), step))


def with_shared(manifest: Manifest, parameters: Sequence[Array], values: Sequence[Array]) -> Parameters:
    """The model with these values of its shared parameters."""
    names = {parameter.name for parameter in manifest.shared}
    new = iter(values)
    return tuple(
        next(new) if parameter.name in names else value
        for parameter, value in zip(manifest.parameters, parameters, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric's mean over examples."""

    split: str
    name: str
    value: float
    weight: float


def means(metrics: Iterable[Metric]) -> tuple[Mean, ...]:
    """Each metric divided by its own weight; those without weight are left out."""
    return tuple(Mean(m.split, m.name, m.total / m.weight, m.weight) for m in metrics if m.weight > 0)
