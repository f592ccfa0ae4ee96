"""Law: a tree is described by who is below whom; brokers, gateways and devices are started from that alone."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headwater.testbed.processes import Processes
from headwater.transport.broker import BrokerConfig, BrokerProcess, spawn


@dataclass(frozen=True, slots=True)
class Tree:
    """A fleet on one machine.

    `clusters` maps each gateway to its devices; a gateway named "" stands for devices right below the cloud.
    `data` gives each device its data sources, `settings` any node what else it is started with. With `brokers`
    (gateway, or "cloud", to port) nothing is started for them; otherwise each site and the cloud get an embedded
    broker.
    """

    fleet: str
    clusters: Mapping[str, tuple[str, ...]]
    data: Mapping[str, Mapping[str, Any]]
    brokers: Mapping[str, int] | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(gateway for gateway in self.clusters if gateway)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(device for devices in self.clusters.values() for device in devices)


@dataclass(frozen=True, slots=True)
class Standing:
    """A tree that was started: its processes, the port of each broker by the node that it serves, the history."""

    tree: Tree
    processes: Processes
    ports: Mapping[str, int]
    brokers: tuple[BrokerProcess, ...]
    database: str

    def check(self) -> None:
        """Raises ProcessDied where a part has ended by itself."""
        self.processes.check()


@contextlib.contextmanager
def standing(tree: Tree, folder: Path, *, log_level: str = "info") -> Iterator[Standing]:
    """Start every part of a tree and end them all afterwards, whatever happens."""
    database = f"sqlite:///{(folder / 'history.db').resolve()}"
    with contextlib.ExitStack() as stack:
        brokers: dict[str, BrokerProcess] = {}
        ports = dict(tree.brokers or {})
        if tree.brokers is None:
            for node in ("cloud", *tree.gateways):
                brokers[node] = stack.enter_context(spawn(BrokerConfig(port=0)))
                ports[node] = brokers[node].port
        processes = stack.enter_context(Processes(folder))
        shared = {"fleet": tree.fleet, "log": {"level": log_level}}

        def start(kind: str, node: str, place: Mapping[str, Any]) -> None:
            processes.start(kind, {**shared, "node": node, **place, **tree.settings.get(node, {})})

        start("cloud", "cloud", {"database": database, "broker": {"port": ports["cloud"]}})
        for gateway, devices in tree.clusters.items():
            port = ports[gateway or "cloud"]
            if gateway:
                links = {"uplink": {"port": ports["cloud"]}, "site": {"port": port}}
                start("gateway", gateway, {"parent": "cloud", **links})
            for device in devices:
                place = {"parent": gateway or "cloud", "broker": {"port": port}}
                start("device", device, {**place, "data": tree.data[device]})
        yield Standing(tree, processes, ports, tuple(brokers.values()), database)
