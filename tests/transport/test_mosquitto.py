"""What is written for Mosquitto is what Mosquitto reads: rules, doors, passwords, and the way between two brokers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater.schemas.acl import Acl, Rule, enrolment_acl, fleet_acl, joined
from headwater.schemas.topics import Topics
from headwater.testbed.machine import free_port
from headwater.transport.fleet_broker import CONFIG
from headwater.transport.mosquitto import Bridge, Door, ServerTls, acl_file, config_file, password_file
from support.brokers import salts, started
from support.fortress import CHILDREN, FLEET, Fortress, described, fortress, write_files
from support.guests import Guest, Papers
from support.waiting import eventually

TOPICS = Topics(FLEET)
TLS = ServerTls(certificate=Path("b.pem"), key=Path("b.key"))


def lines(door: Door) -> set[str]:
    return set(config_file(door).splitlines())


@pytest.mark.parametrize(
    ("door", "has", "has_not"),
    [
        pytest.param(Door(port=1883), {"allow_anonymous true"}, {"require_certificate true"}, id="open"),
        pytest.param(Door(port=1883, passwords=Path("u")), {"allow_anonymous false", "password_file u"}, set(), id="passwords"),
        pytest.param(
            Door(port=8883, tls=TLS.model_copy(update={"ca": Path("ca.pem"), "revoked": Path("crl.pem")})),
            {"allow_anonymous false", "require_certificate true", "use_identity_as_username true", "crlfile crl.pem"},
            {"password_file u"},
            id="certificates",
        ),
        pytest.param(
            Door(port=8883, tls=TLS.model_copy(update={"ca": Path("ca.pem")}), passwords=Path("u")),
            {"require_certificate true", "password_file u"},
            {"use_identity_as_username true"},
            id="both",
        ),
        pytest.param(Door(port=8884, tls=TLS, passwords=Path("u")), {"certfile b.pem"}, {"cafile ca.pem"}, id="TLS"),
    ],
)  # fmt: skip
def test_a_door_says_who_may_come_in(door: Door, has: set[str], has_not: set[str]) -> None:
    assert has <= lines(door)
    assert not has_not & lines(door)


def test_rules_of_one_client_identifier_need_a_file_of_their_own() -> None:
    assert "pattern write hw/1/plant/enrol/%c/request" in acl_file(enrolment_acl("plant"))
    with pytest.raises(ValueError, match="user 'enrol': rules with %c need a listener"):
        acl_file(joined(fleet_acl("plant", parents=["cloud"]), enrolment_acl("plant")))


def test_a_stranger_is_denied_what_everyone_may() -> None:
    rules = (Rule(access="write", filter="node/%u/status"), Rule(access="read", filter="news", user="eve"))
    text = acl_file(Acl(rules=rules, strangers=("eve",)))
    assert text.index("user eve") < text.index("topic deny node/eve/status") < text.index("topic read news")


@pytest.mark.live
def test_passwords_are_those_that_mosquitto_checks(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "users").write_text(password_file({"a": "right", "b": "ü: $"}, salts(["a", "b"])))
    with started(tmp_path, port, config_file(Door(port=port, passwords=tmp_path / "users"))):
        for user, password, let_in in (
            ("a", "right", True),
            ("a", "wrong", False),
            ("b", "ü: $", True),
            ("c", "", False),
        ):
            with Guest(port, Papers(user=user, password=password, tls=False), "guest") as guest:
                assert guest.let_in is let_in, user


@pytest.mark.live
def test_what_the_broker_kept_outlives_its_being_killed(tmp_path: Path) -> None:
    port = free_port()
    broker = started(tmp_path, port, config_file(Door(port=port), data=tmp_path))
    papers = Papers(tls=False)
    with broker:
        with Guest(port, papers, "a") as guest:
            guest.say("kept", b"for good", retain=True)
            # Saved within the second, for that is what the configuration asks for.
            eventually((tmp_path / "mosquitto.db").exists)
        broker.kill()
        broker.start()
        with Guest(port, papers, "b") as guest:
            guest.subscribe("kept")
            assert guest.hears(b"for good")


# ── a gateway's broker that passes on ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def bridged(tmp_path: Path) -> Iterator[tuple[Fortress, int]]:
    """The cloud's broker, and the port of one on gw1's site, which passes gw1's messages on."""
    with fortress("mosquitto", tmp_path / "cloud", parents=["cloud"]) as cloud, contextlib.ExitStack() as stack:
        assert cloud.authority is not None
        ports = {door: free_port() for door in ("nodes", "enrolment", "viewers")}
        place = tmp_path / "site"
        place.mkdir()
        bridge = Bridge(
            fleet=FLEET,
            gateway="gw1",
            client="bridge.of-gw1",
            host="localhost",
            port=cloud.ports["nodes"],
            ca=cloud.authority.certificate_file,
            certificate=cloud.authority.certificate_of("gw1"),
            key=cloud.authority.key_of("gw1"),
        )
        site = described(place, cloud.authority, ports, ("gw1",))
        # The gateway is its parent's child on this broker too.
        site = site.model_copy(
            update={
                "bridges": (bridge,),
                "parents": ("gw1", "cloud"),
                "children": {"gw1": CHILDREN["gw1"], "cloud": ("gw1",)},
            }
        )
        write_files(place, site)
        stack.enter_context(started(place, ports["nodes"], (place / CONFIG).read_text()))
        yield cloud, ports["nodes"]


@pytest.mark.live
def test_a_bridge_passes_a_gateways_messages_up_and_its_parents_down_and_no_others(
    bridged: tuple[Fortress, int],
) -> None:
    cloud, site = bridged
    assert cloud.authority is not None
    with (
        cloud.guest("cloud") as above,
        Guest(site, cloud.papers("gw1"), "gw1") as gateway,
        Guest(site, cloud.papers("d1"), "d1") as device,
    ):
        above.subscribe(TOPICS.all_up("cloud"))
        above.subscribe(TOPICS.status())
        gateway.subscribe(TOPICS.all_down("cloud"))
        gateway.subscribe(TOPICS.all_inbox("gw1"))
        gateway.subscribe(TOPICS.all_up("gw1"))
        device.say(TOPICS.up("d1", "gw1", "delta"), b"a device's")
        device.say(TOPICS.status("d1"), b"a device's birth", retain=True)
        assert gateway.hears(b"a device's")
        # Bridges come up by themselves, a moment after their broker.
        while not above.hears(b"birth", 0.2):
            gateway.say(TOPICS.status("gw1"), b"birth", retain=True)
        gateway.say(TOPICS.up("gw1", "cloud", "delta"), b"sum")
        above.say(TOPICS.down("cloud", "announcement"), b"plan", retain=True)
        above.say(TOPICS.inbox("gw1", "receipt"), b"thanks")
        assert above.hears(b"sum")
        assert gateway.hears(b"plan")
        assert gateway.hears(b"thanks")
        assert {payload for _, payload in above.heard} == {b"birth", b"sum"}
