"""Law: a device agent is its data, its link and its work, running until it is told to stop."""

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
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
from headwater.node.child import Assignment, Child, Decline
from headwater.node.enrolling import enrol_if_new
from headwater.node.envelope import trust_of
from headwater.node.identity import Identity
from headwater.node.outbox import Outbox
from headwater.node.parents import Parents, second_of
from headwater.node.places import own
from headwater.node.releases import Software
from headwater.node.service import together
from headwater.node.store import NodeStore
from headwater.node.watching import Gauge, Sights, Watch, disk, metrics
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Delta
from headwater.schemas.settings import DeviceSettings
from headwater.schemas.topics import Topics
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect, LinkDown, Session

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


async def _serve(settings: DeviceSettings, identity: Identity, watch: Watch) -> None:
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
    percent = battery.percent if battery is not None else lambda: None
    agent = Agent(
        settings.node,
        sources,
        time_limit_s=settings.training_limit_s,
        means=Means(worker=worker, state=state, beside=beside, sharing=sharing),
    )
    store = NodeStore(settings.state / f"{settings.node}.db", settings.kept_size_bytes)
    objects = ObjectStore(settings.store_size_bytes)
    outbox = Outbox(store, has_two_parents=settings.fallback is not None)
    trust = trust_of(settings.trust, settings.fleet, settings.node, store)
    software = Software()

    def child(connect: Connect, identity: Identity) -> Child:
        return Child(
            connect,
            identity,
            objects,
            outbox,
            data=agent.data,
            refused=agent.refused,
            battery=percent,
            trust=trust,
            software=software,
        )

    parents = Parents(
        partial(Session, settings.broker),
        identity,
        child,
        heartbeat_s=settings.heartbeat_s,
        second=second_of(settings.fallback, identity, settings.broker),
    )
    live = services(settings.node, settings.broker, sources.values())

    async def word() -> Word:
        await sharing.look(sources)
        return Word(agent.data(), percent())

    server = _server(settings, sources, worker, state, parents) if settings.serving.enabled else None

    async def work(assignment: Assignment) -> Delta | Decline:
        result = await agent.work(assignment)
        if server is not None and isinstance(result, Delta):
            server.offer(own(assignment, settings.node))
        return result

    async def check_self() -> None:
        await asyncio.to_thread(worker.check)

    around = Surroundings(lambda: not agent.is_busy and not outbox.size_bytes, check_self, parents.tell_status)
    serving = [_serving(server, worker)] if server else []
    trusting = [trust.look_after(partial(_tell_certificate, parents))] if trust else []
    sights = Sights(
        links={"uplink": lambda: parents.session},
        data=agent.data,
        gauges={
            **disk(settings.state),
            **_gauges(sensors, worker),
            "headwater_outbox_bytes": lambda: outbox.size_bytes,
            "headwater_journal_bytes": lambda: store.file_bytes,
        },
    )
    updating = []
    if settings.update is not None:
        updating = [updater_of(settings.update, settings.fleet, settings.node, software, around).run()]
    try:
        await together(
            parents.run(watch.working(work)),
            watch.run(sights),
            tell_changes(word, parents.tell_status),
            keep_told(Supervisor.of(os.environ), parents.standing),
            *live,
            *serving,
            *trusting,
            *updating,
        )
    finally:
        worker.close()
        store.close()


async def _tell_certificate(parents: Parents) -> None:
    # The next connection tells it too.
    with contextlib.suppress(LinkDown):
        await parents.tell_status()


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


def _server(
    settings: DeviceSettings, sources: Mapping[str, Source], worker: Worker, state: LocalState, parents: Parents
) -> "Server":
    """Raises ConfigError where there is nothing to serve."""
    # What is off is not loaded: a device that only trains is small.
    from headwater.device.serving.server import Server

    live = {key: source for key, source in sources.items() if isinstance(source, LiveSource)}
    if not live:
        known = ", ".join(sources)
        raise ConfigError(
            f'serving.enabled: none of the data ({known}) is live; give a source of kind = "mqtt", or take it out'
        )
    topic = Topics(settings.fleet).predictions(settings.node)
    return Server(
        settings.node,
        settings.serving,
        live,
        folder=settings.state / "serving" / settings.node,
        open_bundle=lambda bundle: Trainer(bundle, worker),
        kept=state.kept,
        publish=lambda payload: parents.publish(topic, payload),
    )


async def _serving(server: "Server", worker: Worker) -> None:
    """A window wants its answer at once, so the worker stays."""
    with worker.kept():
        await server.run()
