"""Guests of a broker with rules: what each of them heard is the judge, whatever return codes they got."""

import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTv5, MQTTv311
from paho.mqtt.enums import MQTTProtocolVersion

WAIT_S = 5.0


@dataclass(frozen=True)
class Papers:
    """How a guest says who it is: a certificate, or a name and a password. `ca` None takes any broker."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    user: str | None = None
    password: str | None = None
    tls: bool = True


class Guest:
    """A connection of its own, without this project's code. Inside its `with` it is connected, or was refused."""

    def __init__(self, port: int, papers: Papers, client: str, *, five: bool = True) -> None:
        protocol: MQTTProtocolVersion = MQTTv5 if five else MQTTv311
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=client, protocol=protocol, reconnect_on_failure=False
        )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = lambda _client, _data, message: self.heard.append((message.topic, message.payload))
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_publish = lambda *_: self._published.set()
        self._port, self._five = port, five
        self._answered, self._ended = threading.Event(), threading.Event()
        self._subscribed, self._published = threading.Event(), threading.Event()
        self.heard: list[tuple[str, bytes]] = []
        self.let_in = False
        self.why_ended = ""
        if papers.user is not None:
            self._client.username_pw_set(papers.user, papers.password)
        if papers.tls:
            self._client.tls_set_context(_context(papers))

    @property
    def is_gone(self) -> bool:
        return self._ended.is_set()

    def __enter__(self) -> Self:
        try:
            self._client.connect("localhost", self._port)
        except OSError as error:
            self.why_ended = str(error)
            return self
        self._client.loop_start()
        self._until(lambda: self._answered.is_set() or self.is_gone)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic_filter: str) -> None:
        """Ask for topics, and wait for the answer, whatever it is."""
        self._subscribed.clear()
        self._client.subscribe(topic_filter, 1)
        self._until(lambda: self._subscribed.is_set() or self.is_gone)

    def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish at QoS 1, and wait until the broker has acknowledged it or hung up."""
        self._published.clear()
        self._client.publish(topic, payload, 1, retain)
        self._until(lambda: self._published.is_set() or self.is_gone)

    def hears(self, payload: bytes, timeout_s: float = WAIT_S) -> bool:
        """Whether a message with these bytes comes."""
        return self._until(lambda: any(payload == heard for _, heard in self.heard), timeout_s)

    def _until(self, there: Callable[[], bool], timeout_s: float = WAIT_S) -> bool:
        deadline = time.monotonic() + timeout_s
        while not there():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.let_in = not reason.is_failure
        self.why_ended = str(reason) if reason.is_failure else ""
        self._answered.set()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self.why_ended = self.why_ended or str(reason)
        self._ended.set()


def _context(papers: Papers) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(papers.ca) if papers.ca else None)
    if papers.ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if papers.certificate is not None:
        context.load_cert_chain(str(papers.certificate), str(papers.key))
    return context
