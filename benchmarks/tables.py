"""Law: a table for people is its cells, right-aligned under their heads, two spaces apart; a figure is drawn alike each
time.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of as many cells each, the heads first, as one text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def spread(values: Sequence[float], digits: int) -> str:
    """`median (least–largest)`, or the one value."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"


@contextmanager
def plain_svg() -> Iterator[Any]:
    """matplotlib's pyplot, writing text as text, and nothing that differs from one drawing to the next."""
    from matplotlib import pyplot, rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "headwater"}):
        yield pyplot
