"""Each planted bug is caught by its checker; without it the same worlds are well."""

from itertools import islice
from typing import Final

import pytest

from sim.checkers import CHECKERS, judged
from sim.planted import BUGS
from sim.scenario import scenario
from sim.world import run_world

SEARCHED: Final = 60
"""Where a change has moved a bug out of the worlds that it is known to show in, others like them are looked through."""

DRAWN: Final = 2000


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str) -> None:
    planted = BUGS[name]
    others = (seed for seed in range(DRAWN) if planted.where(scenario(seed)))
    for seed in dict.fromkeys((*planted.seeds, *islice(others, SEARCHED))):
        with planted.grown():
            said = judged(run_world(scenario(seed)))
        if planted.checker in said:
            break
    assert planted.checker in said, f"{name}: {planted.checker} saw nothing in {SEARCHED} worlds"
    assert judged(run_world(scenario(seed))) == {}


def test_every_checker_has_a_bug_that_it_must_catch() -> None:
    assert {planted.checker for planted in BUGS.values()} == set(CHECKERS)
