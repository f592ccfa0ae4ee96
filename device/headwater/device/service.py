"""Law: a device agent is its data, its link and its work, running until it is told to stop."""

from datetime import datetime

from headwater.device.agent import Agent, Means
from headwater.device.coach import Beside
from headwater.device.runtime.client import Bounds, Worker
from headwater.device.sensors import Sensors, watch
from headwater.device.sources import open_sources
from headwater.device.sources.live.listening import services
from headwater.device.state import LocalState
from headwater.node.child import Child
from headwater.node.identity import Identity
from headwater.node.service import together
from headwater.schemas.settings import DeviceSettings
from headwater.transport.objects import ObjectStore


async def serve(settings: DeviceSettings) -> None:
    """Run a device agent.

    Raises:
        DataError: a data source is at fault.
        BrokerUnreachable, AccessRefused: the broker is.
    """
    beside = Beside(watch(settings.conditions, Sensors(), datetime.now), settings.conditions)
    sources = open_sources(settings.data, settings.state / "data" / settings.node)
    worker = Worker(
        Bounds(
            memory_limit_bytes=settings.worker.memory_limit_mb * 2**20,
            niceness=settings.conditions.niceness,
            idle_s=settings.worker.idle_s,
        )
    )
    state = LocalState(settings.state / "training" / settings.node)
    agent = Agent(
        settings.node,
        sources,
        time_limit_s=settings.training_limit_s,
        means=Means(worker=worker, state=state, beside=beside),
    )
    identity = Identity(settings.fleet, settings.node, "device", settings.parent)
    child = Child(settings.broker, identity, ObjectStore(settings.store_size_bytes), data=agent.data)
    live = services(settings.node, settings.broker, sources.values(), agent.data, child.tell_status)
    try:
        await together(child.session.run(), child.follow(agent.work), *live)
    finally:
        worker.close()
