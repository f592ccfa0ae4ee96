"""Law: all are alike: uniformly without replacement (McMahan et al. 2017, algorithm 1)."""

from headwater.core.select.candidate import Draw


def prefer(draw: Draw) -> tuple[str, ...]:
    found = draw.rng.choice(len(draw.candidates), size=draw.places, replace=False)
    return tuple(draw.candidates[i].name for i in found)
