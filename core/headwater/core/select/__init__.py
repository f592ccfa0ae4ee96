"""Law: who takes part follows from the members, what is known of each, the plan's rule and the plan's seed; no more.

cohort.py      how many are asked, and the floor that every rule has
candidate.py   what is known of a child; a draw
lottery.py     to draw by weights, and who waited longest
rules.py       the rules by their names, one module each:
uniform.py   examples.py   loss.py   diversity.py   utility.py   turns.py
"""

from headwater.core.select.candidate import Candidate, Situation
from headwater.core.select.cohort import EVERYONE, Chosen, chosen, in_their_place
from headwater.core.select.shares import share_of

__all__ = ["EVERYONE", "Candidate", "Chosen", "Situation", "chosen", "in_their_place", "share_of"]
