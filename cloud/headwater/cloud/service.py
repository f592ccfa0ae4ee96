"""Law: the cloud is a history, a link and a coordinator, running until it is told to stop."""

import logging
from functools import partial

from headwater.cloud.coordinator import Coordinator
from headwater.cloud.history import open_history
from headwater.node.identity import Identity
from headwater.node.parent import Parent
from headwater.node.service import together
from headwater.schemas.settings import CloudSettings
from headwater.schemas.statuses import RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.transport.objects import ObjectStore
from headwater.transport.session import LinkDown, Session

log = logging.getLogger("headwater.cloud")


async def serve(settings: CloudSettings) -> None:
    """Run the coordinator. Raises HistoryError, BrokerUnreachable or AccessRefused."""
    history = open_history(settings.database.get_secret_value())
    identity = Identity(settings.fleet, settings.node, "cloud", None)
    topics = Topics(settings.fleet)
    store = ObjectStore(settings.store_size_bytes)

    async def tell_of_round(status: RoundStatus) -> None:
        await parent.session.publish(topics.round, encode_status(status), retain=True)

    async def tell_of_run(status: RunStatus) -> None:
        try:
            await parent.session.publish(topics.run, encode_status(status), retain=True)
        except LinkDown as error:
            log.debug("a status for people was lost with the link: %s", error)

    async def be_born() -> None:
        birth = identity.status("online", {})
        await parent.session.publish(birth.topic, birth.payload, retain=True)

    parent = Parent(
        partial(Session, settings.broker),
        identity,
        store,
        client=settings.node,
        tell_people=tell_of_round,
        journal=history.journal,
        heartbeat_s=settings.heartbeat_s,
        will=identity.status("offline", {}),
        on_connect=be_born,
    )
    coordinator = Coordinator(settings.fleet, parent, history, store, tell_people=tell_of_run)
    try:
        await together(parent.run(), coordinator.serve())
    finally:
        history.close()
