"""Law: a device agent is its data, its link and its work, running until it is told to stop."""

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from headwater.device.agent import Agent, Means
from headwater.device.coach import Beside
from headwater.device.consent import Consent
from headwater.device.notify import Supervisor, keep_told
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.runtime.trainer import Trainer
from headwater.device.sensors import Sensors, watch
from headwater.device.sharing import Sharing, classes_of
from headwater.device.sources import LiveSource, Source, open_sources
from headwater.device.sources.live.listening import services
from headwater.device.state import LocalState, training_state
from headwater.device.telling import Battery, Word, tell_changes
from headwater.device.updating.updater import Surroundings, updater_of
from headwater.node.child import Assignment, Decline
from headwater.node.enrolling import enrol_if_new
from headwater.node.envelope import looking_after
from headwater.node.identity import Identity
from headwater.node.parents import Parents, second_of
from headwater.node.places import own
from headwater.node.service import together
from headwater.node.stock import Account, Stock, open_stock
from headwater.node.watching import Gauge, Sights, Watch, disk, metrics
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Delta
from headwater.schemas.settings import DeviceSettings
from headwater.schemas.topics import Topics
from headwater.transport.session import Session

if TYPE_CHECKING:
    from headwater.device.serving.server import Server


async def serve(settings: DeviceSettings) -> None:
    """Run a device agent.

    Raises:
        ConfigError: the settings contradict each other.
        DataError: a data source is at fault.
        BrokerUnreachable, AccessRefused: the broker is.
    """
    identity = Identity(settings.fleet, settings.node, "device", settings.parent)
    await enrol_if_new(settings.enrol, settings.fleet, settings.node, settings.broker)
    with metrics(settings.metrics, identity) as counting:
        await _serve(settings, identity, Watch(metrics=counting))


@dataclass(frozen=True, slots=True)
class _Body:
    """What a device is, whoever its parent: its data and sensors, the process that runs graphs, what it keeps and tells
    of itself, and the agent that puts them to work."""

    sources: Mapping[str, Source]
    sensors: Sensors
    worker: Worker
    state: LocalState
    sharing: Sharing
    battery: Battery | None
    agent: Agent

    def percent(self) -> float | None:
        """Of the battery, where there is one and it is told of."""
        return self.battery.percent() if self.battery is not None else None

    async def word(self) -> Word:
        await self.sharing.look(self.sources)
        return Word(self.agent.data(), self.percent())


async def _serve(settings: DeviceSettings, identity: Identity, watch: Watch) -> None:
    body = await _body(settings)
    stock = open_stock(settings, has_two_parents=settings.fallback is not None)
    parents = Parents(
        partial(Session, settings.broker),
        identity,
        stock.making(Account(body.agent.data, body.agent.refused, body.percent)),
        heartbeat_s=settings.heartbeat_s,
        second=second_of(settings.fallback, identity, settings.broker),
    )
    server = _server(settings, body, parents) if settings.serving.enabled else None
    try:
        await together(
            parents.run(watch.working(partial(_work, settings.node, body.agent, server))),
            watch.run(_sights(settings, body, stock, parents)),
            tell_changes(body.word, parents.tell_status),
            keep_told(Supervisor.of(os.environ), parents.standing),
            *services(settings.node, settings.broker, body.sources.values()),
            *([_serving(server, body.worker)] if server is not None else []),
            *looking_after(stock.trust, parents.tell_status_soon),
            *_updating(settings, body, stock, parents),
        )
    finally:
        body.worker.close()
        stock.store.close()


async def _body(settings: DeviceSettings) -> _Body:
    """Raises ConfigError where a rule or what is to be shared contradicts what there is, DataError for a source."""
    beside = _beside(settings)
    sensors = Sensors()
    sources = open_sources(settings.data, settings.state / "data" / settings.node)
    worker = Worker(
        Bounds(
            memory_limit_bytes=settings.worker.memory_limit_mb * 2**20,
            niceness=settings.conditions.niceness,
            idle_s=settings.worker.idle_s,
        )
    )
    state = LocalState(training_state(settings.state, settings.node))
    sharing = _sharing(settings, state)
    await sharing.look(sources)
    battery = Battery(sensors, time.monotonic) if settings.sharing.battery else None
    means = Means(worker=worker, state=state, beside=beside, sharing=sharing)
    agent = Agent(settings.node, sources, time_limit_s=settings.training_limit_s, means=means)
    return _Body(sources, sensors, worker, state, sharing, battery, agent)


async def _work(node: str, agent: Agent, server: "Server | None", assignment: Assignment) -> Delta | Decline:
    """What a plan asks for; the model that came with it is then offered to whoever scores."""
    result = await agent.work(assignment)
    if server is not None and isinstance(result, Delta):
        server.offer(own(assignment, node))
    return result


def _sights(settings: DeviceSettings, body: _Body, stock: Stock, parents: Parents) -> Sights:
    return Sights(
        links={"uplink": lambda: parents.session},
        data=body.agent.data,
        gauges={**disk(settings.state), **_gauges(body.sensors, body.worker), **stock.gauges},
    )


def _updating(settings: DeviceSettings, body: _Body, stock: Stock, parents: Parents) -> list[Awaitable[None]]:
    """What takes new software, where that is wished."""
    if settings.update is None:
        return []
    around = Surroundings(
        is_quiet=lambda: not body.agent.is_busy and not stock.outbox.size_bytes,
        check_self=partial(asyncio.to_thread, body.worker.check),
        tell=parents.tell_status,
    )
    return [updater_of(settings.update, settings.fleet, settings.node, stock.software, around).run()]


def _sharing(settings: DeviceSettings, state: LocalState) -> Sharing:
    """Raises ConfigError where it is not said what would be shared."""
    classes = classes_of(settings.sharing, settings.data) if settings.sharing.histogram else {}
    return Sharing(classes, settings.sharing.epsilon, state)


def _gauges(sensors: Sensors, worker: Worker) -> dict[str, Gauge]:
    """Of the board, and of what runs on it."""

    def battery() -> float | None:
        percent = sensors.reading(datetime.now()).battery_percent
        return None if percent is None else percent / 100

    return {
        "headwater_temperature_celsius": lambda: sensors.reading(datetime.now()).temperature_c,
        "headwater_battery_ratio": battery,
        "headwater_worker_memory_bytes": lambda: worker.memory_bytes,
    }


def _beside(settings: DeviceSettings) -> Beside:
    """Raises ConfigError where a rule needs what is not there."""
    conditions = settings.conditions
    consent = Consent(conditions.rule) if conditions.rule is not None else None
    return Beside(watch(conditions, Sensors(), datetime.now), conditions, consent=consent)


def _server(settings: DeviceSettings, body: _Body, parents: Parents) -> "Server":
    """Raises ConfigError where there is nothing to serve."""
    # What is off is not loaded: a device that only trains is small.
    from headwater.device.serving.server import Server

    live = {key: source for key, source in body.sources.items() if isinstance(source, LiveSource)}
    if not live:
        known = ", ".join(body.sources)
        raise ConfigError(
            f'serving.enabled: none of the data ({known}) is live; give a source of kind = "mqtt", or take it out'
        )
    topic = Topics(settings.fleet).predictions(settings.node)
    return Server(
        settings.node,
        settings.serving,
        live,
        folder=settings.state / "serving" / settings.node,
        open_bundle=lambda bundle: Trainer(bundle, body.worker),
        kept=body.state.kept,
        publish=lambda payload: parents.publish(topic, payload),
    )


async def _serving(server: "Server", worker: Worker) -> None:
    """A window wants its answer at once, so the worker stays."""
    with worker.kept():
        await server.run()
