"""Law: an outlet tells another system's broker what it is given, in that system's topics; it asks and hears nothing.

Such a broker knows none of the fleet's topics, so nothing is proven by an echo: what it refuses shows as a refusal, or
as a connection that ends. Its users are not the fleet's nodes.
"""

import asyncio
from collections.abc import Awaitable, Callable

from headwater.schemas.links import BrokerSettings
from headwater.transport.link import Client, Link, LinkDown, Publication, log


class Outlet(Link):
    """A connection that writes.

    Args:
        client: the MQTT client identifier.
        on_connect: runs after each connection: what must be told anew.
        will: published by the broker when the connection dies, and by itself when it stops.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        client: str,
        on_connect: Callable[[], Awaitable[None]],
        will: Publication | None = None,
    ) -> None:
        super().__init__(broker, client=client, will=will)
        self._on_connect = on_connect
        self._client: Client | None = None

    async def publish(self, publication: Publication) -> None:
        """Raises LinkDown."""
        if self._client is None or not self.connected:
            raise LinkDown(f"{self._where}: not connected")
        await self._hand_over(self._client, publication)

    async def _serve(self, client: Client) -> None:
        self._client = client
        try:
            self._came_up()
            log.info("telling %s as %s", self._where, self._client_id)
            await self._on_connect()
            await self._stay(client)
        except asyncio.CancelledError:
            await self._say_goodbye(client)
            raise
        finally:
            self._client = None

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        """Nothing was subscribed to."""
