"""Law: a cluster's round that has ended is written down once, under a run that its fleet has, however often it is told.

What a gateway tells is for people. It decides nothing, and what of it is no part of a known run is passed over.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import insert, select, tuple_, update
from sqlalchemy.orm import Session

from headwater.cloud.history import tables
from headwater.cloud.history.nodes import meet
from headwater.cloud.history.records import ClusterKey
from headwater.cloud.history.rows import MEMBER_FIELDS
from headwater.cloud.history.transactions import Transactions
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import RoundStatus

AT_ONCE: Final = 500
"""Names in one statement."""

_KEY: Final = tuple(getattr(tables.ClusterRound, column) for column in ClusterKey._fields)

ANSWERED: Final = ("received", "refused")
"""The states of a member from which something was heard in the round."""


class ClusterRounds(Transactions):
    """The named transactions of clusters' rounds and their members."""

    def record(self, fleet: str, statuses: Sequence[RoundStatus], now: datetime) -> int:
        """Those that are new, have ended and belong to a run of this fleet; how many those were."""
        with self._leading("record cluster rounds") as session:
            told = _new(session, fleet, statuses)
            if told:
                _write(session, told, now)
                for gateway in dict.fromkeys(status.parent for status in told.values()):
                    _remember_nodes(session, fleet, [one for one in told.values() if one.parent == gateway], now)
            return len(told)


def _new(session: Session, fleet: str, statuses: Sequence[RoundStatus]) -> dict[ClusterKey, RoundStatus]:
    runs = session.scalars(select(tables.Run).where(tables.Run.id.in_({status.run for status in statuses})))
    asked = {run.id: RunDescription.model_validate_json(run.description) for run in runs if run.fleet == fleet}
    told = {
        ClusterKey.of(status): status
        for status in statuses
        if status.state != "open" and status.run in asked and _is_of(asked[status.run], status)
    }
    for key in session.execute(select(*_KEY).where(tuple_(*_KEY).in_(told))):
        del told[ClusterKey(*key)]
    return told


def _is_of(asked: RunDescription, status: RoundStatus) -> bool:
    """A run has so many rounds, and one that measures; what is beyond nobody asked for, and it would fill a disk."""
    return (
        status.round <= asked.rounds + 1 and status.attempt < asked.cohort.attempts and status.step < asked.edge_rounds
    )


def _write(session: Session, told: Mapping[ClusterKey, RoundStatus], now: datetime) -> None:
    rounds: list[dict[str, Any]] = []
    members: list[dict[str, Any]] = []
    for key, status in told.items():
        columns = key._asdict()
        counted = {"state": status.state, "examples": status.examples, "devices": status.devices}
        rounds.append(columns | counted | {"recorded_at": now, "status": status.model_dump_json(exclude={"members"})})
        # A gateway that tells one twice is no reason to end.
        members += {member.node: columns | _member(member.model_dump()) for member in status.members}.values()
    session.execute(insert(tables.ClusterRound), rounds)
    if members:
        session.execute(insert(tables.ClusterMember), members)


def _member(told: dict[str, Any]) -> dict[str, Any]:
    nothing = {"after_s": None, "loss": None, "train_s": None, "size_bytes": 0}
    return nothing | {name: told[name] for name in MEMBER_FIELDS if name in told}


def _remember_nodes(session: Session, fleet: str, told: Sequence[RoundStatus], now: datetime) -> None:
    """Who is below a gateway is known from its rounds alone; who speaks to the cloud too says more of itself."""
    gateway = told[0].parent
    members = [member for status in told for member in status.members]
    heard = sorted({member.node for member in members if member.state in ANSWERED})
    _meet(session, fleet, {gateway: "gateway"}, None, now)
    _meet(session, fleet, {member.node: "device" for member in members}, gateway, now)
    for start in range(0, len(heard), AT_ONCE):
        mine = (tables.Node.fleet == fleet) & tables.Node.node.in_(heard[start : start + AT_ONCE])
        of_rounds = mine & (tables.Node.state == "")
        session.execute(update(tables.Node).where(of_rounds).values(parent=gateway))
        session.execute(update(tables.Node).where(mine).values(last_seen_at=now))


def _meet(session: Session, fleet: str, roles: dict[str, str], parent: str | None, now: datetime) -> None:
    """Rows for those who have none."""
    seen = {"fleet": fleet, "parent": parent, "state": "", "software": "", "first_seen_at": now, "last_seen_at": now}
    if roles:
        meet(session, [{**seen, "node": name, "role": role} for name, role in sorted(roles.items())])
