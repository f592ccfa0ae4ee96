"""Law: a fleet whose every part can be hit: each link goes through a proxy, each broker and process can be killed.

A tree of two tiers below two coordinators, of which one leads; every broker a Mosquitto of its own that keeps what it
acknowledged. What is killed is started again by `mend`, as a supervisor would.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater.testbed.brokers import Broker, Mosquitto
from headwater.testbed.faults.clocks import Clocks
from headwater.testbed.faults.disk import can_mount, fill, free, small_disk
from headwater.testbed.faults.proxy import FAIR, Proxy
from headwater.testbed.faults.schedule import Fault, Targets
from headwater.testbed.machine import free_port
from headwater.testbed.postgres import Postgres
from headwater.testbed.processes import Processes, Started
from headwater.transport.mosquitto import Door, config_file

FLEET: Final = "chaos"
CLOUD: Final = "cloud"
DATABASE: Final = "database"
CLOUDS: Final = ("cloud-a", "cloud-b")

KEEPALIVE_S: Final = 3.0
HEARTBEAT_S: Final = 1.0
LEASE_S: Final = 3.0
MAX_RETRY_WAIT_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 120.0
"""Longer than any fault: a service that starts while its broker is away waits for it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Who is there: each gateway with its devices, and each device's data source."""

    clusters: Mapping[str, tuple[str, ...]]
    data: Mapping[str, Mapping[str, Any]]

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(self.clusters)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(device for devices in self.clusters.values() for device in devices)

    def targets(self, *, disks: bool, server: bool) -> Targets:
        """Everything that can be hit."""
        links = (*(f"{cloud}-up" for cloud in CLOUDS), *(f"{gateway}-up" for gateway in self.gateways))
        return Targets(
            clouds=CLOUDS,
            gateways=self.gateways,
            devices=self.devices,
            brokers=tuple(f"broker-{node}" for node in (CLOUD, *self.gateways)),
            databases=(DATABASE,) if server else (),
            links=(*links, *(f"{gateway}-site" for gateway in self.gateways)),
            disks=self.gateways if disks else (),
        )


class Battered:
    """A fleet that runs, and how to hit and mend it. Hitting what lies already does nothing.

    `ended` are the processes that ended by themselves, with their exit codes.
    """

    def __init__(
        self,
        folder: Path,
        site: Site,
        database: str,
        processes: Processes,
        brokers: Mapping[str, Broker],
        proxies: Mapping[str, Proxy],
        server: Postgres | None,
    ) -> None:
        self.site = site
        self.processes = processes
        self.brokers = brokers
        self._supports: Mapping[str, Broker | Postgres] = {**brokers} | ({DATABASE: server} if server else {})
        self._folder = folder
        self._database = database
        self._proxies = proxies
        self._clocks = Clocks(folder / "clocks")
        self._running: dict[str, Started] = {}
        self.ended: list[tuple[str, int]] = []
        # Threads act while the loop may already be ending: what they start behind the end would stay.
        self._acting = threading.Lock()
        self._closed = False

    def start_all(self) -> None:
        for name in (*CLOUDS, *self.site.gateways, *self.site.devices):
            self._start(name)

    async def strike(self, fault: Fault) -> None:
        """Begin a fault."""
        match fault.kind:
            case "cut":
                self._proxies[fault.target].cut()
            case "silence":
                self._proxies[fault.target].silence()
            case "weather" if fault.weather is not None:
                self._proxies[fault.target].weather = fault.weather
            case "fill":
                await asyncio.to_thread(fill, self.state_of(fault.target))
            case "clock":
                self._clocks.shift(fault.target, fault.clock_s)
            case "kill":
                await asyncio.to_thread(self._kill, fault.target)
            case "freeze":
                self._signal(fault.target, signal.SIGSTOP)

    async def mend(self, fault: Fault) -> None:
        """End a fault; a clock stays as it is."""
        match fault.kind:
            case "cut" | "silence":
                self._proxies[fault.target].heal()
            case "weather":
                self._proxies[fault.target].weather = FAIR
            case "fill":
                await asyncio.to_thread(free, self.state_of(fault.target))
            case "kill":
                await asyncio.to_thread(self._raise, fault.target)
            case "freeze":
                self._signal(fault.target, signal.SIGCONT)

    def close(self) -> None:
        """From now on nothing is started or killed; returns when what a thread is about has been done."""
        with self._acting:
            self._closed = True

    def _kill(self, name: str) -> None:
        with self._acting:
            if self._closed:
                return
            if name in self._supports:
                if self._supports[name].pid is not None:
                    self._supports[name].kill()
            elif name in self._running:
                self.processes.kill(self._running.pop(name))

    def _signal(self, name: str, which: signal.Signals) -> None:
        if name in self._running:
            self._running[name].process.send_signal(which)

    def _raise(self, name: str) -> None:
        with self._acting:
            if self._closed:
                return
            if name in self._supports:
                if self._supports[name].pid is None:
                    self._supports[name].start()
            elif name not in self._running:
                self._start(name)

    def supervise(self) -> None:
        """Start again what has ended by itself, and remember that it did."""
        for name, started in tuple(self._running.items()):
            code = started.process.poll()
            if code is not None:
                self.ended.append((name, code))
                self.processes.started.remove(started)
                self._start(name)

    def pids(self) -> Mapping[str, int]:
        """Process numbers by name, brokers included."""
        services = {name: started.process.pid for name, started in self._running.items()}
        return services | {name: broker.pid for name, broker in self.brokers.items() if broker.pid is not None}

    def state_of(self, node: str) -> Path:
        return self._folder / "state" / node

    def _start(self, name: str) -> None:
        kind, settings = self._settings(name)
        environment = self._clocks.environment(name, os.environ.get("PYTHONPATH", ""))
        self._running[name] = self.processes.start(kind, settings, name=name, environment=environment)

    def _settings(self, name: str) -> tuple[str, Mapping[str, Any]]:
        common: dict[str, Any] = {"fleet": FLEET, "heartbeat_s": HEARTBEAT_S}
        if name in CLOUDS:
            own = {"node": CLOUD, "database": self._database, "lease_s": LEASE_S, "broker": self._link(f"{name}-up")}
            return "cloud", common | own
        common |= {"node": name, "state": str(self.state_of(name))}
        if name in self.site.clusters:
            links = {"uplink": self._link(f"{name}-up"), "site": self._link(f"{name}-site")}
            return "gateway", common | {"parent": CLOUD} | links
        parent = next(gateway for gateway, devices in self.site.clusters.items() if name in devices)
        own = {"parent": parent, "broker": self._link(f"{parent}-site"), "data": self.site.data[name]}
        return "device", common | own

    def _link(self, name: str) -> dict[str, Any]:
        waits = {"max_retry_wait_s": MAX_RETRY_WAIT_S, "connect_timeout_s": CONNECT_TIMEOUT_S}
        return {"port": self._proxies[name].port, "keepalive_s": KEEPALIVE_S} | waits


@contextlib.asynccontextmanager
async def battered(
    folder: Path, site: Site, database: str, seed: int, server: Postgres | None = None
) -> AsyncIterator[Battered]:
    """Brokers and proxies up, processes not yet started; all but the database's server is gone behind."""
    async with contextlib.AsyncExitStack() as stack:
        if can_mount():
            for gateway in site.gateways:
                stack.enter_context(small_disk((folder / "state" / gateway).resolve()))
        brokers = {f"broker-{node}": _broker(folder, node) for node in (CLOUD, *site.gateways)}
        for broker in brokers.values():
            await asyncio.to_thread(broker.start)
            stack.callback(broker.stop)
        proxies: dict[str, Proxy] = {}
        for number, link in enumerate(site.targets(disks=False, server=False).links):
            # Clouds and gateways meet on the cloud's broker, a site on its gateway's.
            node = link.removesuffix("-site") if link.endswith("-site") else CLOUD
            proxy = Proxy(brokers[f"broker-{node}"].port, seed=seed + number)
            proxies[link] = await stack.enter_async_context(proxy)
        processes = stack.enter_context(Processes(folder))
        fleet = Battered(folder, site, database, processes, brokers, proxies, server)
        stack.callback(fleet.close)
        yield fleet


def _broker(folder: Path, node: str) -> Broker:
    port, own = free_port(), folder / f"broker-{node}"
    kept = own / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    return Mosquitto(own, port, config_file(Door(port=port), data=kept.resolve()))
