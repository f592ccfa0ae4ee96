"""Law: bytes become whole packets before anything is decoded, and none is larger than the limit.

The packets that carry the load (PUBLISH and its acknowledgements) are read and written here; amqtt's own
classes decode the rest, from a frame that is already complete and measured.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from headwater.transport.broker.stock import DECODING_ERRORS, BufferReader, MQTTFixedHeader
from headwater.transport.broker.topic_filters import is_topic

CONNECT, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 3, 4, 5, 6, 7
SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 8, 10, 12, 14
PING_RESPONSE: Final = b"\xd0\x00"
MQTT_3_1_1: Final = 4
_FLAGS: Final = {
    CONNECT: 0,
    PUBACK: 0,
    PUBREC: 0,
    PUBREL: 2,
    PUBCOMP: 0,
    SUBSCRIBE: 2,
    UNSUBSCRIBE: 2,
    PINGREQ: 0,
    DISCONNECT: 0,
}
_MAX_LENGTH_BYTES: Final = 4


class ProtocolViolation(Exception):
    """The client broke MQTT 3.1.1 or a limit; its connection ends."""


class Frame(NamedTuple):
    """One packet: its type and flags (the first byte), and what follows the length."""

    kind: int
    flags: int
    body: bytes


class Message(NamedTuple):
    """One PUBLISH. `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    packet_id: int = 0


class Framer:
    """Cuts a stream of bytes into frames."""

    def __init__(self, max_size_bytes: int) -> None:
        self._max_size_bytes = max_size_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields each frame that `data` completes.

        Raises:
            ProtocolViolation: a packet of unknown kind, with wrong flags or beyond the limit, as soon as its header
                says so, before its body is kept.
        """
        buffer = self._buffer
        buffer += data
        while header := self._header():
            start, end = header
            if len(buffer) < end:
                return
            kind, flags = buffer[0] >> 4, buffer[0] & 15
            body = bytes(memoryview(buffer)[start:end])
            del buffer[:end]
            yield Frame(kind, flags, body)

    def _header(self) -> tuple[int, int] | None:
        """Where the body of the first packet starts and ends; None while that is not known yet."""
        buffer = self._buffer
        if not buffer:
            return None
        kind = buffer[0] >> 4
        if kind != PUBLISH and _FLAGS.get(kind) != buffer[0] & 15:
            raise ProtocolViolation(f"first byte {buffer[0]:#04x} begins no packet that a client sends")
        length = 0
        for index in range(1, 1 + _MAX_LENGTH_BYTES):
            if index >= len(buffer):
                return None
            length |= (buffer[index] & 0x7F) << (7 * (index - 1))
            if buffer[index] < 0x80:
                end = index + 1 + length
                if end > self._max_size_bytes:
                    raise ProtocolViolation(f"packet of {end} bytes, limit {self._max_size_bytes}")
                return index + 1, end
        raise ProtocolViolation("the length of a packet has more than 4 bytes")


def decode_publish(frame: Frame) -> Message:
    """The message of a PUBLISH frame.

    Raises:
        ProtocolViolation: no topic, a topic with wildcards, bytes that are no UTF-8, QoS 3 or packet id 0.
    """
    body, qos = frame.body, frame.flags >> 1 & 3
    start = 2 + int.from_bytes(body[:2], "big")
    end = start + 2 if qos else start
    if qos == 3 or len(body) < end or len(body) < 2:
        raise ProtocolViolation("malformed PUBLISH")
    packet_id = int.from_bytes(body[start:end], "big")
    try:
        topic = body[2:start].decode()
    except UnicodeDecodeError as error:
        raise ProtocolViolation("PUBLISH: the topic is not UTF-8") from error
    if not is_topic(topic) or (qos and not packet_id):
        raise ProtocolViolation(f"PUBLISH: topic {topic[:200]!r} or packet id {packet_id} is not allowed")
    return Message(topic, body[end:], qos, bool(frame.flags & 1), packet_id)


def encode_publish_head(topic: str, payload_size_bytes: int, qos: int, retain: bool) -> bytes:
    """All of a PUBLISH that comes before the packet id (QoS 1) or the payload (QoS 0)."""
    name = topic.encode()
    length = 2 + len(name) + (2 if qos else 0) + payload_size_bytes
    head = bytearray((PUBLISH << 4 | qos << 1 | retain,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + len(name).to_bytes(2, "big") + name


def packet_id_of(frame: Frame) -> int:
    """The packet id of an acknowledgement.

    Raises:
        ProtocolViolation: the frame holds more or less than that.
    """
    if len(frame.body) != 2:
        raise ProtocolViolation("malformed acknowledgement")
    return int.from_bytes(frame.body, "big")


def encode_acknowledgement(kind: int, packet_id: int) -> bytes:
    """A PUBACK, PUBREC or PUBCOMP."""
    return bytes((kind << 4, 2)) + packet_id.to_bytes(2, "big")


def as_bytes(frame: Frame) -> bytes:
    """The whole packet again, for a decoder that reads it from its first byte."""
    return bytes(MQTTFixedHeader(frame.kind, frame.flags, len(frame.body)).to_bytes()) + frame.body


async def decode(packet_class: Any, frame: Frame) -> Any:
    """Decodes with one of amqtt's packet classes, and encodes again: amqtt passes over what is cut or garbled.

    Raises:
        ProtocolViolation: the frame is not exactly one such packet.
    """
    data = as_bytes(frame)
    try:
        packet = await packet_class.from_stream(BufferReader(data))
        exact = packet.to_bytes() == data
    except DECODING_ERRORS as error:
        raise ProtocolViolation(f"malformed {packet_class.__name__}: {error}") from error
    if not exact:
        raise ProtocolViolation(f"malformed {packet_class.__name__}")
    return packet
