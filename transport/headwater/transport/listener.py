"""Law: a listener hears other people's topics and says nothing: no echo, no will, not a byte on any topic.

A broker that is not there yet is waited for, since sensors may start later than the device, unless told otherwise; one
that refuses is not.
"""

from typing import Final

from headwater.schemas.errors import AccessRefused
from headwater.schemas.links import BrokerSettings
from headwater.transport.link import Client, Link, OnMessage, log

_REFUSED: Final = 128
"""The lowest failure code of a SUBACK."""


class Listener(Link):
    """A connection that reads.

    Args:
        client: the MQTT client identifier; another than that of the node's own session.
        topics: what to subscribe to, at QoS 1.
        on_message: gets every message, in the event loop.
        patient: as for a `Link`.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        *,
        client: str,
        topics: tuple[str, ...],
        on_message: OnMessage,
        patient: bool = True,
    ) -> None:
        super().__init__(broker, client=client, patient=patient)
        self._topics = topics
        self._on_message = on_message

    async def _serve(self, client: Client) -> None:
        granted = await client.subscribe([(topic, 1) for topic in self._topics])
        refused = [topic for topic, code in zip(self._topics, granted, strict=False) if _value(code) >= _REFUSED]
        if refused:
            self._on_refusal(refused[0])
        self._came_up()
        log.info("listening on %s as %s", self._where, self._client_id)
        await self._stay(client)

    def _on_refusal(self, topic: str) -> None:
        said = (
            f"broker {self._where}: user {self._broker.user or 'anonymous'!r} may not read {topic}; let the broker's "
            "rules allow it"
        )
        if not self._proven:
            raise AccessRefused(said)
        # The rules changed meanwhile: what is still granted goes on.
        log.error("%s", said)

    def _receive(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            self._on_message(topic, payload, retained)
        except Exception:
            # One bad message must not take the connection down with it.
            log.exception("a message on %s was dropped", topic)


def _value(code: object) -> int:
    """A SUBACK's code: an integer of MQTT 3.1.1, or a reason of MQTT 5."""
    value = getattr(code, "value", code)
    return value if isinstance(value, int) else 0
