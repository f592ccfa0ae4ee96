"""Law: a message goes once to each client that subscribed it, whatever filters overlap, at the best QoS granted.

Who gets a topic is worked out once and remembered until a subscription changes: a round repeats its topics.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from paho.mqtt.matcher import MQTTMatcher

C = TypeVar("C", bound=Hashable)
_MAX_REMEMBERED: Final = 16_384
"""Topics whose receivers are kept; beyond, all are forgotten and worked out again."""


class Router(Generic[C]):
    """Subscriptions of clients of any type `C`. `may_receive` is asked for each client and topic."""

    def __init__(self, may_receive: Callable[[C, str], bool]) -> None:
        self._may_receive = may_receive
        self._filters = MQTTMatcher()  # type: ignore[no-untyped-call]
        self._of_client: defaultdict[C, dict[str, int]] = defaultdict(dict)
        self._receivers: dict[str, tuple[tuple[C, int], ...]] = {}

    def subscribe(self, client: C, topic_filter: str, qos: int) -> None:
        """Adds a subscription, or changes its QoS."""
        self._receivers.clear()
        self._subscribers(topic_filter)[client] = qos
        self._of_client[client][topic_filter] = qos

    def unsubscribe(self, client: C, topic_filter: str) -> None:
        """Removes a subscription, if there is one."""
        if self._of_client.get(client, {}).pop(topic_filter, None) is None:
            return
        self._receivers.clear()
        subscribers = self._subscribers(topic_filter)
        del subscribers[client]
        if not subscribers:
            del self._filters[topic_filter]  # type: ignore[no-untyped-call]

    def leave(self, client: C) -> None:
        """Removes all that `client` subscribed."""
        for topic_filter in list(self._of_client.get(client, ())):
            self.unsubscribe(client, topic_filter)
        self._of_client.pop(client, None)

    def subscription_count(self, client: C) -> int:
        return len(self._of_client.get(client, ()))

    def receivers(self, topic: str) -> tuple[tuple[C, int], ...]:
        """Each client that gets `topic`, with the QoS granted to it."""
        known = self._receivers.get(topic)
        if known is None:
            if len(self._receivers) >= _MAX_REMEMBERED:
                self._receivers.clear()
            known = self._receivers[topic] = self._find(topic)
        return known

    def _find(self, topic: str) -> tuple[tuple[C, int], ...]:
        best: dict[C, int] = {}
        for subscribers in self._filters.iter_match(topic):  # type: ignore[no-untyped-call]
            for client, qos in subscribers.items():
                best[client] = max(qos, best.get(client, 0))
        return tuple((client, qos) for client, qos in best.items() if self._may_receive(client, topic))

    def _subscribers(self, topic_filter: str) -> dict[C, int]:
        try:
            found: dict[C, int] = self._filters[topic_filter]
        except KeyError:
            found = self._filters[topic_filter] = {}
        return found
