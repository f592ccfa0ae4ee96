"""Law: a broker that comes along: in its own process, loopback by default, bounded in everything, MQTT 3.1.1.

For demonstrations, tests and small sites; fleets use Mosquitto. It is amqtt, mended by subclassing. What is here
starts one without loading amqtt; the broker itself, for an event loop of one's own, is `server.EmbeddedBroker`.
"""

from headwater.transport.broker.auth import hash_password, write_password_file
from headwater.transport.broker.config import BrokerConfig, BrokerLimits, BrokerStartError, Tls
from headwater.transport.broker.process import BrokerProcess, serve, spawn

__all__ = [
    "BrokerConfig",
    "BrokerLimits",
    "BrokerProcess",
    "BrokerStartError",
    "Tls",
    "hash_password",
    "serve",
    "spawn",
    "write_password_file",
]
