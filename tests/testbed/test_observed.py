"""A fleet of three tiers as processes, watched: its logs, its events and its metrics tell of the same rounds."""

import asyncio
import contextlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headwater.cloud.history import open_history
from headwater.node.metric_names import metrics_of
from headwater.schemas.base import Role
from headwater.schemas.run import RunDescription
from headwater.schemas.statuses import Event, RoundStatus
from headwater.schemas.wire import decode_status
from headwater.testbed.tree import Standing, Tree, standing
from support.postgres import free_port
from support.waiting import eventually, wait_online

DEVICES = tuple(f"d{i}" for i in range(4))
TREE = {"gw1": DEVICES[:2], "gw2": DEVICES[2:]}
NODES = ("cloud", *TREE, *DEVICES)
DATA = {
    name: {"digits": {"kind": "digits", "devices": 4, "index": index, "alpha": 0.3}}
    for index, name in enumerate(DEVICES)
}
ROUNDS = 3
NOT_ON_EVERY_BOARD = frozenset({"headwater_temperature_celsius", "headwater_battery_ratio"})


def role_of(node: str) -> Role:
    return "cloud" if node == "cloud" else "gateway" if node in TREE else "device"


class Listener:
    """Everything that people are told on the cloud's broker, until it is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.events: list[Event] = []
        self.rounds: list[RoundStatus] = []

    async def listen(self) -> None:
        async with aiomqtt.Client("127.0.0.1", self._port) as client:
            await client.subscribe("hw/1/plant/rounds/#", 1)
            async for message in client.messages:
                topic, payload = str(message.topic), bytes(message.payload)
                if "/rounds/event/" in topic:
                    self.events.append(decode_status(payload, Event))
                elif topic.endswith("/rounds/round"):
                    self.rounds.append(decode_status(payload, RoundStatus))


def asked(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(port: int) -> dict[str, float]:
    """By name and labels, as they stand there."""
    _, text = asked(port, "/metrics")
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextlib.contextmanager
def fleet(folder: Path) -> Iterator[tuple[Standing, dict[str, int]]]:
    ports = {node: free_port() for node in NODES}
    settings: dict[str, dict[str, Any]] = {
        node: {"log": {"format": "json", "level": "debug"}, "metrics": {"port": port}} for node, port in ports.items()
    }
    with standing(Tree(fleet="plant", clusters=TREE, data=DATA, settings=settings), folder) as started:
        wait_online(folder, (*TREE, *DEVICES))
        yield started, ports


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of a few rounds left: what was heard, each node's metrics at its end, and its log."""
    folder = tmp_path_factory.mktemp("fleet")
    about = RunDescription.model_validate(
        {
            "name": "digits",
            "data": "digits",
            "rounds": ROUNDS,
            "edge_rounds": 2,
            "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (16,)},
            "cohort": {"deadline_s": 20.0, "quorum": 1.0, "min_children": 2},
        }
    )
    with fleet(folder) as (started, ports):
        listener = Listener(started.ports["cloud"])

        async def follow() -> None:
            listening = asyncio.create_task(listener.listen())
            await asyncio.sleep(1.0)
            with contextlib.closing(open_history(started.database)) as history:
                history.enqueue_run("r", "plant", about, None, datetime.now(UTC))
                async with asyncio.timeout(60):
                    while not any(event.type == "headwater.run.finished" for event in listener.events):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                await asyncio.sleep(1.0)
            listening.cancel()

        asyncio.run(follow())
        exported = {node: metrics(port) for node, port in ports.items()}
        health = {node: asked(port, "/healthz") for node, port in ports.items()}
    logs = {node: (folder / f"{node}.log").read_text().splitlines() for node in NODES}
    return {"heard": listener, "metrics": exported, "health": health, "logs": logs}


def test_every_line_of_every_log_is_one_object_and_names_its_round(told: dict[str, Any]) -> None:
    for node, lines in told["logs"].items():
        assert lines, node
        parsed = [json.loads(line) for line in lines]
        assert {line["node"] for line in parsed} == {node}
        for line in parsed:
            # What a sentence says of a round, its fields say too.
            if re.search(r"\bround \d", line["message"]) and "run" not in line:
                raise AssertionError(line)
    in_run = [json.loads(line) for line in told["logs"]["cloud"] if '"run"' in line]
    assert {line["run"] for line in in_run} == {"r"}


def test_the_events_tell_the_run_from_its_start_to_its_end(told: dict[str, Any]) -> None:
    events: list[Event] = told["heard"].events
    of_cloud = [event for event in events if event.source == "/hw/plant/cloud"]
    kinds = [event.type.removeprefix("headwater.") for event in of_cloud if not event.type.startswith("headwater.node")]
    each = ["round.opened", "round.closed"]
    # The last model is measured in a round of its own.
    assert kinds == ["run.started", *each * (ROUNDS + 1), "run.finished"]
    assert len({(event.source, event.id) for event in events}) == len(events)
    for gateway in TREE:
        rounds = [e.data for e in events if e.source == f"/hw/plant/{gateway}" and e.type == "headwater.round.closed"]
        edge_rounds = [(round_, step) for round_ in range(1, ROUNDS + 1) for step in (0, 1)]
        assert [(data.round, data.step) for data in rounds] == [*edge_rounds, (ROUNDS + 1, 0)]


def test_the_times_of_a_round_make_its_length(told: dict[str, Any]) -> None:
    closed = [status for status in told["heard"].rounds if status.state == "closed" and status.task == "train"]
    last = {status.round: status for status in closed}
    assert set(last) == set(range(1, ROUNDS + 1))
    for status in last.values():
        times = status.times
        assert times is not None
        assert times.train_s + times.transfer_s + times.wait_s == pytest.approx(status.elapsed_s, rel=1e-6)
        assert times.train_s > 0
        assert times.aggregate_s > 0
        assert [member.node for member in status.members] == list(TREE)
        for member in status.members:
            assert member.after_s is not None
            assert member.train_s is not None
            assert 0 < member.train_s <= member.after_s <= status.elapsed_s + 1e-3
            assert member.size_bytes > 1000


def test_the_metrics_count_what_the_events_told(told: dict[str, Any]) -> None:
    cloud, gateway, device = (told["metrics"][node] for node in ("cloud", "gw1", "d0"))
    assert cloud["headwater_rounds_total state=closed task=train"] == ROUNDS
    assert cloud["headwater_deltas_total reason= result=taken"] == 2 * (ROUNDS + 1)
    assert cloud["headwater_run_state state=finished"] == 1
    assert cloud["headwater_children state=online"] == 2
    assert cloud["headwater_leading"] == 1
    assert cloud["headwater_round_phase_seconds_count phase=commit"] == ROUNDS + 1
    assert gateway["headwater_rounds_total state=closed task=train"] == 2 * ROUNDS
    assert gateway["headwater_connected link=uplink"] == gateway["headwater_connected link=site"] == 1
    assert gateway["headwater_examples data=digits part=train"] > 100
    assert device["headwater_plans_total reason= result=done"] == 2 * ROUNDS + 1
    assert device["headwater_train_seconds_count"] == 2 * ROUNDS + 1
    assert device["headwater_worker_memory_bytes"] > 10e6
    assert 0 < device["headwater_accuracy split=test"] <= 1
    assert cloud["headwater_bytes_total direction=received link=broker"] > cloud["headwater_delta_bytes_total"]


def test_every_metric_of_the_table_is_there_and_every_node_is_well(told: dict[str, Any]) -> None:
    for node, exported in told["metrics"].items():
        names = {key.split(" ")[0] for key in exported}
        for metric in metrics_of(role_of(node)):
            if not metric.labels and metric.name not in NOT_ON_EVERY_BOARD:
                assert any(name.startswith(metric.name) for name in names), (node, metric.name)
        assert told["health"][node] == (200, "well\n")


def test_a_port_in_use_ends_a_service_with_its_mend(tmp_path: Path) -> None:
    port = free_port()
    twice = {node: {"metrics": {"port": port}} for node in ("gw1", "cloud")}
    with standing(Tree(fleet="plant", clusters={"gw1": ()}, data={}, settings=twice), tmp_path):
        logs = [tmp_path / f"{node}.log" for node in ("gw1", "cloud")]
        eventually(lambda: any("give a free port" in log.read_text() for log in logs if log.exists()))
