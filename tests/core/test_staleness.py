"""What an old update counts, and FedAsync's step, worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.core.aggregate import moved
from headwater.core.staleness import discount, mixed


@pytest.mark.parametrize(
    ("staleness", "exponent", "counts"),
    [
        pytest.param(0, 0.5, 1.0, id="of the current model"),
        pytest.param(3, 0.5, 0.5, id="FedBuff's square root"),
        pytest.param(8, 0.5, 1 / 3, id="FedBuff's square root, later"),
        pytest.param(4, 1.0, 0.2, id="by its versions"),
        pytest.param(1, 2.0, 0.25, id="steep"),
        pytest.param(1000, 0.0, 1.0, id="age does not matter"),
    ],
)
def test_what_an_update_counts(staleness: int, exponent: float, counts: float) -> None:
    assert discount(staleness, exponent) == pytest.approx(counts, abs=1e-15)


@given(st.integers(0, 1000), st.floats(0, 10))
def test_an_older_update_never_counts_more_and_always_something(staleness: int, exponent: float) -> None:
    assert 0 < discount(staleness + 1, exponent) <= discount(staleness, exponent) <= 1


def test_a_stale_update_is_mixed_in_where_it_began() -> None:
    # The device began at 1, moved by 2 to 3, while the model went on to 5: a quarter of the way from 5 to 3 is 4.5.
    current, base, delta = ([np.array([value], np.float32)] for value in (5, 1, 2))
    step = mixed(current, base, delta, 0.25)
    assert step[0].dtype == np.float64
    assert step[0].tolist() == [-0.5]
    assert moved(current, step)[0].tolist() == [4.5]


def test_each_tensor_is_mixed_by_itself() -> None:
    current = [np.array([[0.0, 2.0]]), np.array(10.0)]
    base = [np.array([[0.0, 1.0]]), np.array(10.0)]
    delta = [np.array([[4.0, 1.0]]), np.array(-10.0)]
    step = mixed(current, base, delta, 0.5)
    assert [tensor.tolist() for tensor in step] == [[[2.0, 0.0]], -5.0]


def test_float32_parameters_are_subtracted_in_float64() -> None:
    # 1 + 2^-24 does not exist in float32; its difference to 1 is what the update is.
    one, tiny = np.array([1], np.float32), np.array([2.0**-24], np.float32)
    assert mixed([one], [one], [tiny], 1.0)[0].tolist() == [2.0**-24]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: discount(-1, 0.5), "staleness"),
        (lambda: discount(1, -0.5), "exponent"),
        (lambda: discount(1, float("nan")), "exponent"),
        (lambda: mixed([np.zeros(1)], [np.zeros(1)], [np.zeros(1)], 0.0), "alpha"),
        (lambda: mixed([np.zeros(1)], [np.zeros(1)], [np.zeros(1)], 1.5), "alpha"),
        (lambda: mixed([np.zeros(2)], [np.zeros(1)], [np.zeros(2)], 0.5), "shapes"),
        (lambda: mixed([np.zeros(2)], [np.zeros(2)], [], 0.5), "shapes"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call: object, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        call()  # type: ignore[operator]
