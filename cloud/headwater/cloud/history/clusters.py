"""Law: a cluster's round that has ended is written down once, under a run that its fleet has, however often it is told.

What a gateway tells is for people. It decides nothing, and what of it is no part of a known run is passed over.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import insert, update
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.nodes import meet
from headwater.cloud.history.rows import MEMBER_FIELDS
from headwater.cloud.history.transactions import Transactions
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import RoundStatus

AT_ONCE: Final = 500
"""Names in one statement."""

ANSWERED: Final = ("received", "refused")
"""The states of a member from which something was heard in the round."""


class ClusterRounds(Transactions):
    """The named transactions of clusters' rounds and their members."""

    def record(self, fleet: str, statuses: Sequence[RoundStatus], now: datetime) -> int:
        """Those that are new, have ended and belong to a run of this fleet; how many those were."""
        with self._leading("record cluster rounds") as session:
            return sum(_record(session, fleet, status, now) for status in statuses)


def _record(session: Session, fleet: str, status: RoundStatus, now: datetime) -> bool:
    key = {
        "run": status.run,
        "round": status.round,
        "gateway": status.parent,
        "step": status.step,
        "attempt": status.attempt,
        "task": status.task,
    }
    run = session.get(tables.Run, status.run)
    if run is None or run.fleet != fleet or status.state == "open" or not _is_of(run, status):
        return False
    if session.get(tables.ClusterRound, tuple(key.values())) is not None:
        return False
    session.add(
        tables.ClusterRound(
            **key,
            state=status.state,
            examples=status.examples,
            devices=status.devices,
            recorded_at=now,
            status=status.model_dump_json(exclude={"members"}),
        )
    )
    session.flush()
    # A gateway that tells one twice is no reason to end.
    members = {member.node: key | _member(member.model_dump()) for member in status.members}
    if members:
        session.execute(insert(tables.ClusterMember), list(members.values()))
    _remember_nodes(session, fleet, status, now)
    return True


def _is_of(run: tables.Run, status: RoundStatus) -> bool:
    """A run has so many rounds, and one that measures; what is beyond nobody asked for, and it would fill a disk."""
    asked = RunDescription.model_validate_json(run.description)
    return (
        status.round <= asked.rounds + 1 and status.attempt < asked.cohort.attempts and status.step < asked.edge_rounds
    )


def _member(told: dict[str, Any]) -> dict[str, Any]:
    nothing = {"after_s": None, "loss": None, "train_s": None, "size_bytes": 0}
    return nothing | {name: told[name] for name in MEMBER_FIELDS if name in told}


def _remember_nodes(session: Session, fleet: str, status: RoundStatus, now: datetime) -> None:
    """Who is below a gateway is known from its rounds alone; who speaks to the cloud too says more of itself."""
    heard = [member.node for member in status.members if member.state in ANSWERED]
    _meet(session, fleet, {status.parent: "gateway"}, None, now)
    _meet(session, fleet, {member.node: "device" for member in status.members}, status.parent, now)
    for start in range(0, len(heard), AT_ONCE):
        mine = (tables.Node.fleet == fleet) & tables.Node.node.in_(heard[start : start + AT_ONCE])
        of_rounds = mine & (tables.Node.state == "")
        session.execute(update(tables.Node).where(of_rounds).values(parent=status.parent))
        session.execute(update(tables.Node).where(mine).values(last_seen_at=now))


def _meet(session: Session, fleet: str, roles: dict[str, str], parent: str | None, now: datetime) -> None:
    """Rows for those who have none."""
    seen = {"fleet": fleet, "parent": parent, "state": "", "software": "", "first_seen_at": now, "last_seen_at": now}
    if roles:
        meet(session, [{**seen, "node": name, "role": role} for name, role in sorted(roles.items())])
