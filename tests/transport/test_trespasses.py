"""Trespasses against a real broker with a fleet's own rules, judged by what others received, never by return codes.

Each row is somebody who may come in, and does what is not theirs to do. A planted hole shows that the judge sees.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.schemas.acl import Rule
from headwater.schemas.topics import Topics
from support.fortress import FLEET, TOKEN, WIRETAP, Fortress, fortress

pytestmark = pytest.mark.live

TOPICS = Topics(FLEET)
OTHER = Topics("another-plant")
KINDS = ("mosquitto", "embedded")


@pytest.fixture(scope="module", params=KINDS)
def place(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    with fortress(request.param, tmp_path_factory.mktemp("fortress")) as opened:
        yield opened


def is_passed_on(place: Fortress, who: str, topic: str) -> bool:
    """Whether what `who` says on `topic` reaches anybody, now or later as a retained message."""
    said, end = secrets.token_bytes(8), secrets.token_bytes(8)
    with place.guest(WIRETAP) as wiretap, place.guest("cloud", client="beacon") as beacon, place.guest(who) as guest:
        assert guest.let_in, guest.why_ended
        wiretap.subscribe("#")
        guest.say(topic, said, retain=True)
        # What was passed on came before this.
        beacon.say(TOPICS.echo("cloud"), end)
        assert wiretap.hears(end)
        return any(payload == said for _, payload in wiretap.heard)


WRITES = [
    pytest.param("d1", TOPICS.status("d2"), id="declares another device dead"),
    pytest.param("d1", TOPICS.up("d2", "gw2", "delta"), id="sends another device's delta"),
    pytest.param("d1", TOPICS.up("d2", "gw1", "delta"), id="sends it to its own parent"),
    pytest.param("d1", TOPICS.up("d1", "gw2", "delta"), id="gives to another cluster"),
    pytest.param("d1", TOPICS.up("d1", "cloud", "delta"), id="gives to the cloud past its gateway"),
    pytest.param("d1", TOPICS.inbox("d2", "refusal"), id="refuses another device's delta"),
    pytest.param("d1", TOPICS.inbox("d1", "receipt"), id="acknowledges its own delta"),
    pytest.param("d1", TOPICS.down("gw1", "announcement"), id="announces a plan in its parent's name"),
    pytest.param("d1", TOPICS.down("gw2", "chunk"), id="sends a model in another's name"),
    pytest.param("d1", TOPICS.down("d1", "announcement"), id="gathers a cluster of its own"),
    pytest.param("d1", TOPICS.echo("d2"), id="answers another's echo"),
    pytest.param("d1", TOPICS.predictions("d2"), id="predicts in another's name"),
    pytest.param("d1", TOPICS.run, id="tells people of a run"),
    pytest.param("d1", TOPICS.round, id="tells people of a round"),
    pytest.param("d1", TOPICS.cluster("gw1"), id="tells people of a cluster's round"),
    pytest.param("d1", TOPICS.event("gw1"), id="tells people what happened in another's name"),
    pytest.param("eve", TOPICS.event("eve"), id="a viewer tells what happened"),
    pytest.param("d1", TOPICS.enrolment(TOKEN, "answer"), id="answers who asks for a certificate"),
    pytest.param("d1", TOPICS.enrolment(TOKEN, "request"), id="asks for a certificate, being a node"),
    pytest.param("d1", OTHER.status("d1"), id="is born in another fleet"),
    pytest.param("d1", "hw/1/plant/node/d1/bomb", id="says what no node says"),
    pytest.param("d1", "hw/1/plant/node/d1/status/more", id="says more than a status"),
    pytest.param("d1", "$SYS/broker/version", id="speaks for the broker"),
    pytest.param("d1", "news", id="speaks of something else"),
    pytest.param("gw1", TOPICS.inbox("d2", "refusal"), id="a gateway refuses another cluster's delta"),
    pytest.param("gw1", TOPICS.down("gw2", "announcement"), id="a gateway plans for another cluster"),
    pytest.param("gw1", TOPICS.down("cloud", "announcement"), id="a gateway plans for the fleet"),
    pytest.param("gw1", TOPICS.up("d1", "gw1", "delta"), id="a gateway makes up a child's delta"),
    pytest.param("gw1", TOPICS.round, id="a gateway tells people of the fleet's round"),
    pytest.param("cloud", TOPICS.up("gw1", "cloud", "delta"), id="the cloud makes up a gateway's delta"),
    pytest.param("cloud", TOPICS.inbox("d1", "receipt"), id="the cloud answers a grandchild"),
    pytest.param("eve", TOPICS.round, id="a viewer tells people of a round"),
    pytest.param("eve", TOPICS.status("eve"), id="a viewer is born"),
    pytest.param("eve", TOPICS.up("eve", "gw1", "delta"), id="a viewer gives to a cluster"),
    pytest.param("eve", TOPICS.cluster("eve"), id="a viewer tells of a cluster"),
    pytest.param("enrol", TOPICS.status("enrol"), id="who asks for a certificate is born"),
    pytest.param("enrol", TOPICS.status("d1"), id="who asks for a certificate is another"),
    pytest.param("enrol", TOPICS.up("enrol", "gw1", "delta"), id="who asks for a certificate gives"),
    pytest.param("enrol", TOPICS.enrolment("ffffffffffffffff", "request"), id="asks with another's token"),
    pytest.param("enrol", TOPICS.enrolment(TOKEN, "answer"), id="answers itself"),
    pytest.param("enrol", TOPICS.round, id="who asks for a certificate tells of a round"),
]


@pytest.mark.parametrize(("who", "topic"), WRITES)
def test_what_is_not_ones_own_to_say_reaches_nobody(place: Fortress, who: str, topic: str) -> None:
    assert not is_passed_on(place, who, topic)


RIGHTS = [
    ("d1", TOPICS.status("d1")),
    ("d1", TOPICS.up("d1", "gw1", "delta")),
    ("gw1", TOPICS.up("gw1", "cloud", "delta")),
    ("gw1", TOPICS.down("gw1", "announcement")),
    ("gw1", TOPICS.inbox("d1", "receipt")),
    ("gw1", TOPICS.cluster("gw1")),
    ("gw1", TOPICS.event("gw1")),
    ("cloud", TOPICS.down("cloud", "announcement")),
    ("cloud", TOPICS.inbox("gw2", "receipt")),
    ("cloud", TOPICS.round),
    ("cloud", TOPICS.enrolment(TOKEN, "answer")),
    ("enrol", TOPICS.enrolment(TOKEN, "request")),
]


@pytest.mark.parametrize(("who", "topic"), RIGHTS)
def test_what_is_ones_own_to_say_is_passed_on(place: Fortress, who: str, topic: str) -> None:
    assert is_passed_on(place, who, topic)


FOREIGN = [
    ("d2", TOPICS.status("d2")),
    ("d2", TOPICS.echo("d2")),
    ("d2", TOPICS.predictions("d2")),
    ("d2", TOPICS.up("d2", "gw2", "delta")),
    ("gw2", TOPICS.down("gw2", "announcement")),
    ("gw2", TOPICS.down("gw2", "chunk")),
    ("gw2", TOPICS.inbox("d2", "receipt")),
    ("gw2", TOPICS.up("gw2", "cloud", "delta")),
    ("cloud", TOPICS.down("cloud", "announcement")),
    ("cloud", TOPICS.inbox("gw2", "chunk")),
    ("cloud", TOPICS.round),
    ("cloud", TOPICS.enrolment("ffffffffffffffff", "answer")),
    ("enrol", TOPICS.enrolment(TOKEN, "request")),
]
"""What goes on in a fleet beside d1's own affairs."""


def overheard(place: Fortress, who: str, topic_filter: str, client: str | None = None) -> set[str]:
    """The topics of `FOREIGN` that `who` hears of, by a subscription before them and another one behind."""
    with place.guest(who, client=client) as guest:
        assert guest.let_in, guest.why_ended
        guest.subscribe(topic_filter)
        for writer, topic in FOREIGN:
            with place.guest(writer, client=TOKEN if writer == "enrol" else f"{writer}-writer") as speaker:
                speaker.say(topic, b"private", retain=True)
        guest.subscribe(topic_filter)
        # What the broker had for this guest came before the answer to this.
        guest.subscribe("nothing/here")
        return {topic for topic, _ in guest.heard} & {topic for _, topic in FOREIGN}


READS = [
    *(
        pytest.param("d1", topic_filter, set(), id=f"d1 {topic_filter}")
        for topic_filter in (
            "#",
            "+/#",
            "hw/#",
            "hw/1/#",
            "hw/+/plant/#",
            "hw/1/plant/node/#",
            "hw/1/plant/node/+/status",
            "hw/1/plant/node/+/up/+/+",
            "hw/1/plant/node/d2/#",
            "hw/1/plant/node/+/inbox/+",
            "hw/1/plant/node/+/down/+",
            "hw/1/plant/node/gw2/down/announcement",
            "hw/1/plant/rounds/#",
            "hw/1/plant/enrol/#",
            "$SYS/#",
            "$share/group/hw/1/plant/node/+/up/+/+",
        )
    ),
    pytest.param("gw1", TOPICS.all_up("gw2"), set(), id="a gateway hears another cluster's deltas"),
    pytest.param("gw1", TOPICS.all_inbox("gw2"), set(), id="a gateway hears another's inbox"),
    pytest.param("gw1", "hw/1/plant/node/+/up/+/+", set(), id="a gateway hears all deltas"),
    pytest.param("eve", TOPICS.all_up("gw2"), set(), id="a viewer hears deltas"),
    pytest.param("eve", TOPICS.all_down("gw2"), set(), id="a viewer hears models"),
    pytest.param("eve", TOPICS.predictions(), set(), id="a viewer hears predictions"),
    pytest.param("eve", "hw/1/plant/enrol/#", set(), id="a viewer hears who enrols"),
    pytest.param("enrol", "#", set(), id="who asks for a certificate hears all"),
    pytest.param("enrol", "hw/1/plant/enrol/+/answer", set(), id="hears others' answers"),
    pytest.param("enrol", "hw/1/plant/enrol/+/request", set(), id="hears others' requests"),
    pytest.param("enrol", TOPICS.all_down("cloud"), set(), id="who asks for a certificate hears models"),
    # And so that the judge is known to hear: what each may read.
    pytest.param("gw2", TOPICS.all_up("gw2"), {TOPICS.up("d2", "gw2", "delta")}, id="a gateway hears its children"),
    pytest.param("d2", TOPICS.all_inbox("d2"), {TOPICS.inbox("d2", "receipt")}, id="a device hears its inbox"),
    pytest.param("eve", TOPICS.all_rounds, {TOPICS.round}, id="a viewer watches"),
    pytest.param("gw1", TOPICS.all_down("cloud"), {TOPICS.down("cloud", "announcement")}, id="a gateway hears plans"),
]


@pytest.mark.parametrize(("who", "topic_filter", "expected"), READS)
def test_a_subscription_brings_nothing_foreign(
    place: Fortress, who: str, topic_filter: str, expected: set[str]
) -> None:
    client = "1111111111111111" if who == "enrol" else None
    heard = overheard(place, who, topic_filter, client)
    assert heard == expected


HOLES = [
    pytest.param(Rule(access="write", filter="hw/1/plant/node/+/status"), "d1", TOPICS.status("d2"), id="write"),
    pytest.param(Rule(access="write", filter="hw/1/plant/#"), "d1", TOPICS.down("gw2", "chunk"), id="write-all"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("hole", "who", "topic"), HOLES)
def test_a_planted_hole_for_who_writes_is_seen(tmp_path: Path, kind: str, hole: Rule, who: str, topic: str) -> None:
    with fortress(kind, tmp_path, holes=[hole]) as place:
        assert is_passed_on(place, who, topic)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_hole_for_who_reads_is_seen(tmp_path: Path, kind: str) -> None:
    hole = Rule(access="read", filter="hw/1/plant/node/+/up/+/+")
    with fortress(kind, tmp_path, holes=[hole]) as place:
        heard = overheard(place, "d1", "hw/1/plant/node/+/up/+/+")
        assert heard == {TOPICS.up("d2", "gw2", "delta"), TOPICS.up("gw2", "cloud", "delta")}
