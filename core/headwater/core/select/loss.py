"""Law: of some who were drawn by their examples, those with the highest last known loss (power-of-choice).

    A ← d of all, without replacement, with probability pₖ = the share of k in the examples
    S ← the m of A with the largest F̂ₖ

Cho, Wang & Joshi 2020, section 4, the variant rpow-d: F̂ₖ is the mean loss over the local steps when k last trained, and
infinite for who never did. So no message more is sent than without. d is `candidates` times m.
"""

from headwater.core.select.candidate import Candidate, Draw
from headwater.core.select.lottery import drawn, examples_of
from headwater.core.select.shares import share_of


def prefer(draw: Draw) -> tuple[str, ...]:
    count = min(len(draw.candidates), share_of(draw.places, draw.selection.candidates))
    pool = [draw.candidates[i] for i in drawn(examples_of(draw.candidates), count, draw.rng)]
    # In the order in which they were drawn, so chance decides between equals.
    return tuple(candidate.name for candidate in sorted(pool, key=_last_known, reverse=True)[: draw.places])


def _last_known(candidate: Candidate) -> float:
    return float("inf") if candidate.loss is None else candidate.loss
