"""Law: Home Assistant finds each node as a device by itself, with what it may show and nothing to switch.

Discovery by device (Home Assistant 2024.11 and later): one retained configuration a node, which says where its state is
and how to read it. https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from headwater.bridges.book import Book, Node
from headwater.schemas.statuses import RunStatus
from headwater.transport.link import Publication

_PERCENT: Final = {"unit_of_measurement": "%", "state_class": "measurement"}
_NODE: Final[Mapping[str, Mapping[str, Any]]] = {
    "state": {
        "platform": "binary_sensor",
        "name": "Connection",
        "device_class": "connectivity",
        "payload_on": "online",
        "payload_off": "offline",
    },
    "last_round": {"platform": "sensor", "name": "Last round", "icon": "mdi:sync"},
    "accuracy": {
        "platform": "sensor",
        "name": "Model accuracy",
        "icon": "mdi:bullseye-arrow",
        "suggested_display_precision": 1,
        **_PERCENT,
    },
    "examples": {
        "platform": "sensor",
        "name": "Examples",
        "icon": "mdi:database",
        "state_class": "measurement",
        "entity_category": "diagnostic",
    },
    "battery": {"platform": "sensor", "name": "Battery", "device_class": "battery", **_PERCENT},
}
_FLEET: Final[Mapping[str, Mapping[str, Any]]] = {
    "run_state": {
        "platform": "sensor",
        "name": "Run",
        "device_class": "enum",
        "options": ["queued", "running", "paused", "finished", "stopped", "failed"],
    },
    "run": {"platform": "sensor", "name": "Run id", "icon": "mdi:identifier", "entity_category": "diagnostic"},
    "round": {"platform": "sensor", "name": "Round", "icon": "mdi:sync"},
    "rounds": {"platform": "sensor", "name": "Rounds", "icon": "mdi:flag-checkered"},
    "accuracy": _NODE["accuracy"],
    "loss": {"platform": "sensor", "name": "Loss", "icon": "mdi:chart-line", "state_class": "measurement"},
    "online": {"platform": "sensor", "name": "Devices online", "icon": "mdi:chip", "state_class": "measurement"},
}


class HomeAssistant:
    """What one fleet's book is in Home Assistant's topics.

    Args:
        prefix: Home Assistant's discovery prefix.
        software: this program's version, as origin.
    """

    def __init__(self, fleet: str, software: str, prefix: str = "homeassistant") -> None:
        self._fleet = fleet
        self._software = software
        self._prefix = prefix
        self._base = f"headwater/{fleet}"

    @property
    def presence(self) -> str:
        """Where it is said whether this bridge is there, without which nothing is known."""
        return f"{self._base}/bridge"

    def greeting(self) -> Publication:
        return Publication(self.presence, b"online", retain=True)

    def farewell(self) -> Publication:
        return Publication(self.presence, b"offline", retain=True)

    def told(self, book: Book, name: str) -> Iterator[Publication]:
        """A node's configuration and state, or for "" the fleet's; of one that is gone that it is gone."""
        if not name:
            yield from self._told_fleet(book)
        elif name in book.nodes:
            yield from self._told_node(book.nodes[name])
        else:
            yield Publication(self._config_topic(self._id(f"node_{name}")), b"", retain=True)
            yield Publication(self._state_topic(name), b"", retain=True)

    def _told_node(self, node: Node) -> Iterator[Publication]:
        status = node.status
        about = {
            "identifiers": [self._id(f"node_{status.node}")],
            "name": status.node,
            "manufacturer": "Headwater",
            "model": status.role,
            "sw_version": status.software,
            "via_device": self._id(f"node_{status.parent}" if status.parent else "fleet"),
        }
        entities = {key: entity for key, entity in _NODE.items() if key != "battery" or _has_battery(node)}
        yield self._config(f"node_{status.node}", about, self._state_topic(status.node), entities)
        state = {
            "state": status.state,
            "last_round": node.round,
            "accuracy": _percent(node.accuracy),
            "examples": sum(data.train_examples for data in status.data.values()),
            "battery": status.battery_percent,
        }
        yield Publication(self._state_topic(status.node), json.dumps(state).encode(), retain=True)

    def _told_fleet(self, book: Book) -> Iterator[Publication]:
        run = book.run
        if run is None:
            return
        about = {"identifiers": [self._id("fleet")], "name": f"Fleet {self._fleet}", "manufacturer": "Headwater"}
        topic = f"{self._base}/fleet"
        yield self._config("fleet", about, topic, _FLEET)
        yield Publication(topic, json.dumps(_run_state(run, book)).encode(), retain=True)

    def _config(
        self, name: str, about: Mapping[str, Any], state_topic: str, entities: Mapping[str, Mapping[str, Any]]
    ) -> Publication:
        id_ = self._id(name)
        components = {
            key: {**entity, "unique_id": f"{id_}_{key}", "value_template": _template(key)}
            for key, entity in entities.items()
        }
        payload = {
            "device": about,
            "origin": {"name": "Headwater", "sw_version": self._software},
            "components": components,
            "state_topic": state_topic,
            "availability_topic": self.presence,
            "qos": 1,
        }
        return Publication(self._config_topic(id_), json.dumps(payload).encode(), retain=True)

    def _config_topic(self, id_: str) -> str:
        return f"{self._prefix}/device/{id_}/config"

    def _state_topic(self, node: str) -> str:
        return f"{self._base}/node/{node}"

    def _id(self, name: str) -> str:
        """An identifier as Home Assistant takes one: letters, digits, '_' and '-'."""
        whole = f"headwater_{self._fleet}_{name}"
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", whole)
        # Two names may differ in nothing but what was replaced.
        return plain if plain == whole else f"{plain}_{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def _run_state(run: RunStatus, book: Book) -> dict[str, Any]:
    devices = [node for node in book.nodes.values() if node.status.role == "device"]
    return {
        "run_state": run.state,
        "run": run.run,
        "round": run.round,
        "rounds": run.rounds,
        "accuracy": _percent(run.accuracy),
        "loss": run.loss,
        "online": sum(node.status.state == "online" for node in devices),
    }


def _has_battery(node: Node) -> bool:
    return node.status.battery_percent is not None


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _template(key: str) -> str:
    """An unknown value is shown as unknown, not as the word None."""
    return f"{{{{ value_json.{key} if value_json.{key} is not none else None }}}}"
