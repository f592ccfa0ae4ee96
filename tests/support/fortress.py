"""A broker with every door and rule of a fleet, its authority, and papers for whoever wants in.

The fleet: the cloud gathers gw1 and gw2; gw1 gathers d1, gw2 gathers d2; all on one broker. Eve watches. The wiretap is
no part of a fleet: it hears everything, and so it knows what a broker really passed on.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from headwater.schemas.acl import ENROLMENT_PASSWORD, ENROLMENT_USER, Acl, Rule, enrolment_acl, fleet_acl, joined
from headwater.testbed.machine import free_port
from headwater.transport.broker import BrokerConfig, spawn, write_password_file
from headwater.transport.fleet_broker import CONFIG, VIEWERS, FleetBroker, files
from headwater.transport.mosquitto import ServerTls, password_file
from headwater.trust.folder import Folder
from support.brokers import salts, started
from support.guests import Guest, Papers
from support.waiting import eventually

FLEET = "plant"
CHILDREN = {"cloud": ("gw1", "gw2"), "gw1": ("d1",), "gw2": ("d2",)}
NODES = ("cloud", "gw1", "gw2", "d1", "d2")
WIRETAP = "wiretap"
VIEWER = "eve"
TOKEN = "00112233aabbccdd"


def _password(user: str) -> str:
    return ENROLMENT_PASSWORD if user == ENROLMENT_USER else f"{user}'s"


@dataclass(frozen=True)
class Fortress:
    """A running broker. Without an authority its guests have passwords, and come in by one door."""

    folder: Path
    ports: dict[str, int]
    authority: Folder | None = None
    pid: int = 0

    def papers(self, who: str) -> Papers:
        """What this user has to show."""
        if self.authority is None:
            return Papers(user=who, password=_password(who), tls=False)
        ca = self.authority.certificate_file
        if who in (VIEWER, ENROLMENT_USER):
            return Papers(user=who, password=_password(who), ca=ca)
        return Papers(certificate=self.authority.certificate_of(who), key=self.authority.key_of(who), ca=ca)

    def guest(self, who: str, *, client: str | None = None, five: bool | None = None) -> Guest:
        """Somebody who comes in by the door that is meant for them."""
        door = {VIEWER: "viewers", ENROLMENT_USER: "enrolment"}.get(who, "nodes")
        named = client or (TOKEN if who == ENROLMENT_USER else f"{who}-guest")
        return Guest(
            self.ports[door], self.papers(who), named, five=self.authority is not None if five is None else five
        )

    def reload(self) -> None:
        """Have the rules and the list of revoked certificates read again, and wait until they were."""
        log = self.folder / "mosquitto.log"
        before = log.read_text().count("Reloading config")
        os.kill(self.pid, signal.SIGHUP)
        eventually(lambda: log.read_text().count("Reloading config") > before)


@contextmanager
def fortress(kind: str, folder: Path, *, holes: Sequence[Rule] = (), parents: Sequence[str] = ()) -> Iterator[Fortress]:
    """A fortress of this kind of broker.

    Args:
        holes: rules that no fleet has, planted.
        parents: who gathers children here; the whole tree by default.
    """
    gathering = tuple(parents) or tuple(CHILDREN)
    build = _of_mosquitto if kind == "mosquitto" else _embedded
    with ExitStack() as stack:
        yield build(stack, folder, gathering, holes)


def _of_mosquitto(stack: ExitStack, folder: Path, parents: tuple[str, ...], holes: Sequence[Rule]) -> Fortress:
    now = datetime.now(UTC)
    authority = Folder(folder / "pki")
    authority.create("plant", now)
    for name in (*NODES, WIRETAP, "broker"):
        authority.issue(authority.authority(), name, now, hosts=("localhost", "127.0.0.1"))
    ports = {door: free_port() for door in ("nodes", "enrolment", "viewers")}
    place = folder / "broker"
    place.mkdir()
    write_files(place, described(place, authority, ports, parents), holes)
    broker = stack.enter_context(started(place, ports["nodes"], (place / CONFIG).read_text()))
    assert broker.pid is not None
    return Fortress(place, ports, authority, broker.pid)


def described(place: Path, authority: Folder, ports: dict[str, int], parents: tuple[str, ...]) -> FleetBroker:
    return FleetBroker(
        fleet=FLEET,
        folder=place,
        parents=parents,
        children={parent: CHILDREN[parent] for parent in parents},
        gateways=CHILDREN["cloud"],
        host="127.0.0.1",
        port=ports["nodes"],
        tls=ServerTls(
            ca=authority.certificate_file,
            certificate=authority.certificate_of("broker"),
            key=authority.key_of("broker"),
            revoked=authority.revoked_file,
        ),
        enrolment_port=ports["enrolment"],
        viewer_port=ports["viewers"],
        viewers=(VIEWER,),
    )


def write_files(place: Path, broker: FleetBroker, holes: Sequence[Rule] = ()) -> None:
    for name, file in files(broker, os.urandom).items():
        (place / name).write_text(file.text)
    (place / VIEWERS).write_text(password_file({VIEWER: _password(VIEWER)}, salts([VIEWER])))
    with (place / "nodes.acl").open("a") as rules:
        rules.write(f"\nuser {WIRETAP}\ntopic read #\n")
        rules.writelines(f"pattern {hole.access} {hole.filter}\n" for hole in holes)


def _embedded(stack: ExitStack, folder: Path, parents: tuple[str, ...], holes: Sequence[Rule]) -> Fortress:
    rules = joined(
        fleet_acl(
            FLEET,
            parents=parents,
            children={parent: CHILDREN[parent] for parent in parents},
            gateways=CHILDREN["cloud"],
            viewers=(VIEWER,),
            enrolment="cloud",
        ),
        enrolment_acl(FLEET),
        Acl(rules=(Rule(access="read", filter="#", user=WIRETAP), *holes), strangers=(WIRETAP,)),
    )
    users = str(folder / "users")
    write_password_file(users, {user: _password(user) for user in (*NODES, VIEWER, WIRETAP, ENROLMENT_USER)})
    port = stack.enter_context(spawn(BrokerConfig(port=0, acl=rules, password_file=users))).port
    return Fortress(folder, dict.fromkeys(("nodes", "enrolment", "viewers"), port))


def with_papers(guest_of: Fortress, who: str, **changed: object) -> Papers:
    return replace(guest_of.papers(who), **changed)  # type: ignore[arg-type]
