"""Law: every topic is built and parsed here, once; a node writes only below its own name.

hw/1/<fleet>/node/<node>/status                 retained JSON: birth, last will
hw/1/<fleet>/node/<node>/predictions            JSON: what the node's model says of its live data, where it may
hw/1/<fleet>/node/<node>/up/<parent>/delta      chunks of a Delta
hw/1/<fleet>/node/<node>/up/<parent>/want       missing chunks, please
hw/1/<fleet>/node/<node>/up/<parent>/refusal    this plan cannot be followed
hw/1/<fleet>/node/<node>/up/<parent>/offer      a delta is ready, tell me when to send it
hw/1/<fleet>/node/<node>/up/<parent>/alive      a child's sign of life
hw/1/<fleet>/node/<node>/inbox/receipt          your delta is in the round
hw/1/<fleet>/node/<node>/inbox/refusal          your delta was not taken
hw/1/<fleet>/node/<node>/inbox/want             missing chunks of your delta, please
hw/1/<fleet>/node/<node>/inbox/chunk            the chunks that you asked for
hw/1/<fleet>/node/<parent>/down/announcement    retained: the open round
hw/1/<fleet>/node/<parent>/down/chunk           models and graphs, for the whole cohort at once
hw/1/<fleet>/node/<parent>/down/alive           a parent's sign of life
hw/1/<fleet>/node/<parent>/down/release         retained: what software the devices below should run
hw/1/<fleet>/rounds/run                         retained JSON for people: the run
hw/1/<fleet>/rounds/round                       retained JSON for people: its round
hw/1/<fleet>/rounds/cluster/<gateway>           retained JSON for people: a cluster's round
hw/1/<fleet>/rounds/event/<node>                JSON for people: what happened, as the cloud or a gateway saw it
hw/1/<fleet>/enrol/<token>/request              who has this one-time token asks for a node's certificate
hw/1/<fleet>/enrol/<token>/answer               the certificate, or why not
"""

import re
from typing import Final, Literal

from headwater.schemas.base import Frozen
from headwater.schemas.patterns import IN_WORDS, NAME

ROOT: Final = "hw/1"
_NAME: Final = re.compile(NAME)

Up = Literal["delta", "want", "refusal", "offer", "alive"]
Inbox = Literal["receipt", "refusal", "want", "chunk"]
Down = Literal["announcement", "chunk", "alive", "release"]
Enrolment = Literal["request", "answer"]
UP: Final[tuple[Up, ...]] = ("delta", "want", "refusal", "offer", "alive")
INBOX: Final[tuple[Inbox, ...]] = ("receipt", "refusal", "want", "chunk")
DOWN: Final[tuple[Down, ...]] = ("announcement", "chunk", "alive", "release")
ENROLMENT: Final[tuple[Enrolment, ...]] = ("request", "answer")


class NodeTopic(Frozen):
    """A parsed topic below a node. `parent` is empty except on the way up."""

    fleet: str
    node: str
    branch: Literal["status", "echo", "predictions", "up", "inbox", "down"]
    leaf: str = ""
    parent: str = ""


def _level(value: str, what: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{what}: {value!r} cannot be a topic level; {IN_WORDS[NAME]}")
    return value


class Topics:
    """The topics of one fleet. `+` as a node is only for subscriptions.

    Raises:
        ValueError: a fleet or node name that cannot be one level of a topic.
    """

    def __init__(self, fleet: str) -> None:
        self.fleet = fleet
        self._base = f"{ROOT}/{_level(fleet, 'fleet')}"

    def _node(self, node: str) -> str:
        return f"{self._base}/node/{node if node == '+' else _level(node, 'node')}"

    def status(self, node: str = "+") -> str:
        return f"{self._node(node)}/status"

    def echo(self, node: str) -> str:
        return f"{self._node(node)}/echo"

    def predictions(self, node: str = "+") -> str:
        return f"{self._node(node)}/predictions"

    def up(self, node: str, parent: str, leaf: Up) -> str:
        return f"{self._node(node)}/up/{_level(parent, 'parent')}/{leaf}"

    def all_up(self, parent: str) -> str:
        """The filter of everything that any child sends to `parent`."""
        return f"{self._node('+')}/up/{_level(parent, 'parent')}/+"

    def inbox(self, node: str, leaf: Inbox) -> str:
        return f"{self._node(node)}/inbox/{leaf}"

    def all_inbox(self, node: str) -> str:
        return f"{self._node(node)}/inbox/+"

    def down(self, parent: str, leaf: Down) -> str:
        return f"{self._node(parent)}/down/{leaf}"

    def all_down(self, parent: str) -> str:
        return f"{self._node(parent)}/down/+"

    @property
    def run(self) -> str:
        return f"{self._base}/rounds/run"

    @property
    def round(self) -> str:
        return f"{self._base}/rounds/round"

    def cluster(self, gateway: str) -> str:
        return f"{self._base}/rounds/cluster/{gateway if gateway == '+' else _level(gateway, 'gateway')}"

    def event(self, node: str = "+") -> str:
        return f"{self._base}/rounds/event/{node if node == '+' else _level(node, 'node')}"

    @property
    def all_rounds(self) -> str:
        return f"{self._base}/rounds/#"

    def enrolment(self, token: str, leaf: Enrolment) -> str:
        return f"{self._base}/enrol/{_level(token, 'token')}/{leaf}"

    def all_enrolments(self, leaf: Enrolment) -> str:
        return f"{self._base}/enrol/+/{leaf}"

    def own_enrolment(self, leaf: Enrolment) -> str:
        """Where a client asks and is answered, with its client identifier for `%c`: the token's name."""
        return f"{self._base}/enrol/%c/{leaf}"

    @property
    def own_branch(self) -> str:
        """What a client may read of itself, with its user name for `%u`."""
        return f"{self._base}/node/%u/#"

    @property
    def own_word(self) -> tuple[str, ...]:
        """What any node may say, with its user name for `%u`; what goes up is said to a parent, see `own_up`."""
        own = (f"{self._base}/node/%u/{leaf}" for leaf in ("status", "echo", "predictions"))
        return (*own, self.own_events)

    def own_up(self, parent: str) -> tuple[str, ...]:
        """What a client may send to `parent`, with its user name for `%u`."""
        return tuple(f"{self._base}/node/%u/up/{_level(parent, 'parent')}/{leaf}" for leaf in UP)

    def childs_up(self, child: str, parent: str) -> str:
        """The filter of everything that `child` sends to `parent`."""
        return f"{self._node(child)}/up/{_level(parent, 'parent')}/+"

    @property
    def own_cluster(self) -> str:
        """Where a gateway tells people of its cluster's rounds, with its user name for `%u`."""
        return f"{self._base}/rounds/cluster/%u"

    @property
    def own_events(self) -> str:
        """Where a node tells people what happened, with its user name for `%u`."""
        return f"{self._base}/rounds/event/%u"

    def token_of(self, topic: str) -> str | None:
        """The token that asks on this topic, or None where it is no request for a certificate in this fleet."""
        prefix, suffix = f"{self._base}/enrol/", "/request"
        token = topic[len(prefix) : -len(suffix)]
        return token if topic == f"{prefix}{token}{suffix}" and _NAME.fullmatch(token) else None

    def parse(self, topic: str) -> NodeTopic | None:
        """The meaning of a node's topic in this fleet, or None where it is none of ours."""
        prefix = f"{self._base}/node/"
        if not topic.startswith(prefix):
            return None
        node, *rest = topic[len(prefix) :].split("/")
        if not _NAME.fullmatch(node):
            return None
        match rest:
            case ["status"] | ["echo"] | ["predictions"]:
                return NodeTopic(fleet=self.fleet, node=node, branch=rest[0])  # type: ignore[arg-type]
            case ["up", parent, leaf] if leaf in UP and _NAME.fullmatch(parent):
                return NodeTopic(fleet=self.fleet, node=node, branch="up", leaf=leaf, parent=parent)
            case ["inbox", leaf] if leaf in INBOX:
                return NodeTopic(fleet=self.fleet, node=node, branch="inbox", leaf=leaf)
            case ["down", leaf] if leaf in DOWN:
                return NodeTopic(fleet=self.fleet, node=node, branch="down", leaf=leaf)
        return None
