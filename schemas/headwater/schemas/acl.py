"""Law: who may read and write which topic follows from `topics` alone; brokers of every kind get the same rules.

A node writes below its own name and reads its own branch and its parent's downlink. A parent also reads what
its children send up, and writes their inboxes. People read the round topics and the nodes' status; what devices
predict is of their own data, and is read by those alone who were given it.
"""

from collections.abc import Sequence
from typing import Literal

from headwater.schemas.base import Frozen
from headwater.schemas.topics import Topics


class Rule(Frozen):
    """One permission. `user` None means every client; `%u` in `filter` stands for the client's user name."""

    access: Literal["read", "write"]
    filter: str
    user: str | None = None


class Acl(Frozen):
    """The permissions of one broker: what no rule allows is refused."""

    rules: tuple[Rule, ...]


def fleet_acl(
    fleet: str,
    *,
    parents: Sequence[str],
    cloud: str = "cloud",
    viewers: Sequence[str] = (),
    predictions: bool = False,
) -> Acl:
    """The rules of a broker of `fleet` on which `parents` (the cloud, gateways) gather their children.

    Any authenticated user may act as the node of its own name. On a broker with several parents a child could
    read another cluster's downlink (models, never data); a broker for each site prevents even that. With `predictions`
    the viewers also read what devices say of their live data.
    """
    topics = Topics(fleet)
    rules = [
        Rule(access="read", filter=topics.own_branch),
        Rule(access="write", filter=topics.own_branch),
        Rule(access="write", filter=topics.own_cluster),
        Rule(access="write", filter=topics.own_events),
    ]
    for parent in parents:
        rules.append(Rule(access="read", filter=topics.all_down(parent)))
        rules.append(Rule(access="read", filter=topics.all_up(parent), user=parent))
        rules.append(Rule(access="read", filter=topics.status(), user=parent))
        rules.append(Rule(access="write", filter=topics.all_inbox("+"), user=parent))
    rules.append(Rule(access="write", filter=topics.all_rounds, user=cloud))
    # It keeps what gateways tell of their clusters.
    rules.append(Rule(access="read", filter=topics.cluster("+"), user=cloud))
    for viewer in viewers:
        rules.append(Rule(access="read", filter=topics.all_rounds, user=viewer))
        rules.append(Rule(access="read", filter=topics.status(), user=viewer))
        if predictions:
            rules.append(Rule(access="read", filter=topics.predictions(), user=viewer))
    return Acl(rules=tuple(rules))
