"""What Home Assistant and ThingsBoard would show: configurations read as they read them, over real brokers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiomqtt
import jinja2
import pytest

from headwater.bridges.book import Book
from headwater.bridges.home_assistant import HomeAssistant
from headwater.bridges.service import serve
from headwater.bridges.thingsboard import ThingsBoard
from headwater.schemas.config import load
from headwater.schemas.errors import BrokerUnreachable
from headwater.schemas.settings import BridgeSettings, BrokerSettings
from headwater.schemas.statuses import DataStatus, MemberStatus, NodeStatus, RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, encode_status
from headwater.testbed.machine import free_port
from headwater.transport.link import Publication
from headwater.transport.listener import Listener
from support.brokers import broker
from support.waiting import eventually

TOPICS = Topics("plant")
KINDS = pytest.mark.parametrize("kind", [pytest.param("mosquitto", marks=pytest.mark.live), "embedded"])


def node(name: str, state: str = "online", **fields: Any) -> NodeStatus:
    fields = {"role": "device", "parent": "gw1", "software": "1.2", **fields}
    return NodeStatus(node=name, state=state, **fields)  # type: ignore[arg-type]


def data(examples: int) -> dict[str, DataStatus]:
    return {"vibration": DataStatus(train_examples=examples, test_examples=1)}


def run(round_: int, accuracy: float | None = None, state: str = "running") -> RunStatus:
    return RunStatus(run="r1", name="bearings", state=state, round=round_, rounds=5, accuracy=accuracy)  # type: ignore[arg-type]


def cluster(round_: int, **members: str) -> RoundStatus:
    told = tuple(MemberStatus(node=name, state=state) for name, state in members.items())  # type: ignore[arg-type]
    return RoundStatus(
        parent="gw1",
        run="r1",
        round=round_,
        step=0,
        attempt=0,
        task="train",
        state="open",
        cohort=2,
        received=1,
        refused=0,
        members=told,
    )


def book_of(*statuses: NodeStatus | RunStatus | RoundStatus) -> Book:
    book = Book("plant")
    for status in statuses:
        book.take(topic_of(status), encode_status(status))
    return book


def topic_of(status: NodeStatus | RunStatus | RoundStatus) -> str:
    match status:
        case NodeStatus():
            return TOPICS.status(status.node)
        case RunStatus():
            return TOPICS.run
        case RoundStatus():
            return TOPICS.cluster(status.parent)


# ── the book ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_what_is_new_is_a_change() -> None:
    book = Book("plant")
    said = encode_status(node("d1"))
    assert book.take(TOPICS.status("d1"), said) == {"", "d1"}
    assert book.take(TOPICS.status("d1"), said) == frozenset()
    assert book.take(TOPICS.cluster("gw1"), encode_status(cluster(3, d1="received", d2="waiting"))) == {"d1"}
    assert book.take(TOPICS.run, encode_status(run(3, 0.5))) == {"", "d1"}, "its model's accuracy is known"
    assert book.take(TOPICS.run, encode_status(run(4, 0.5))) == {""}
    assert (book.nodes["d1"].round, book.nodes["d1"].accuracy) == (3, 0.5)


def test_who_comes_or_goes_changes_what_is_told_of_the_fleet() -> None:
    book = book_of(run(3), node("d1"))
    assert book.take(TOPICS.status("d2"), encode_status(node("d2"))) == {"", "d2"}
    assert book.take(TOPICS.status("d2"), encode_status(node("d2", data=data(7)))) == {"d2"}
    assert book.take(TOPICS.status("d2"), encode_status(node("d2", "offline"))) == {"", "d2"}
    assert book.take(TOPICS.status("d2"), b"") == {"", "d2"}


def test_a_node_heard_after_its_round_has_it() -> None:
    assert book_of(cluster(3, d1="received"), node("d1")).nodes["d1"].round == 3


def test_a_last_will_takes_nothing_away_but_the_connection() -> None:
    book = book_of(node("d1", data=data(7)), node("d1", "offline"))
    assert book.nodes["d1"].status.state == "offline"
    assert book.nodes["d1"].status.data == data(7)


def test_nobody_speaks_for_another() -> None:
    with pytest.raises(WireError, match="node: d1 on the topic of d2"):
        Book("plant").take(TOPICS.status("d2"), encode_status(node("d1")))


# ── Home Assistant ──────────────────────────────────────────────────────────────────────────────────────────────


class Shown:
    """What Home Assistant makes of retained messages: its entities, by the device's and their own name."""

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}

    def hear(self, publications: list[Publication]) -> "Shown":
        for publication in publications:
            assert publication.retain
            self.retained[publication.topic] = publication.payload
        return self

    @property
    def configurations(self) -> list[dict[str, Any]]:
        return [
            json.loads(payload)
            for topic, payload in self.retained.items()
            if topic.startswith("homeassistant/device/") and topic.endswith("/config") and payload
        ]

    def states(self, device: str) -> dict[str, str]:
        (config,) = [c for c in self.configurations if c["device"]["name"] == device]
        said = json.loads(self.retained.get(config["state_topic"]) or b"{}")
        environment = jinja2.Environment()
        return {
            component["name"]: environment.from_string(component["value_template"]).render(value_json=said)
            for component in config["components"].values()
        }


def told(book: Book, *names: str) -> list[Publication]:
    words = HomeAssistant("plant", "0.1")
    return [publication for name in names for publication in words.told(book, name)]


def test_a_device_shows_its_connection_last_round_and_accuracy() -> None:
    book = book_of(node("pump-7", data=data(120)), cluster(3, **{"pump-7": "received"}), run(3, 0.9125))
    shown = Shown().hear(told(book, "pump-7", ""))
    assert shown.states("pump-7") == {
        "Connection": "online",
        "Last round": "3",
        "Model accuracy": "91.25",
        "Examples": "120",
    }
    assert shown.states("Fleet plant") == {
        "Run": "running",
        "Run id": "r1",
        "Round": "3",
        "Rounds": "5",
        "Model accuracy": "91.25",
        "Loss": "None",
        "Devices online": "1",
    }


def test_what_home_assistant_asks_of_a_configuration_is_there() -> None:
    """Unique ids, allowed characters, a platform each, and a parent that is a device as well."""
    book = book_of(node("a.b", battery_percent=50.0), node("a_b"), node("gw1", role="gateway", parent="cloud"), run(1))
    shown = Shown().hear(told(book, "a.b", "a_b", "gw1", ""))
    configurations = shown.configurations
    entities = [entity for config in configurations for entity in config["components"].values()]
    unique = [entity["unique_id"] for entity in entities]
    assert len(unique) == len(set(unique)) == 5 + 4 + 4 + 7
    assert {entity["platform"] for entity in entities} == {"sensor", "binary_sensor"}
    assert all(
        topic.split("/")[2].replace("_", "").replace("-", "").isalnum()
        for topic in shown.retained
        if "device/" in topic
    )
    names = {config["device"]["identifiers"][0]: config["device"]["name"] for config in configurations}
    above = {c["device"]["name"]: names.get(c["device"].get("via_device", "")) for c in configurations}
    assert above == {"a.b": "gw1", "a_b": "gw1", "gw1": None, "Fleet plant": None}
    assert all(
        c["origin"]["name"] == "Headwater" and c["availability_topic"] == "headwater/plant/bridge"
        for c in configurations
    )


def test_a_node_that_was_taken_away_disappears() -> None:
    book = book_of(node("d1"))
    shown = Shown().hear(told(book, "d1"))
    book.take(TOPICS.status("d1"), b"")
    shown.hear(told(book, "d1"))
    assert shown.configurations == []
    assert set(shown.retained.values()) == {b""}


# ── ThingsBoard ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_thingsboard_is_told_as_its_gateway_api_says() -> None:
    book = book_of(node("d1", data=data(9)), cluster(2, d1="received"), run(2, 0.5))
    words = ThingsBoard("plant", lambda: 1_767_225_600.25)
    said = {p.topic: json.loads(p.payload) for p in words.told(book, "d1")}
    values = {"online": True, "examples": 9, "last_round": 2, "model_accuracy": 0.5}
    assert said == {
        "v1/gateway/connect": {"device": "d1", "type": "Headwater device"},
        "v1/gateway/attributes": {"d1": {"fleet": "plant", "role": "device", "parent": "gw1", "software": "1.2"}},
        "v1/gateway/telemetry": {"d1": [{"ts": 1_767_225_600_250, "values": values}]},
    }
    (connect, _, telemetry) = words.told(book, "")
    assert json.loads(connect.payload) == {"device": "fleet plant", "type": "Headwater fleet"}
    assert json.loads(telemetry.payload)["fleet plant"][0]["values"] == {
        "run_state": "running",
        "round": 2,
        "accuracy": 0.5,
    }
    book.take(TOPICS.status("d1"), b"")
    assert [(p.topic, json.loads(p.payload)) for p in words.told(book, "d1")] == [
        ("v1/gateway/disconnect", {"device": "d1"})
    ]


def test_a_node_that_goes_while_it_is_told_is_told_to_its_end() -> None:
    book = book_of(node("d1"))
    telling = iter(ThingsBoard("plant", lambda: 0.0).told(book, "d1"))
    first = next(telling)
    book.take(TOPICS.status("d1"), b"")
    assert [p.topic for p in (first, *telling)] == [
        "v1/gateway/connect",
        "v1/gateway/attributes",
        "v1/gateway/telemetry",
    ]


# ── over real brokers ───────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def bridging(system: str, fleet_port: int, target_port: int) -> AsyncIterator[asyncio.Task[None]]:
    tree = {"system": system, "fleet": "plant", "broker": {"port": fleet_port}, "target": {"port": target_port}}
    task = asyncio.ensure_future(serve(BridgeSettings.model_validate(tree)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def hearing(port: int, filter_: str) -> AsyncIterator[list[tuple[str, bytes]]]:
    heard: list[tuple[str, bytes]] = []
    ear = Listener(
        BrokerSettings(port=port),
        client="ear",
        topics=(filter_,),
        on_message=lambda topic, payload, _: heard.append((topic, payload)),
    )
    task = asyncio.ensure_future(ear.run())
    await ear.wait_connected()
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@KINDS
async def test_nodes_show_up_by_themselves_and_the_bridge_says_when_it_goes(kind: str) -> None:
    with broker(kind) as fleet, broker(kind) as home:
        async with aiomqtt.Client("127.0.0.1", fleet) as publisher, hearing(home, "#") as heard:
            await publisher.publish(TOPICS.status("d1"), encode_status(node("d1", data=data(5))), 1, True)
            shown = Shown()

            def connection() -> str | None:
                shown.retained.update(heard)
                found = [c for c in shown.configurations if c["device"]["name"] == "d1"]
                return shown.states("d1")["Connection"] if found else None

            async with bridging("home-assistant", fleet, home):
                await asyncio.to_thread(eventually, lambda: connection() == "online")
                assert dict(heard)["headwater/plant/bridge"] == b"online"
                await publisher.publish(TOPICS.status("d1"), encode_status(node("d1", "offline")), 1, True)
                await asyncio.to_thread(eventually, lambda: connection() == "offline")
                configured = sum(topic.endswith("/config") for topic, _ in heard)
                assert configured == 1, "the configuration did not change, so it is told once"
            await asyncio.to_thread(eventually, lambda: dict(heard)["headwater/plant/bridge"] == b"offline")


@KINDS
async def test_thingsboard_hears_a_run(kind: str) -> None:
    with broker(kind) as fleet, broker(kind) as board:
        async with aiomqtt.Client("127.0.0.1", fleet) as publisher, hearing(board, "v1/gateway/#") as heard:
            async with bridging("thingsboard", fleet, board):
                for number in (1, 2):
                    await publisher.publish(TOPICS.run, encode_status(run(number, number / 4)), 1, True)
                    await asyncio.to_thread(
                        eventually, lambda n=number: any(f'"round": {n}'.encode() in payload for _, payload in heard)
                    )
            assert [json.loads(p)["device"] for t, p in heard if t == "v1/gateway/connect"] == ["fleet plant"] * 2


@pytest.mark.parametrize("away", ["broker", "target"])
async def test_a_broker_that_was_never_reached_ends_a_bridge_as_it_ends_any_service(away: str) -> None:
    with broker("embedded") as there:
        ports = {"broker": there, "target": there, away: free_port()}
        links = {name: {"port": port, "connect_timeout_s": 0.2} for name, port in ports.items()}
        settings = BridgeSettings.model_validate({"system": "thingsboard", "fleet": "plant", **links})
        with pytest.raises(BrokerUnreachable, match=f":{ports[away]}: no connection within 0.2 s"):
            await asyncio.wait_for(serve(settings), 20)


def test_the_example_is_what_a_bridge_takes() -> None:
    file = Path(__file__).parents[2] / "docs" / "examples" / "bridge.toml"
    settings = load(BridgeSettings, file, flags={("system",): "thingsboard"}).value
    assert (settings.target.host, settings.prefix) == ("homeassistant.local", "homeassistant")
