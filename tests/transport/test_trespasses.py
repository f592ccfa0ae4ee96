"""Trespasses against a real broker with a fleet's own rules, judged by what others received, never by return codes.

Each row is somebody who may come in, and does what is not theirs to do. A planted hole shows that the judge sees.
"""

import asyncio
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headwater.schemas.acl import Rule
from headwater.schemas.links import BrokerSettings, TlsSettings
from headwater.schemas.topics import Topics
from headwater.transport.files import identifier
from headwater.transport.mosquitto import MAX_PACKET_SIZE_BYTES
from headwater.transport.session import Caller, Session
from headwater.trust.authority import Authority, issue, new_authority
from headwater.trust.certificates import to_pem
from headwater.trust.files import write_file
from headwater.trust.keys import new_key, write_key
from support.fortress import FLEET, TOKEN, WIRETAP, Fortress, described, fortress, write_files
from support.guests import Guest, Papers
from support.waiting import eventually

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
    # Of topics that mean nothing there are as many as one likes, and a broker keeps a retained message for each.
    ("d1", f"{TOPICS.up('d1', 'gw1', 'delta')}s"),
    ("gw1", f"{TOPICS.down('gw1', 'chunk')}s"),
    ("gw1", f"{TOPICS.inbox('d1', 'chunk')}s"),
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
    pytest.param("d1", TOPICS.cluster("d1"), id="tells people of a cluster of its own"),
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


# ── who comes in at all: certificates ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Fortress]:
    """A broker where the cloud alone gathers children."""
    with fortress("mosquitto", tmp_path, parents=["cloud"]) as opened:
        yield opened


def false_papers(gate: Fortress, folder: Path, story: str) -> Papers:
    """What somebody shows who would be gw1."""
    assert gate.authority is not None
    key, now = new_key(), datetime.now(UTC)
    authority = gate.authority.authority()
    other = new_authority("plant", new_key(), now)
    certificates = {
        "another authority's": lambda: issue(other, "gw1", key.public, now),
        "its own word": lambda: issue(
            Authority(new_authority("gw1", key, now).certificate, key), "gw1", key.public, now
        ),
        "expired": lambda: issue(authority, "gw1", key.public, now - timedelta(days=9), days=1),
        "not yet valid": lambda: issue(authority, "gw1", key.public, now + timedelta(days=2)),
        "another's key": lambda: issue(authority, "gw1", new_key().public, now),
    }
    papers = gate.papers("gw1")
    if story == "none, and a name":
        return Papers(user="gw1", password="gw1's", ca=papers.ca)
    if story == "none, from the other door":
        return Papers(user="eve", password="eve's", ca=papers.ca)
    write_key(folder / "false.key", key)
    write_file(folder / "false.pem", to_pem(certificates[story]()))
    return Papers(certificate=folder / "false.pem", key=folder / "false.key", ca=papers.ca)


@pytest.mark.parametrize(
    "story",
    [
        "another authority's",
        "its own word",
        "expired",
        "not yet valid",
        "another's key",
        "none, and a name",
        "none, from the other door",
    ],
)
def test_who_has_no_good_certificate_stays_outside(gate: Fortress, tmp_path: Path, story: str) -> None:
    with gate.guest("cloud") as cloud, gate.guest("gw2") as beacon:
        cloud.subscribe(TOPICS.all_up("cloud"))
        try:
            stranger = Guest(gate.ports["nodes"], false_papers(gate, tmp_path, story), "gw1")
        except ssl.SSLError:
            # Python itself will not use a certificate with another's key.
            assert story == "another's key"
            return
        with stranger:
            stranger.say(TOPICS.up("gw1", "cloud", "delta"), b"false")
            assert not stranger.let_in
        beacon.say(TOPICS.up("gw2", "cloud", "delta"), b"true")
        assert cloud.hears(b"true")
        assert [payload for _, payload in cloud.heard] == [b"true"]


def test_a_good_certificate_lets_its_node_in(gate: Fortress) -> None:
    """What shows that the rows above fail for their reason."""
    with gate.guest("cloud") as cloud, gate.guest("gw1") as gateway:
        cloud.subscribe(TOPICS.all_up("cloud"))
        gateway.say(TOPICS.up("gw1", "cloud", "delta"), b"true")
        assert cloud.hears(b"true")


def test_a_name_in_the_connection_is_not_believed_beside_a_certificate(gate: Fortress) -> None:
    liar = replace(gate.papers("gw1"), user="cloud", password="cloud's")
    with gate.guest("gw2") as gateway, Guest(gate.ports["nodes"], liar, "cloud") as guest:
        gateway.subscribe(TOPICS.all_down("cloud"))
        guest.say(TOPICS.down("cloud", "announcement"), b"false")
        guest.say(TOPICS.up("gw1", "cloud", "delta"), b"own")
        gateway.subscribe("nothing/here")
        assert gateway.heard == []


def test_a_revoked_node_does_not_come_in_again_and_barred_it_is_deaf_and_dumb_at_once(gate: Fortress) -> None:
    """Mosquitto ends no connection for a certificate that is revoked later: only the rules reach who is in already."""
    assert gate.authority is not None
    with gate.guest("cloud") as cloud, gate.guest("gw1") as revoked, gate.guest("gw2") as beacon:
        cloud.subscribe(TOPICS.all_up("cloud"))
        revoked.subscribe(TOPICS.all_down("cloud"))
        papers = gate.papers("gw1")
        copies = gate.folder / "stolen.pem", gate.folder / "stolen.key"
        for file, copy in zip((papers.certificate, papers.key), copies, strict=True):
            assert file is not None
            copy.write_bytes(file.read_bytes())
        gate.authority.revoke(gate.authority.authority(), "gw1", datetime.now(UTC))
        gate.reload()
        with Guest(gate.ports["nodes"], replace(papers, certificate=copies[0], key=copies[1]), "gw1") as again:
            assert not again.let_in
        revoked.say(TOPICS.up("gw1", "cloud", "delta"), b"still in")
        assert cloud.hears(b"still in")
        barred = described(gate.folder, gate.authority, gate.ports, ("cloud",)).model_copy(update={"barred": ("gw1",)})
        write_files(gate.folder, barred)
        gate.reload()
        revoked.say(TOPICS.up("gw1", "cloud", "delta"), b"out")
        cloud.say(TOPICS.down("cloud", "announcement"), b"private")
        beacon.say(TOPICS.up("gw2", "cloud", "delta"), b"true")
        assert cloud.hears(b"true")
        revoked.subscribe("nothing/here")
        assert b"out" not in [payload for _, payload in cloud.heard]
        assert revoked.heard == []


async def test_nobody_ends_anothers_connection_by_its_client_identifier(gate: Fortress) -> None:
    """Mosquitto takes whoever comes with an identifier for its owner, by any door; so nobody may know it."""

    def ended() -> int:
        return (gate.folder / "mosquitto.log").read_text().count("already connected, closing old connection")

    settings = link_of(gate, "cloud")
    session = Session(settings, Caller(FLEET, "cloud", "cloud", (), nothing_heard, nothing_to_say))
    running = asyncio.ensure_future(session.run())
    try:
        await session.wait_connected()
        for who in ("gw1", "eve", "enrol"):
            with gate.guest(who, client="cloud"):
                assert session.connected
        assert ended() == 0
        # And so that the judge is known to see.
        with gate.guest("enrol", client=identifier("cloud", settings)):
            assert ended() == 1
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def nothing_heard(topic: str, payload: bytes, retained: bool) -> None: ...


async def nothing_to_say() -> None: ...


def link_of(gate: Fortress, who: str) -> BrokerSettings:
    papers = gate.papers(who)
    tls = TlsSettings(ca=papers.ca, certificate=papers.certificate, key=papers.key)
    return BrokerSettings(host="localhost", port=gate.ports["nodes"], tls=tls)


async def test_a_stolen_identity_that_comes_up_twice_is_told_to_both(
    gate: Fortress, caplog: pytest.LogCaptureFixture
) -> None:
    """The same certificate on two machines: they take turns, ever more slowly, and each says what it sees.

    Where a broker lets both be connected, their parent sees two boots of one node, and refuses: `two_identities`.
    """

    def one() -> Session:
        return Session(link_of(gate, "gw1"), Caller(FLEET, "gw1", "gw1", (), nothing_heard, nothing_to_say))

    running = [asyncio.ensure_future(one().run()) for _ in range(2)]
    try:
        # Each says it once.
        await asyncio.to_thread(eventually, lambda: caplog.text.count("two nodes run under the name gw1,") == 2, 60.0)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize("five", [True, False], ids=["MQTT 5", "MQTT 3.1.1"])
def test_what_is_too_large_ends_its_sender_and_reaches_nobody(place: Fortress, five: bool) -> None:
    if place.authority is None and five:
        pytest.skip("the embedded broker speaks MQTT 3.1.1")
    said = b"x" * (MAX_PACKET_SIZE_BYTES + 1)
    with place.guest("gw1") as parent, place.guest("d1", five=five) as device, place.guest(WIRETAP) as wiretap:
        wiretap.subscribe("#")
        device.say(TOPICS.up("d1", "gw1", "delta"), said)
        parent.say(TOPICS.echo("gw1"), b"end")
        assert wiretap.hears(b"end")
        assert said not in [payload for _, payload in wiretap.heard]
        assert device.is_gone or five
