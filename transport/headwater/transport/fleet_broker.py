"""Law: a fleet's broker is a folder of files that follow from one description; it has a door for each kind of guest.

Nodes come in by certificates of the fleet's authority, and are named by them. Whoever has a one-time token and no
certificate yet comes in by a door behind which there are the topics of enrolment alone. People who watch have
passwords, and read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import Field

from headwater.schemas.acl import ENROLMENT_PASSWORD, ENROLMENT_USER, enrolment_acl, fleet_acl, viewers_acl
from headwater.schemas.base import Frozen, NodeId
from headwater.schemas.limits import MAX_CHILDREN
from headwater.schemas.links import Port
from headwater.transport.mosquitto import (
    MAX_ENROLLING,
    Bridge,
    Door,
    ServerTls,
    acl_file,
    config_file,
    password_file,
)

CONFIG: Final = "mosquitto.conf"
VIEWERS: Final = "viewers.users"
"""The file that `headwater broker password` adds people to."""

SALT_SIZE_BYTES: Final = 12
_MAX_NAMED: Final = 1024

Names = Annotated[tuple[NodeId, ...], Field(max_length=MAX_CHILDREN)]


class FleetBroker(Frozen):
    """A Mosquitto of a fleet.

    Args:
        folder: where its files are, as Mosquitto sees it.
        parents: the cloud, or gateways, whose children come here.
        children: by parent, who they are; nobody else may then be its child, or read what it sends them.
        gateways: who tells people of a cluster's rounds; by default any node may, of its own.
        barred: nodes that may do nothing any more, even on a connection that they have.
        tls: with `ca`, for nodes are known by their certificates.
        enrolment_port: None where nobody may ask for a certificate here.
        enrolment_by: the user who answers: the cloud, or who runs `headwater pki serve`.
        viewer_port: None where there are no `viewers`.
        data: folder for what outlives a restart.
    """

    fleet: NodeId = "fleet"
    folder: Path
    parents: Names = ("cloud",)
    children: Annotated[dict[NodeId, Names], Field(max_length=_MAX_NAMED)] = Field(default_factory=dict)
    gateways: Names | None = None
    barred: Names = ()
    cloud: NodeId = "cloud"
    host: str = "0.0.0.0"
    port: Port = 8883
    tls: ServerTls
    enrolment_port: Port | None = 8884
    enrolment_by: NodeId = "cloud"
    viewer_port: Port | None = None
    viewers: Annotated[tuple[NodeId, ...], Field(max_length=_MAX_NAMED)] = ()
    predictions: bool = False
    data: Path | None = None
    bridges: Annotated[tuple[Bridge, ...], Field(max_length=_MAX_NAMED)] = ()


class File(NamedTuple):
    text: str
    is_secret: bool = False


def files(broker: FleetBroker, salt: Callable[[int], bytes]) -> dict[str, File]:
    """File name to content, but for the passwords of viewers, which are added one by one.

    Raises:
        ValueError: names that contradict each other.
    """
    nodes = fleet_acl(
        broker.fleet,
        parents=broker.parents,
        cloud=broker.cloud,
        children=broker.children,
        gateways=broker.gateways,
        enrolment=broker.enrolment_by if broker.enrolment_port else None,
        barred=broker.barred,
    )
    made = {CONFIG: File(config_file(*_doors(broker), data=broker.data, bridges=broker.bridges))}
    made["nodes.acl"] = File(acl_file(nodes))
    if broker.enrolment_port:
        passwords = {ENROLMENT_USER: ENROLMENT_PASSWORD}
        made["enrolment.acl"] = File(acl_file(enrolment_acl(broker.fleet)))
        made["enrolment.users"] = File(password_file(passwords, {ENROLMENT_USER: salt(SALT_SIZE_BYTES)}), True)
    if broker.viewer_port:
        made["viewers.acl"] = File(acl_file(viewers_acl(broker.fleet, broker.viewers, broker.predictions)))
    return made


def _doors(broker: FleetBroker) -> list[Door]:
    folder, open_tls = broker.folder, broker.tls.model_copy(update={"ca": None, "revoked": None})
    doors = [Door(port=broker.port, host=broker.host, tls=broker.tls, acl=folder / "nodes.acl")]
    if broker.enrolment_port:
        door = Door(port=broker.enrolment_port, host=broker.host, tls=open_tls, max_connections=MAX_ENROLLING)
        named = {"acl": folder / "enrolment.acl", "passwords": folder / "enrolment.users"}
        doors.append(door.model_copy(update=named))
    if broker.viewer_port:
        door = Door(port=broker.viewer_port, host=broker.host, tls=open_tls)
        doors.append(door.model_copy(update={"acl": folder / "viewers.acl", "passwords": folder / VIEWERS}))
    return doors
