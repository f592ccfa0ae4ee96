"""Law: a device agent is its data, its link and its work, running until it is told to stop."""

from pathlib import Path
from typing import Final

from headwater.device.agent import Agent
from headwater.device.sources import open_sources
from headwater.device.sources.live.listening import services
from headwater.node.child import Child
from headwater.node.identity import Identity
from headwater.node.service import together
from headwater.schemas.settings import DeviceSettings
from headwater.transport.objects import ObjectStore

STATE: Final = "headwater-state"
"""The folder for what a device keeps, where its settings name none."""


async def serve(settings: DeviceSettings) -> None:
    """Run a device agent.

    Raises:
        DataError: a data source is at fault.
        BrokerUnreachable, AccessRefused: the broker is.
    """
    sources = open_sources(settings.data, Path(getattr(settings, "state", None) or STATE))
    agent = Agent(settings.node, sources, time_limit_s=settings.training_limit_s)
    identity = Identity(settings.fleet, settings.node, "device", settings.parent)
    child = Child(settings.broker, identity, ObjectStore(settings.store_size_bytes), data=agent.data)
    live = services(settings.node, settings.broker, sources.values(), agent.data, child.tell_status)
    await together(child.session.run(), child.follow(agent.work), *live)
