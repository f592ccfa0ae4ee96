"""Law: the round history is the one truth of a run; every change of it is one named transaction.

tables.py      what is kept, every column explained
records.py     what goes in and comes out: frozen values, never rows
history.py     the named transactions
opening.py     engines, migrations, and what is wrong with a database
migrations/    Alembic's steps
"""

from headwater.cloud.history.history import History
from headwater.cloud.history.opening import open_history
from headwater.cloud.history.records import ClosedRound, RoundRecord, RunRecord

__all__ = [
    "ClosedRound",
    "History",
    "RoundRecord",
    "RunRecord",
    "open_history",
]
