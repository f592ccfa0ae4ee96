"""Law: tallies are turned into figures only where somebody reads them; what has no examples has no figure.

A device's own accuracy, or its loss where there are no classes, is one count in a bucket, so that mean and worst decile
over devices come out of sums: as exact as the buckets, a hundredth of accuracy, or 12 % of a loss.

recall = correct / examples    precision = correct / predicted    F1 = 2·correct / (examples + predicted)
balanced accuracy = mean of recall over the classes that have examples
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.sketch import NAME, middles, quantile, sketch
from headwater.schemas.base import Split
from headwater.schemas.manifest import DEVICE_TALLIES
from headwater.schemas.messages import Counts
from headwater.schemas.statuses import ClassFigures, DeviceFigures, Figures
from headwater.schemas.tensors import decode_tensor

CLASS_TALLIES: Final = ("class_examples", "class_correct", "class_predicted")
"""What a classifier counts, a number for each class: of the label, of the label where it was found, of the answer."""

ACCURACIES: Final = "device_correct"
LOSSES: Final = "device_loss"
"""How many devices have which accuracy, or loss: the standing tallies of `manifest.DEVICE_TALLIES`."""

DECILE: Final = 0.1
SPLITS: Final[Mapping[Split, str]] = {"test": "global", "personal": "personal", "local": "alone", "train": "train"}
"""Whose figures those of a split are, for people."""

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

MAX_CLASSES_TOLD: Final = 128
"""A model of more classes tells its balanced accuracy only."""


def per_class(examples: NDArray[Any], correct: NDArray[Any], predicted: NDArray[Any]) -> tuple[ClassFigures, ...]:
    """The figures of each class, in order."""
    return tuple(
        ClassFigures(
            examples=float(n),
            recall=_ratio(hits, n),
            precision=_ratio(hits, answers),
            f1=_ratio(2 * hits, n + answers),
        )
        for n, hits, answers in zip(examples, correct, predicted, strict=True)
    )


def balanced_accuracy(classes: Iterable[ClassFigures]) -> float | None:
    """The mean recall of the classes that have examples, or None where none has any."""
    recalls = [figures.recall for figures in classes if figures.recall is not None]
    return sum(recalls) / len(recalls) if recalls else None


def error_quantiles(counts: NDArray[Any]) -> dict[str, float]:
    """The quantiles that people read, or none where nothing was counted."""
    return {name: quantile(counts, share) for name, share in QUANTILES.items()} if counts.sum() > 0 else {}


def place_of_device(means: Mapping[str, float]) -> tuple[str, NDArray[np.float64]] | None:
    """One device's tally by its means over its test part: which, and the one count; None where they do not say."""
    if "correct" in means:
        counts = np.zeros(DEVICE_TALLIES[ACCURACIES])
        counts[round(min(max(means["correct"], 0.0), 1.0) * (len(counts) - 1))] = 1.0
        return ACCURACIES, counts
    return (LOSSES, sketch(max(means["loss"], 0.0))) if "loss" in means else None


def by_device(tallies: Mapping[str, NDArray[Any]]) -> DeviceFigures | None:
    """How accuracy, or loss, spreads over devices; None where none was counted."""
    if ACCURACIES in tallies:
        counts = tallies[ACCURACIES]
        return _spread(counts, np.linspace(0.0, 1.0, len(counts)))
    if LOSSES in tallies:
        return _spread(tallies[LOSSES][::-1], middles()[::-1])
    return None


def _spread(counts: NDArray[Any], values: NDArray[np.float64]) -> DeviceFigures | None:
    """Args: values: of each bucket, the worst first."""
    devices = float(counts.sum())
    if not devices > 0:
        return None
    # A tenth of seven devices is seven tenths of the worst.
    worst = np.clip(DECILE * devices - (np.cumsum(counts) - counts), 0.0, counts)
    return DeviceFigures(
        devices=devices,
        mean=float(counts @ values) / devices,
        worst_decile=float(worst @ values) / (DECILE * devices),
    )


def in_words(by_split: Mapping[Split, Figures | None]) -> str:
    """How the splits that have figures by device spread over devices, for a line that people read."""
    found = {split: told.by_device for split, told in by_split.items() if told is not None and told.by_device}
    told = [f"{SPLITS[split]} {f.mean:.4f} (worst tenth {f.worst_decile:.4f})" for split, f in found.items()]
    return f"by device: {', '.join(told)}" if told else ""


def figures(tallies: Mapping[str, NDArray[Any]]) -> Figures:
    """What the tallies of one split say, by their names; those that are not known here say nothing."""
    classes: tuple[ClassFigures, ...] = ()
    if all(name in tallies for name in CLASS_TALLIES):
        classes = per_class(*(tallies[name] for name in CLASS_TALLIES))
    return Figures(
        balanced_accuracy=balanced_accuracy(classes),
        classes=classes if len(classes) <= MAX_CLASSES_TOLD else (),
        error_quantiles=error_quantiles(tallies[NAME]) if NAME in tallies else {},
        by_device=by_device(tallies),
    )


def figures_by_split(tallies: Iterable[Counts]) -> dict[Split, Figures]:
    """The figures of each split that has tallies."""
    by_split = groupby(sorted(tallies, key=lambda tally: tally.split), key=lambda tally: tally.split)
    return {split: figures({tally.name: decode_tensor(tally.values) for tally in of_it}) for split, of_it in by_split}


def _ratio(part: float, whole: float) -> float | None:
    """At most 1: counts come from devices, and no figure of theirs may stop the parent that tells them."""
    return min(1.0, float(part) / float(whole)) if whole > 0 else None
