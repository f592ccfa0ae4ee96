"""How a round's time was spent, worked by hand; and whatever children say, the parts make the whole."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.times import Spent, times
from headwater.schemas.statuses import Times


@pytest.mark.parametrize(
    ("elapsed_s", "children", "expected"),
    [
        pytest.param(10.0, [], None, id="nobody says"),
        pytest.param(
            10.0, [Spent(10.0, 7.0)], Times(train_s=7.0, transfer_s=3.0, wait_s=0.0), id="one, for whom nobody waited"
        ),
        pytest.param(
            10.0,
            [Spent(4.0, 1.0), Spent(10.0, 8.0)],
            Times(train_s=4.5, transfer_s=2.5, wait_s=3.0),
            id="the quick one waits for the slow one",
        ),
        pytest.param(
            10.0, [Spent(8.0, 3.0, 4.0)], Times(train_s=3.0, transfer_s=1.0, wait_s=6.0), id="waiting below is waiting"
        ),
        pytest.param(
            10.0,
            [Spent(2.0, 9.0, 9.0)],
            Times(train_s=2.0, transfer_s=0.0, wait_s=8.0),
            id="begun before the round was",
        ),
        pytest.param(
            10.0,
            [Spent(12.0, -1.0)],
            Times(train_s=0.0, transfer_s=10.0, wait_s=0.0),
            id="clocks that are out of joint",
        ),
    ],
)
def test_known_answers(elapsed_s: float, children: list[Spent], expected: Times | None) -> None:
    assert times(elapsed_s, children) == expected


said = st.floats(-1e100, 1e100)


@given(st.floats(0, 1e6), st.lists(st.builds(Spent, st.floats(0, 1e6), said, said), min_size=1, max_size=20))
def test_the_parts_make_the_whole_and_none_is_negative(elapsed_s: float, children: list[Spent]) -> None:
    told = times(elapsed_s, children)
    assert told is not None
    parts = (told.train_s, told.transfer_s, told.wait_s)
    assert min(parts) >= 0
    assert math.isclose(sum(parts), elapsed_s, rel_tol=1e-9, abs_tol=1e-9)
