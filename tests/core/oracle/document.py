"""Writes docs/operators.md from the rules and the record: what trains, and how far its gradient was ever off.

python tests/core/oracle/document.py [--check]      no PyTorch needed: its part is in record.npz
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import points
from cases import CASES

from headwater.core.graph.objective import OBJECTIVES
from headwater.core.graph.operators import COMPOSITES, MENDS, OPERATORS
from headwater.core.graph.operators.shaping import WITHOUT_GRADIENT
from headwater.core.graph.update import RULES
from headwater.schemas.manifest import Variant

BY_DEFAULT_ALONE = {
    "AveragePool": {"dilations"},
    "GRU": {"clip", "layout"},
    "LSTM": {"clip", "input_forget", "layout"},
    "MaxPool": {"storage_order"},
    "Pad": {"mode"},
    "RNN": {"clip", "layout"},
}
"""Attributes that a rule refuses with another value than their default: they may be written, and say nothing."""

WITHOUT_MEANING = {"activation_alpha", "activation_beta", "seed", "spatial", "stash_type", "training_mode"}
"""Attributes that may be written and change nothing in training."""

TARGET = Path(__file__).parents[3] / "docs" / "operators.md"

HEAD = """# Operators

Written by `make documents` from the rules (`core/headwater/core/graph/`), the cases of the tests
(`tests/core/cases.py`) and the record of their errors; do not edit.

A forward model in ONNX, opset 13 to 21, made of these operators can be trained. What is not here, or an attribute that
is not named, is refused by operator, attribute and node.

Errors are the largest over all cases of an operator and over the objectives mse and cross-entropy, relative to the
gradient's length, rounded up to a power of ten: against central differences in float64, and against PyTorch's autograd.

| operator | attributes | cases | against differences | against PyTorch |
|---|---|---|---|---|
"""


def text() -> str:
    return "".join(
        [HEAD, *operators(), *without_gradient(), *refused(), *objectives(), *optimisers(), *variants(), *steps()]
    )


def operators() -> Iterable[str]:
    for name in sorted({*OPERATORS, *COMPOSITES} - {*WITHOUT_GRADIENT, "Constant"}):
        cases = [case for case in CASES if CASES[case].operator == name]
        errors = [points.recorded_errors(case) for case in cases]
        finite, torch = (power(max(e[i] for e in errors)) if errors else "" for i in (0, 1))
        yield f"| {name} | {attributes(name)} | {len(cases)} | {finite} | {torch} |\n"


def attributes(name: str) -> str:
    if name in COMPOSITES:
        return "rewritten into others first"
    row = OPERATORS[name]
    silent = WITHOUT_MEANING | BY_DEFAULT_ALONE.get(name, set())
    told = [f"`{attribute}`" for attribute in sorted({*row.attributes} - silent)]
    told += [f"`{attribute}` only by its default" for attribute in sorted(BY_DEFAULT_ALONE.get(name, ()))]
    if row.fixed:
        told.append(f"input{'s' if len(row.fixed) > 1 else ''} {', '.join(map(str, row.fixed))} constant")
    return ", ".join(told)


def power(error: float) -> str:
    """1e-6 for anything above 1e-7 up to 1e-6; below float32's own rounding it says nothing."""
    return f"1e{max(math.ceil(math.log10(error)) if error > 0 else -7, -7)}"


def without_gradient() -> Iterable[str]:
    yield "\nOf masks, positions and shapes, whose results are used and have no gradient: "
    yield ", ".join(sorted({*WITHOUT_GRADIENT, "Constant"})) + ".\n"


def refused() -> Iterable[str]:
    yield "\n## Refused, and the nearest way\n\n| operator | instead |\n|---|---|\n"
    yield from (f"| {name} | {mend} |\n" for name, mend in sorted(MENDS.items()))
    yield (
        "\nAlso: convolutions and pools over three axes; padding other than with a constant; sequence lengths, clipping,"
        "\npeepholes and other activations of recurrent layers; GroupNormalization of an opset below 21;"
        " BatchNormalization in\nthe variant `clipped`; whatever lets an example see its neighbours in the batch.\n"
    )


def objectives() -> Iterable[str]:
    yield "\n## Objectives\n\n| objective | metrics | tallies | the model may end with |\n|---|---|---|---|\n"
    for name, row in OBJECTIVES.items():
        tallies = ", ".join(tally.name for tally in row.tallies((None, 2)))
        yield f"| {name} | {', '.join(row.metrics)} | {tallies} | {row.steps_over or ''} |\n"
    yield "\nAn example's weight goes in by the mask, class weights and label smoothing by `[loss]` of a run.\n"


def optimisers() -> Iterable[str]:
    yield "\n## Local optimisers\n\n| optimiser | what it keeps | hyperparameters |\n|---|---|---|\n"
    for name, rule in RULES.items():
        kept = [*rule.slots, *(["steps"] if rule.counts else [])]
        yield f"| {name} | {', '.join(kept)} | {', '.join(rule.hyperparameters)} |\n"
    yield "\nWith each: `weight_decay`, `clip_norm`, and a learning rate for every step.\n"


VARIANTS = {
    "alternating": (
        "`hyper_shared_rate`, `hyper_personal_rate`",
        "multiplies the learning rate of the shared and of the personal parameters",
    ),
    "plain": ("", ""),
    "proximal": (
        "`hyper_proximal`, an `anchor` for each parameter",
        "adds μ·(w − anchor) to a gradient, before clipping",
    ),
    "corrected": ("a `correction` for each parameter", "adds it to a gradient, behind clipping"),
    "clipped": (
        "`hyper_example_norm`, `hyper_noise_multiplier`, `noise` for each parameter and step",
        "bounds each example's gradient, adds noise to their sum, divides by their number",
    ),
}


def variants() -> Iterable[str]:
    yield "\n## Variants of a step\n\n| variant | takes besides | what it does |\n|---|---|---|\n"
    yield from (f"| {name} | {' | '.join(VARIANTS[name])} |\n" for name in get_args(Variant))


def steps() -> Iterable[str]:
    yield (
        "\n## Steps against PyTorch\n\nParameters after each of some steps with ragged last batches, the largest"
        " distance relative to their length.\n\n| steps | against PyTorch |\n|---|---|\n"
    )
    for scenario in points.SCENARIOS:
        yield f"| {scenario} | {power(float(points.load()[points.key('errors', 'steps', scenario)]))} |\n"


def main(arguments: list[str]) -> int:
    made = text()
    if arguments == ["--check"]:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == made:
            return 0
        print(f"{TARGET}: stale; run make documents", file=sys.stderr)
        return 1
    TARGET.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
