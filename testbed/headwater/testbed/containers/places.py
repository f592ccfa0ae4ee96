"""Law: every service of the testbed has a place of its own, a volume, and in it the credentials of nobody else.

A place is what a machine's disk is to a real node: its certificate and key, its settings' files, its state. Devices of
a site share a volume and have a folder each, for a service that is scaled has one volume; a real board has its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater.schemas.acl import Acl, fleet_acl, joined, viewers_acl
from headwater.transport.fleet_broker import FleetBroker
from headwater.transport.mosquitto import ServerTls

FLEET: Final = "testbed"
SITES: Final = ("north", "south")
CLOUD: Final = "cloud"
POSTGRES: Final = "postgres"
AUTHORITY: Final = "authority"
EMQX: Final = "emqx"
"""Two nodes of it may stand in for the cloud's broker; they share a place."""

VIEWER: Final = "viewer"
DASHBOARD: Final = "dashboard"
PEOPLE: Final = (VIEWER, DASHBOARD)
"""Who may read the round topics at every broker, by a password, and do nothing else."""

PERSONS: Final = 10
"""Whose recordings there are."""

FIRST_DEVICES: Final = 5
"""Devices of a site that come up by themselves, as docker-compose.yml has it: each has a person of its own."""

MAX_SEATS: Final = 500
VIEWER_PORT: Final = 8885
HOME: Final = Path("/var/lib/headwater")
"""Where each service finds its place."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A name that gets a certificate, `node.pem`, `node.key` and `ca.pem`, in a folder below all places.

    `hosts` are the names under which a server is reached.
    """

    folder: Path
    node: str
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seat:
    """A folder for one device, and whose recordings it has; who sits down first takes the lowest that is free."""

    identity: Identity
    person: int


def gateway_of(site: str) -> str:
    return f"gateway-{site}"


def gateways() -> tuple[str, ...]:
    return tuple(map(gateway_of, SITES))


def devices_of(site: str) -> str:
    return f"devices-{site}"


def broker_of(site: str) -> str:
    """The name of a site's broker, or with "cloud" of the cloud's."""
    return "broker" if site == CLOUD else f"broker-{site}"


def volumes() -> tuple[str, ...]:
    """The folders in which the volumes are mounted together: of whom each is."""
    servers = [broker_of(site) for site in (CLOUD, *SITES)]
    return (AUTHORITY, *servers, POSTGRES, CLOUD, *gateways(), *map(devices_of, SITES), *PEOPLE, EMQX)


def identities() -> Iterator[Identity]:
    """All that there are whatever the number of devices."""
    for site in (CLOUD, *SITES):
        name = broker_of(site)
        yield Identity(Path(name), name, (name, "localhost", "127.0.0.1"))
    yield Identity(Path(EMQX), EMQX, ("emqx-1", "emqx-2"))
    for node in (CLOUD, *gateways()):
        yield Identity(Path(node), node)


def seats(count: int) -> Iterator[Seat]:
    """`count` seats at each site. Those of the devices that come up by themselves have persons of their own; beyond, a
    person wears several watches."""
    for place, site in enumerate(SITES):
        for number in range(1, count + 1):
            node = f"{site}-{number}"
            person = (place * FIRST_DEVICES + number - 1) % PERSONS + 1
            yield Seat(Identity(Path(devices_of(site)) / node, node), person)


def emqx_rules() -> Acl:
    """What Mosquitto says door by door, in one list, for EMQX has one for all of its doors."""
    return joined(fleet_acl(FLEET, parents=[CLOUD], gateways=gateways()), viewers_acl(FLEET, PEOPLE))


def fleet_broker(site: str) -> FleetBroker:
    """A site's broker, or with "cloud" the cloud's: nodes come in by certificates, people by passwords."""
    return FleetBroker(
        fleet=FLEET,
        folder=HOME,
        parents=(CLOUD if site == CLOUD else gateway_of(site),),
        gateways=gateways() if site == CLOUD else (gateway_of(site),),
        tls=ServerTls(
            certificate=HOME / "node.pem", key=HOME / "node.key", ca=HOME / "ca.pem", revoked=HOME / "revoked.pem"
        ),
        # Certificates of the testbed are issued by `setup`.
        enrolment_port=None,
        viewer_port=VIEWER_PORT,
        viewers=PEOPLE,
        data=HOME,
    )
