"""Law: one client's side of the protocol: it decodes, acknowledges and delivers; who gets what, the broker decides.

Deliveries are written in the order in which the broker hands them over, none waits for an acknowledgement.
Sessions are clean, so nothing is sent twice: MQTT 3.1.1 asks for redelivery only when a kept session resumes,
and Headwater's protocol asks again by itself. Unacknowledged deliveries are bounded all the same.
"""

from typing import Any

from headwater.transport.broker.connection import Connection
from headwater.transport.broker.packets import Message, encode_publish_head
from headwater.transport.broker.stock import BrokerProtocolHandler, Session

KEEP_ALIVE_FACTOR = 1.5
"""MQTT 3.1.1, section 3.1.2.10."""

_MAX_REFUSALS_LOGGED = 32
"""Topics of one client for which a refusal is logged; later ones are only counted."""


class ClientHandler(BrokerProtocolHandler):  # type: ignore[misc]
    """A client that was let in. `user` is its proven name, or None."""

    session: Session
    connection: Connection

    def admit(self, session: Session, connection: Connection, user: str | None, max_unacknowledged: int) -> None:
        """Binds the handler, as decoded from CONNECT, to its connection and user."""
        self.attach(session, None, connection)
        self.connection = connection
        self.user = user
        self.is_held = False
        self.has_left = False
        self.refused_topics: set[str] = set()
        self.qos2_received: set[int] = set()
        self._max_unacknowledged = max_unacknowledged
        self._unacknowledged: set[int] = set()
        self._last_packet_id = 0

    @property
    def will(self) -> Message | None:
        """The last will, unless the client has none."""
        session = self.session
        if not session.will_flag:
            return None
        return Message(session.will_topic, bytes(session.will_message), min(session.will_qos, 1), session.will_retain)

    def overdue(self, now_s: float, slow_reader_timeout_s: float) -> str:
        """Why time is up for this client, or nothing. A client that we keep waiting is not silent."""
        silent_s = now_s - self.connection.heard_at_s
        if self.connection.congested_s(now_s) > slow_reader_timeout_s:
            return f"reads too slowly: behind for {slow_reader_timeout_s:g} s"
        if self.is_held or not self.session.keep_alive:
            return ""
        if silent_s > KEEP_ALIVE_FACTOR * self.session.keep_alive:
            return f"silent for {silent_s:.1f} s, keep-alive {self.session.keep_alive} s"
        return ""

    def deliver(self, message: Message, qos: int, retain: bool = False) -> None:
        """Writes `message` at the lower of its own QoS and `qos`, unless the client is on its way out."""
        if self.connection.is_closing:
            return
        qos = min(qos, message.qos)
        head = encode_publish_head(message.topic, len(message.payload), qos, retain)
        if qos:
            head += self._next_packet_id().to_bytes(2, "big")
        self.connection.write(head + message.payload)

    def acknowledge(self, packet_id: int) -> None:
        """Takes the client's PUBACK. One for a message never sent is ignored, as MQTT 3.1.1 leaves it open."""
        self._unacknowledged.discard(packet_id)

    def is_new_refusal(self, topic: str) -> bool:
        """Whether a refusal for `topic` has not been logged yet, and still may be."""
        if topic in self.refused_topics or len(self.refused_topics) >= _MAX_REFUSALS_LOGGED:
            return False
        self.refused_topics.add(topic)
        return True

    async def _send_packet(self, packet: Any) -> None:
        self.connection.write(packet.to_bytes())

    def _next_packet_id(self) -> int:
        if len(self._unacknowledged) >= self._max_unacknowledged:
            self.connection.drop(f"acknowledges too slowly: {len(self._unacknowledged)} messages are open")
        while True:
            self._last_packet_id = self._last_packet_id % 65_535 + 1
            if self._last_packet_id not in self._unacknowledged:
                self._unacknowledged.add(self._last_packet_id)
                return self._last_packet_id
