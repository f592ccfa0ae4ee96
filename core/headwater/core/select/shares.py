"""Law: a share of a number of children is rounded up, and its rounding never adds one."""

import math


def share_of(count: int, fraction: float) -> int:
    """`ceil(fraction * count)`, at least 1 of any: so many that the fraction is reached, whatever its rounding."""
    return max(1, math.ceil(fraction * count - 1e-9)) if count else 0


def places_of(count: int, fraction: float) -> int:
    """As `share_of`, for a fraction that may be nothing: then it is no place."""
    return share_of(count, fraction) if fraction else 0
