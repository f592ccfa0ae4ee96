"""Law: a rule is one function, from a draw to as many different names of its candidates as it has places."""

from collections.abc import Callable, Mapping
from typing import Final

from headwater.core.select import diversity, examples, loss, turns, uniform, utility
from headwater.core.select.candidate import Draw
from headwater.schemas.learning import SelectionRule

Rule = Callable[[Draw], tuple[str, ...]]

RULES: Final[Mapping[SelectionRule, Rule]] = {
    "uniform": uniform.prefer,
    "examples": examples.prefer,
    "loss": loss.prefer,
    "diversity": diversity.prefer,
    "utility": utility.prefer,
    "turns": turns.prefer,
}
