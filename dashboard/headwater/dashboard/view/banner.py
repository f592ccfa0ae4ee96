"""Law: what is missing from the picture is said on top of it, by name, since when, and what happens now."""

from dataclasses import dataclass
from datetime import tzinfo

from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.words import clock


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the history's API does not answer: it is away, or (`refuses`) `why` is what it said instead."""

    where: str
    why: str
    since: float
    refuses: bool = False


def problems(fleet: Fleet, history: Trouble | None, zone: tzinfo, now: float) -> tuple[str, ...]:
    """One sentence for each thing that is away; none where all is well."""
    said = []
    for link in fleet.links.values():
        if link.state == "away":
            since = clock(link.since, zone, now=now)
            said.append(
                f"Broker {link.name} ({link.where}) has been away since {since}. What is shown of it is what was heard "
                "until then; it is tried again all the time."
            )
        elif link.state == "refused":
            said.append(f"Broker {link.name}: {link.problem}")
    cloud = fleet.nodes.get(fleet.cloud)
    if cloud is not None and cloud.status.state == "offline":
        away = f"has been away since {clock(cloud.since, zone, now=now)}" if cloud.since is not None else "is away"
        said.append(
            f"The coordinator {fleet.cloud} {away}. Devices keep what they have; the same round goes on when it, or a "
            "standby, is back."
        )
    if history is not None:
        since = clock(history.since, zone, now=now)
        said.append(
            f"The history ({history.where}) has not answered since {since}: {history.why}."
            if history.refuses
            else f"The history ({history.where}) has been away since {since} ({history.why}). What was heard is "
            "shown, and it is asked again."
        )
    return tuple(said)
