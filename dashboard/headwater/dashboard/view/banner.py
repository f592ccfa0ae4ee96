"""Law: what is missing from the picture is said on top of it, by name, since when, and what happens now."""

from dataclasses import dataclass
from datetime import tzinfo

from headwater.dashboard.view.state import Fleet
from headwater.dashboard.view.words import clock


@dataclass(frozen=True, slots=True)
class Trouble:
    """What the history's API cannot do just now; `words` go on from its name."""

    where: str
    words: str
    since: float


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
        since = f" since {clock(cloud.since, zone, now=now)}" if cloud.since is not None else ""
        said.append(
            f"The coordinator {fleet.cloud} is away{since}. Devices keep what they have; the same round goes "
            "on when it, or a standby, is back."
        )
    if history is not None:
        said.append(f"The history ({history.where}) {history.words}; since {clock(history.since, zone, now=now)}.")
    return tuple(said)
