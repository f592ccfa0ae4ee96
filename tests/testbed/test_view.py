"""A run as a terminal shows it: what each parent is doing, by a name that people count by; else a line a round."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from headwater.schemas.statuses import RoundStatus
from headwater.testbed.observer import Observer
from headwater.testbed.tree import Tree
from headwater.testbed.view import View

TREE = Tree("plant", {"hall": ("pump-1", "pump-2")}, {})


def status(**given: Any) -> RoundStatus:
    about = {"parent": "hall", "run": "r", "round": 7, "step": 0, "attempt": 0, "task": "train", "state": "open"}
    members = [{"node": "pump-1", "state": "received"}, {"node": "pump-2", "state": "waiting"}]
    counts = {"cohort": 2, "received": 1, "refused": 0, "metrics": {}, "members": members}
    return RoundStatus.model_validate({**about, **counts, **given}, strict=False)


def shown(*, terminal: bool, cluster: RoundStatus, closed: RoundStatus | None = None) -> str:
    output = io.StringIO()
    observer = Observer(TREE.fleet, {})
    observer.clusters["hall"] = cluster
    observer.closed.extend([closed] if closed else [])
    with View(TREE, observer, 10, Console(file=output, force_terminal=terminal, width=110)) as view:
        view.look()
    return Text.from_ansi(output.getvalue()).plain


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({}, "hall  round 7  1/2 in", id="a round"),
        pytest.param({"step": 2}, "hall  round 7.2  1/2 in", id="an edge round"),
        pytest.param({"task": "evaluate"}, "hall  measures the model  1/2 in", id="behind the last round"),
        pytest.param({"task": "statistics"}, "hall  gathers statistics  1/2 in", id="before the first"),
    ],
)
def test_a_terminal_shows_what_a_parent_is_doing(given: dict[str, Any], words: str) -> None:
    picture = shown(terminal=True, cluster=status(**given))
    assert words in picture
    assert "● pump-1  ◌ pump-2" in picture


def test_without_a_terminal_a_closed_round_is_one_line() -> None:
    closed = status(state="closed", received=2, devices=2, metrics={"train/loss": 0.25, "test/correct": 0.9})
    assert shown(terminal=False, cluster=status(), closed=closed).splitlines() == [
        "round   7 train      closed  2/2 in, 2 devices  loss 0.2500  accuracy 0.9000  0 B down, 0 B up  0.00 s"
    ]
