"""Law: the only module that imports amqtt; every other one takes its classes from here.

amqtt carries no type marker, so its names are Any to a type checker; our subclasses say their own types.
"""

from amqtt.adapters import BufferReader, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import AMQTTError, CodecError, MQTTError, NoDataError
from amqtt.mqtt.connack import (
    IDENTIFIER_REJECTED,
    UNACCEPTABLE_PROTOCOL_VERSION,
    ConnackPacket,
)
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket
from amqtt.session import Session

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
