"""Law: waits are spread over their whole window, windows double up to the bound, and only what lasted begins anew."""

import random

from hypothesis import given
from hypothesis import strategies as st

from headwater.transport.backoff import FIRST_WINDOW_S, Backoff

lasted = st.floats(0, 1e6, allow_nan=False)


def behind(failures: int, max_s: float = 30.0) -> Backoff:
    backoff = Backoff(max_s)
    for _ in range(failures):
        backoff = backoff.after(0.0)
    return backoff


def test_windows_double_up_to_the_bound() -> None:
    assert [behind(n).window_s for n in range(1, 8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_thousand_clients_of_one_broker_come_back_evenly_over_the_first_window() -> None:
    rng, backoff = random.Random(0), Backoff(30.0).after(3600.0)
    waits_s = [backoff.wait_s(rng.random()) for _ in range(1000)]
    tenths = [sum(k <= 10 * wait_s / FIRST_WINDOW_S < k + 1 for wait_s in waits_s) for k in range(10)]
    # 100 in each are expected; 5 standard deviations are 47.
    assert sum(tenths) == 1000
    assert 53 < min(tenths) <= max(tenths) < 147


def test_a_late_attempt_is_spread_from_zero_to_the_whole_window() -> None:
    rng, backoff = random.Random(1), behind(9)
    waits_s = [backoff.wait_s(rng.random()) for _ in range(1000)]
    assert min(waits_s) < 0.3
    assert max(waits_s) > 29.7
    assert abs(sum(waits_s) / 1000 - 15.0) < 1.5


def test_a_flapping_link_goes_on_doubling_and_a_sound_one_begins_anew() -> None:
    assert behind(4).after(29.0).window_s == behind(5).window_s
    assert behind(4).after(31.0) == behind(1)


def test_connections_that_did_not_last_are_counted_until_one_does() -> None:
    backoff = Backoff(30.0)
    counts = []
    for lasted_s in (0.0, 1.0, 0.0, 29.0, 5.0, 31.0, 2.0):
        backoff = backoff.after(lasted_s)
        counts.append(backoff.cut_short)
    assert counts == [0, 1, 1, 2, 3, 0, 1]


def test_two_clients_of_one_name_leave_each_other_the_longest_window() -> None:
    backoff = Backoff(30.0).after(3600.0, taken_over=True)
    assert backoff.window_s == 30.0
    # Each comes back within the bound, so neither's connection outlives it and neither begins anew.
    assert backoff.after(30.0).window_s == 30.0


@given(st.lists(lasted, max_size=200), st.floats(0.01, 3600), st.floats(0, 1, exclude_max=True))
def test_no_wait_is_beyond_the_bound_whatever_happened(ends: list[float], max_s: float, chance: float) -> None:
    backoff = Backoff(max_s)
    for lasted_s in ends:
        backoff = backoff.after(lasted_s)
        assert 0 <= backoff.wait_s(chance) <= max_s
        assert backoff.failures <= 32
