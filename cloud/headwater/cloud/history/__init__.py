"""Law: the round history is the one truth of a run; every change of it is one named transaction.

tables.py        what is kept, every column explained
records.py       what goes in and comes out: frozen values, never rows
lookups.py       what several transactions look up
rows.py          how a row becomes a record
transactions.py  a transaction, and the proof of who leads that a coordinator's writes begin with
states.py        what becomes of a run when somebody asks
history.py       the named transactions of runs, models and rounds
reading.py       those that only look, page by page
clusters.py      those of what gateways tell
leases.py        those by which one of several coordinators leads
journal.py       those of the open round
releases.py      those of the software that fleets run
faults.py        what a database says, in plain words
opening.py       engines, migrations, and what is wrong with a database
migrations/      Alembic's steps
"""

from headwater.cloud.history.faults import HistoryAway
from headwater.cloud.history.history import History
from headwater.cloud.history.leases import LeaseRecord, Leases
from headwater.cloud.history.opening import open_history
from headwater.cloud.history.records import ClosedRound, RoundRecord, RunRecord
from headwater.cloud.history.releases import ReleaseRecord, Releases
from headwater.cloud.history.transactions import Lease, LeaseLost

__all__ = [
    "ClosedRound",
    "History",
    "HistoryAway",
    "Lease",
    "LeaseLost",
    "LeaseRecord",
    "Leases",
    "ReleaseRecord",
    "Releases",
    "RoundRecord",
    "RunRecord",
    "open_history",
]
