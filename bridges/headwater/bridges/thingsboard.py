"""Law: to ThingsBoard this bridge is one gateway whose devices are the fleet's nodes, told as telemetry and attributes.

https://thingsboard.io/docs/reference/gateway-mqtt-api/
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from headwater.bridges.book import Book, Node
from headwater.transport.link import Publication

CONNECT: Final = "v1/gateway/connect"
DISCONNECT: Final = "v1/gateway/disconnect"
ATTRIBUTES: Final = "v1/gateway/attributes"
TELEMETRY: Final = "v1/gateway/telemetry"


class ThingsBoard:
    """What one fleet's book is in a ThingsBoard gateway's topics.

    Args:
        now: seconds since 1970, the time of what is told.
    """

    def __init__(self, fleet: str, now: Callable[[], float]) -> None:
        self._fleet = fleet
        self._now = now

    def greeting(self) -> None:
        """ThingsBoard sees the connection itself."""

    def farewell(self) -> None:
        """It also sees it end."""

    def told(self, book: Book, name: str) -> Iterator[Publication]:
        """A node, or for "" the fleet: that it is there, what it is, and how it is now."""
        device = name or f"fleet {self._fleet}"
        if name and name not in book.nodes:
            yield _publication(DISCONNECT, {"device": device})
            return
        if not name and book.run is None:
            return
        kind = book.nodes[name].status.role if name else "fleet"
        # Looked at before the first is on its way: meanwhile the book goes on.
        about, values = _of_node(book.nodes[name]) if name else _of_fleet(book)
        yield _publication(CONNECT, {"device": device, "type": f"Headwater {kind}"})
        yield _publication(ATTRIBUTES, {device: {"fleet": self._fleet, **about}})
        known = {key: value for key, value in values.items() if value is not None}
        yield _publication(TELEMETRY, {device: [{"ts": round(1000 * self._now()), "values": known}]})


def _of_node(node: Node) -> tuple[dict[str, Any], dict[str, Any]]:
    status = node.status
    about = {"role": status.role, "parent": status.parent, "software": status.software}
    examples = sum(data.train_examples for data in status.data.values())
    values = {
        "online": status.state == "online",
        "examples": examples,
        "battery_percent": status.battery_percent,
        "last_round": node.round,
        "model_accuracy": node.accuracy,
    }
    return about, values


def _of_fleet(book: Book) -> tuple[dict[str, Any], dict[str, Any]]:
    run = book.run
    assert run is not None
    about = {"run": run.run, "run_name": run.name, "rounds": run.rounds}
    return about, {"run_state": run.state, "round": run.round, "accuracy": run.accuracy, "loss": run.loss}


def _publication(topic: str, content: dict[str, Any]) -> Publication:
    return Publication(topic, json.dumps(content).encode())
