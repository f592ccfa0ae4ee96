"""Each planted bug is caught by its checker; without it the same worlds are well."""

import pytest

from sim.checkers import CHECKERS, judged
from sim.planted import BUGS
from sim.scenario import scenario
from sim.world import run_world


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str) -> None:
    planted = BUGS[name]
    caught: dict[int, list[str]] = {}
    for seed in planted.seeds:
        with planted.grown():
            caught[seed] = list(judged(run_world(scenario(seed))))
        if planted.checker in caught[seed]:
            break
    assert planted.checker in caught[seed], f"{name}: {planted.checker} saw nothing in {caught}"
    assert judged(run_world(scenario(seed))) == {}


def test_every_checker_has_a_bug_that_it_must_catch() -> None:
    assert {planted.checker for planted in BUGS.values()} == set(CHECKERS)
