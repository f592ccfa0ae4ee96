"""Who is asked in a round, and how many answers complete it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.select import chosen
from headwater.schemas.messages import RoundKey

KEY = RoundKey(run="r", round=1)
TEN = [f"d{number}" for number in range(1, 11)]


@pytest.mark.parametrize(
    ("members", "fraction", "over_selection", "asked", "needed"),
    [
        pytest.param(10, 0.5, 0.0, 5, 5, id="nobody more than needed"),
        pytest.param(10, 0.5, 0.3, 7, 5, id="13 tenths of five are seven"),
        pytest.param(10, 0.1, 0.3, 2, 1, id="one more at least"),
        pytest.param(10, 0.3, 0.0, 3, 3, id="0.3 of ten is three, not four"),
        pytest.param(10, 0.8, 0.3, 10, 8, id="no more than there are"),
        pytest.param(10, 0.01, 9.0, 1, 1, id="ten times next to nothing"),
        pytest.param(1, 0.5, 0.5, 1, 1, id="one alone"),
        pytest.param(0, 0.5, 0.5, 0, 0, id="nobody there"),
    ],
)
def test_how_many_are_asked_and_how_many_needed(
    members: int, fraction: float, over_selection: float, asked: int, needed: int
) -> None:
    found = chosen(TEN[:members], fraction, over_selection, 7, KEY)
    assert found.cohort is not None
    assert (len(found.cohort), found.needed) == (asked, needed)


def test_everyone_is_a_cohort_that_latecomers_belong_to() -> None:
    assert chosen(TEN, 1.0, 0.0, 7, KEY) == (None, 10)


def test_a_resumed_run_chooses_whom_it_chose_before() -> None:
    """Kept from the first release: a run that goes on under a new one asks the same children."""
    assert chosen(TEN, 0.3, 0.0, 7, KEY) == ({"d6", "d8", "d9"}, 3)
    assert chosen(TEN, 0.3, 0.0, 7, RoundKey(run="r", round=2, step=1, attempt=1)) == ({"d1", "d9", "d10"}, 3)


@given(st.sets(st.sampled_from(TEN)), st.floats(0.01, 0.99), st.floats(0, 9), st.integers(0, 9))
def test_more_are_asked_than_needed_and_none_that_is_not_there(
    members: set[str], fraction: float, over_selection: float, seed: int
) -> None:
    found = chosen(members, fraction, over_selection, seed, KEY)
    assert found.cohort is not None
    assert found.cohort <= members
    assert found.needed <= len(found.cohort)
    assert math.isclose(found.needed, fraction * len(members), abs_tol=1.0)
    assert found == chosen(sorted(members), fraction, over_selection, seed, KEY)
    without = chosen(members, fraction, 0.0, seed, KEY)
    assert len(without.cohort or ()) == without.needed == found.needed


@pytest.mark.parametrize(("fraction", "over_selection", "field"), [(0.0, 0.0, "fraction"), (0.5, -0.1, "over_sel")])
def test_what_chooses_nobody_is_refused_by_name(fraction: float, over_selection: float, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        chosen(TEN, fraction, over_selection, 7, KEY)
