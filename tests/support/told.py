"""What nodes tell people, as a dashboard hears it."""

from headwater.dashboard.view.fold import Message, take
from headwater.dashboard.view.state import Fleet
from headwater.schemas.statuses import Event, EventData, MemberStatus, NodeStatus, RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status

TOPICS = Topics("plant")


def heard(*told: tuple[float, Message], fleet: Fleet | None = None) -> Fleet:
    """A fleet behind messages with their times."""
    known = fleet or Fleet()
    for now, message in told:
        known = take(known, TOPICS, message, now)
    return known


def node(
    name: str,
    parent: str | None = "gw",
    *,
    state: str = "online",
    role: str = "device",
    boot: str = "b1",
    retained: bool = False,
    **told: object,
) -> Message:
    named = {"node": name, "role": role, "parent": parent, "state": state, "boot": boot}
    status = NodeStatus.model_validate(named | told)
    return Message(TOPICS.status(name), encode_status(status), retained)


def run(state: str = "running", round_: int = 1, *, name: str = "r1", retained: bool = False) -> Message:
    told = RunStatus.model_validate({"run": name, "name": "wear", "state": state, "round": round_, "rounds": 9})
    return Message(TOPICS.run, encode_status(told), retained)


def round_status(parent: str, number: int, state: str = "open", **changes: object) -> RoundStatus:
    common: dict[str, object] = {
        "parent": parent,
        "run": "r1",
        "round": number,
        "step": 0,
        "attempt": 0,
        "task": "train",
        "state": state,
        "cohort": 2,
        "received": 0,
        "refused": 0,
    }
    return RoundStatus.model_validate(common | changes)


def member(name: str, state: str = "waiting", examples: int = 0, **told: object) -> MemberStatus:
    return MemberStatus.model_validate({"node": name, "state": state, "examples": examples} | told)


def at_cloud(status: RoundStatus, *, retained: bool = False) -> Message:
    return Message(TOPICS.round, encode_status(status), retained)


def at_gateway(status: RoundStatus, *, retained: bool = False) -> Message:
    return Message(TOPICS.cluster(status.parent), encode_status(status), retained)


def event(kind: str, about: str, at: str = "2026-01-01T00:00:10Z", writer: str = "cloud", **data: object) -> Message:
    told = Event.model_validate(
        {
            "id": f"{kind}-{about}-{at}",
            "source": f"/hw/plant/{writer}",
            "type": f"headwater.{kind}",
            "subject": about,
            "time": at,
            "data": EventData.model_validate(data),
        }
    )
    return Message(TOPICS.event(writer), encode_status(told), False)
