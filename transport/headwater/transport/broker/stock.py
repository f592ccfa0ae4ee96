"""Law: the only module that imports amqtt; every other one takes its classes from here.

amqtt carries no type marker, so its names are Any to a type checker; our subclasses say their own types.
"""

from amqtt.adapters import BufferReader, StreamWriterAdapter  # type: ignore[import-untyped]
from amqtt.broker import Broker  # type: ignore[import-untyped]
from amqtt.contexts import BrokerConfig, ListenerConfig  # type: ignore[import-untyped]
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError  # type: ignore[import-untyped]
from amqtt.mqtt.connack import (  # type: ignore[import-untyped]
    IDENTIFIER_REJECTED,
    UNACCEPTABLE_PROTOCOL_VERSION,
    ConnackPacket,
)
from amqtt.mqtt.packet import MQTTFixedHeader  # type: ignore[import-untyped]
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler  # type: ignore[import-untyped]
from amqtt.mqtt.subscribe import SubscribePacket  # type: ignore[import-untyped]
from amqtt.mqtt.unsubscribe import UnsubscribePacket  # type: ignore[import-untyped]
from amqtt.session import Session  # type: ignore[import-untyped]

DECODING_ERRORS: tuple[type[Exception], ...] = (AMQTTError, CodecError, MQTTError, NoDataError, ValueError)
"""What amqtt raises on bytes that are no MQTT 3.1.1 packet."""

__all__ = [
    "DECODING_ERRORS",
    "IDENTIFIER_REJECTED",
    "UNACCEPTABLE_PROTOCOL_VERSION",
    "Broker",
    "BrokerConfig",
    "BrokerProtocolHandler",
    "BufferReader",
    "ConnackPacket",
    "ListenerConfig",
    "MQTTFixedHeader",
    "Session",
    "StreamWriterAdapter",
    "SubscribePacket",
    "UnsubscribePacket",
]
