"""Law: whoever was not asked for longest is next, so that all are asked equally often; chance orders equals."""

from headwater.core.select.candidate import Draw
from headwater.core.select.lottery import longest_waiting


def prefer(draw: Draw) -> tuple[str, ...]:
    return longest_waiting(draw.candidates, draw.places, draw.rng)
