"""Law: a scenario's page says what was learned from whose data on what terms, and what came of it, in one figure.

The figure is drawn by matplotlib where it is installed (`headwater[plots]`); the page does without.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headwater.testbed.data.catalogue import CATALOGUE
from headwater.testbed.judging import AUC, FALSE_ALARMS
from headwater.testbed.outcome import (
    ALARM_HEADS,
    ALONE,
    FLEET,
    SPREAD_HEADS,
    Outcome,
    alarm_rows,
    rows,
    spread_measure_of,
    spread_rows,
)

PAGE: Final = "scenario.md"
FIGURE: Final = "scenario.svg"
_BLUE, _GREY = "#1f6feb", "#9aa4ae"


def write_page(outcome: Outcome, page: Path, references: str = "") -> bool:
    """Write the page, with the figure beside it under its name; returns whether there is a figure.

    Raises:
        OSError: they cannot be written.
    """
    figure = page.with_suffix(".svg")
    drawn = draw(outcome, figure)
    page.write_text(text(outcome, figure.name if drawn else None, references), encoding="utf-8")
    return drawn


def text(outcome: Outcome, figure: str | None, references: str = "") -> str:
    """The page as Markdown. `references` are further paragraphs, before the data's terms."""
    scenario, shape = outcome.scenario, outcome.scenario.tree()
    parts = [f"# {scenario.title}\n\n{scenario.story.strip()}\n"]
    if figure:
        parts.append(f"![What each round's model reached, and each device alone beside the fleet]({figure})\n")
    parts.append(
        f"{outcome.measure.title} after {outcome.rounds} rounds, {len(scenario.devices)} devices below "
        f"{len(shape.gateways)} gateway{'s' if len(shape.gateways) > 1 else ''}, seed {scenario.run.seed}:\n"
    )
    heads = ("model", *(f"on {test}" for test in outcome.tests))
    parts.append(markdown(heads, rows(outcome, outcome.measure)))
    if outcome.by_device:
        parts.append(f"{spread_measure_of(outcome.scenario).title} over the devices, mean and worst tenth:\n")
        parts.append(markdown(SPREAD_HEADS, spread_rows(outcome)))
    if AUC in outcome.measures:
        parts.append("Alarms, alone by one's own threshold, and the fleet by the federated one:\n")
        parts.append(markdown(ALARM_HEADS, alarm_rows(outcome)))
    parts += [references] if references else []
    commands = [*(f"headwater data prepare {name}" for name in scenario.prepared), f"headwater demo {scenario.name}"]
    parts.append("Run it:\n\n```sh\n" + "\n".join(commands) + "\n```\n")
    for name in scenario.prepared:
        data = CATALOGUE[name]
        parts.append(f"Data: {data.source}.\nPackage: `{data.requirement}`. Licence: {data.licence}.\n")
    return "\n".join(parts)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, its first column left and the rest right."""
    shown = [heads, ["---", *["---:"] * (len(heads) - 1)], *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in shown)


def draw(outcome: Outcome, file: Path) -> bool:
    """The figure as SVG; False where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return False
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "headwater", "font.size": 9}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        over_rounds, beside = figure.subplots(1, 2)
        over_rounds.plot(range(1, len(outcome.curve) + 1), outcome.curve, color=_BLUE)
        is_classifier = outcome.measure.name == "accuracy"
        over_rounds.set(xlabel="round", ylabel="accuracy" if is_classifier else "loss")
        over_rounds.set_title("on the devices' test parts")
        if not is_classifier:
            over_rounds.set_yscale("log")
        # Where all tell anomalies apart, what differs is whom they cry wolf at.
        measure = FALSE_ALARMS if outcome.measure == AUC else outcome.measure
        places = range(len(outcome.tests))
        alone = [outcome.alone_mean(test, measure) * measure.scale for test in outcome.tests]
        fleet = [outcome.fleet[test][measure.name] * measure.scale for test in outcome.tests]
        for shift, values, colour, label in ((-0.2, alone, _GREY, ALONE), (0.2, fleet, _BLUE, FLEET)):
            bars = beside.bar([place + shift for place in places], values, 0.38, color=colour, label=label)
            beside.bar_label(bars, [f"{value:.{measure.decimals}f}" for value in values])
        beside.set_xticks(list(places), outcome.tests)
        beside.set(title=measure.title[0].upper() + measure.title[1:], ylim=(0, max(*alone, *fleet) * 1.35 or 1.0))
        beside.legend(loc="upper center", ncols=2, frameon=False)
        for axes in (over_rounds, beside):
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, metadata={"Date": None})
    return True
