"""Law: who may read and write which topic follows from `topics` alone; brokers of every kind get the same rules.

A node writes what is its own to say, sends to the parents of this broker, and reads its own branch and its parent's
downlink. A parent also reads what its children send up, and writes their inboxes. People read the round topics and the
nodes' status; what devices predict is of their own data, and is read by those alone who were given it. Whoever is no
node, a viewer or who asks to be one, is not let do what any node may.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal

from headwater.schemas.base import Frozen
from headwater.schemas.patterns import misfit
from headwater.schemas.topics import DOWN, ENROLMENT, INBOX, UP, Topics

ENROLMENT_USER: Final = "enrol"
"""Who asks for a certificate. The name and its password are no secret: what is asked proves itself by its token."""

ENROLMENT_PASSWORD: Final = "enrol"

NO_CHILDREN: Final[Mapping[str, Sequence[str]]] = {}


class Rule(Frozen):
    """One permission. `user` None means every node; in `filter` `%u` stands for the client's user name and `%c` for its
    client identifier."""

    access: Literal["read", "write"]
    filter: str
    user: str | None = None


class Acl(Frozen):
    """The permissions of one broker: what no rule allows is refused. For `strangers`, users who are no nodes, only the
    rules hold that name them."""

    rules: tuple[Rule, ...]
    strangers: tuple[str, ...] = ()


def fleet_acl(
    fleet: str,
    *,
    parents: Sequence[str],
    cloud: str = "cloud",
    viewers: Sequence[str] = (),
    predictions: bool = False,
    children: Mapping[str, Sequence[str]] = NO_CHILDREN,
    gateways: Sequence[str] | None = None,
    enrolment: str | None = None,
    barred: Sequence[str] = (),
) -> Acl:
    """The rules of a broker of `fleet` on which `parents` (the cloud, gateways) gather their children.

    Any authenticated user who is no viewer may act as the node of its own name. It may be a child of any parent here,
    and read its downlink (models, never data), unless `children` names that parent's: then nobody else is.

    Args:
        predictions: the viewers also read what devices say of their live data.
        children: by parent, who its children are.
        gateways: who tells people of a cluster's rounds here; by default any node may, of its own.
        enrolment: the user who answers requests for certificates here, by default nobody.
        barred: nodes that may do nothing any more. A broker ends no connection for a certificate that is revoked
            later; once these rules are read again, it says and hears nothing.

    Raises:
        ValueError: what can be no name, or children of a parent that is not here.
    """
    topics = Topics(fleet)
    _check_names("parent", (cloud, *parents))
    _check_names("child", (child for named in children.values() for child in named))
    _check_names("gateway", gateways or ())
    _check_names("bar", barred)
    _check_names("enrolment_by", () if enrolment is None else (enrolment,))
    for stray in set(children).difference(parents):
        raise ValueError(f"children: {stray!r} is none of the parents {list(parents)}; name it as a parent too")
    rules = [
        Rule(access="read", filter=topics.own_branch),
        *(Rule(access="write", filter=own) for own in topics.own_word),
    ]
    for parent in parents:
        rules += _of_parent(topics, parent, children.get(parent))
    rules.append(Rule(access="write", filter=topics.all_rounds, user=cloud))
    rules += _of_clusters(topics, gateways)
    # It keeps what gateways tell of their clusters.
    rules.append(Rule(access="read", filter=topics.cluster("+"), user=cloud))
    if enrolment is not None:
        rules.append(Rule(access="read", filter=topics.all_enrolments("request"), user=enrolment))
        rules += [Rule(access="write", filter=topics.all_enrolments(leaf), user=enrolment) for leaf in ENROLMENT]
    rules = [rule for rule in rules if rule.user not in barred]
    return joined(Acl(rules=tuple(rules), strangers=tuple(barred)), viewers_acl(fleet, viewers, predictions))


def _of_parent(topics: Topics, parent: str, children: Sequence[str] | None) -> Iterator[Rule]:
    """What goes on between `parent` and its children, where None is whoever comes."""
    yield from _writes((topics.down(parent, leaf) for leaf in DOWN), parent)
    yield Rule(access="read", filter=topics.all_up(parent), user=parent)
    yield Rule(access="read", filter=topics.status(), user=parent)
    if children is None:
        yield Rule(access="read", filter=topics.all_down(parent))
        yield from _writes(topics.own_up(parent), None)
        yield from _writes((topics.inbox("+", leaf) for leaf in INBOX), parent)
        return
    for child in children:
        yield Rule(access="read", filter=topics.all_down(parent), user=child)
        yield from _writes((topics.up(child, parent, leaf) for leaf in UP), child)
        yield from _writes((topics.inbox(child, leaf) for leaf in INBOX), parent)


def _of_clusters(topics: Topics, gateways: Sequence[str] | None) -> Iterator[Rule]:
    if gateways is None:
        yield from _writes([topics.own_cluster], None)
        return
    for gateway in gateways:
        yield from _writes([topics.cluster(gateway)], gateway)


def _writes(filters: Iterable[str], user: str | None) -> Iterator[Rule]:
    """Each topic by its name: a broker keeps a retained message for whatever else one could think of."""
    return (Rule(access="write", filter=one, user=user) for one in filters)


def viewers_acl(fleet: str, viewers: Sequence[str], predictions: bool = False) -> Acl:
    """The rules of people who watch `fleet`. Raises ValueError for what can be no name."""
    topics = Topics(fleet)
    _check_names("viewer", viewers)
    watched = [topics.all_rounds, topics.status(), *([topics.predictions()] if predictions else [])]
    return Acl(
        rules=tuple(Rule(access="read", filter=one, user=viewer) for viewer in viewers for one in watched),
        strangers=tuple(viewers),
    )


def _check_names(what: str, names: Iterable[str]) -> None:
    """A name becomes a word of a broker's rules: with a blank or a line in it, it would be rules of its own."""
    for name in names:
        problem = misfit(what, name)
        if problem:
            raise ValueError(problem)


def enrolment_acl(fleet: str) -> Acl:
    """The rules of who asks for a certificate: on the topics of the one token that is its client identifier. Raises
    ValueError for what can be no fleet's name."""
    topics = Topics(fleet)
    return Acl(
        rules=(
            Rule(access="write", filter=topics.own_enrolment("request"), user=ENROLMENT_USER),
            Rule(access="read", filter=topics.own_enrolment("answer"), user=ENROLMENT_USER),
        ),
        strangers=(ENROLMENT_USER,),
    )


def joined(*acls: Acl) -> Acl:
    """The rules of several, for a broker that lets all of them in by one door."""
    return Acl(
        rules=tuple(rule for acl in acls for rule in acl.rules),
        strangers=tuple(dict.fromkeys(user for acl in acls for user in acl.strangers)),
    )
