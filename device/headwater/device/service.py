"""Law: a device agent is its data, its link and its work, running until it is told to stop."""

from headwater.device.agent import Agent
from headwater.device.sources import load
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
    datasets = {key: load(key, spec) for key, spec in settings.data.items()}
    agent = Agent(settings.node, datasets, time_limit_s=settings.training_limit_s)
    identity = Identity(settings.fleet, settings.node, "device", settings.parent)
    child = Child(settings.broker, identity, ObjectStore(settings.store_size_bytes), data=agent.data)
    await together(child.session.run(), child.follow(agent.work))
