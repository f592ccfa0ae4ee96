"""Law: a child is as likely as it has examples.

Li et al. 2020, section 3.3, scheme I, without putting back. Their mean of those chosen is plain, each 1/K, which makes
it one of the whole fleet's in expectation. Here the mean still weighs by examples, as everywhere in the tree, so that
a large child counts twice: it is asked more often, and weighs more when it is. The mean leans towards the large, in the
limit of small cohorts by pᵢ²/Σpⱼ² instead of pᵢ. Take `uniform` where that is not meant.
"""

from headwater.core.select.candidate import Draw
from headwater.core.select.lottery import drawn, examples_of


def prefer(draw: Draw) -> tuple[str, ...]:
    found = drawn(examples_of(draw.candidates), draw.places, draw.rng)
    return tuple(draw.candidates[i].name for i in found)
