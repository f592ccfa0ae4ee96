"""What Prometheus reads: counted as it happened, looked at when asked, and served beside the work."""

import asyncio
import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum
from headwater.node import metrics as metrics_module
from headwater.node.hosting import RoundResult
from headwater.node.identity import Identity
from headwater.node.metric_names import METRICS, metrics_of, table
from headwater.node.metrics import Exporter
from headwater.node.observing import Declined, Ended, NotTaken, Opened, Recorded, RunTold, Seen, Taken, Worked
from headwater.node.scraping import MAX_AT_ONCE, scraped
from headwater.node.watching import Sights, disk, metrics
from headwater.schemas.base import Role
from headwater.schemas.errors import ConfigError
from headwater.schemas.manifest import TRAIN_S
from headwater.schemas.messages import Delta, Metric, Plan, RoundKey
from headwater.schemas.settings import MetricsSettings
from headwater.schemas.statuses import DataStatus, NodeStatus, RoundStatus, RunState, RunStatus, Times
from headwater.schemas.wire import reference
from headwater.transport.session import Traffic
from support.postgres import free_port

KEY = RoundKey(run="r", round=3)
REF = reference(b"of no interest here")
PLAN = Plan(key=KEY, task="train", data="d", model=REF, bundle=REF)
TIMES = Times(train_s=2.0, transfer_s=0.5, wait_s=1.5, aggregate_s=0.25)
Samples = dict[tuple[str, tuple[str, ...]], float]


def identity(role: Role) -> Identity:
    return Identity("plant", "n1", role, None)


def ended(state: rounds.State) -> Ended:
    status = RoundStatus(
        parent="n1",
        run="r",
        round=3,
        step=0,
        attempt=0,
        task="train",
        state=state,
        cohort=2,
        received=2,
        refused=0,
        metrics={"train/loss": 0.5, "test/loss": 0.75, "test/correct": 0.9, "train/local_steps": 7.0},
        times=TIMES,
    )
    opened = rounds.open_round(KEY, ["d0", "d1"], quorum=1.0, deadline_s=1.0, now=0.0)
    round_ = replace(opened, state=state, received={"d0": 1.0, "d1": 1.0})
    return Ended(RoundResult(PLAN, round_, WeightedSum(()), (), (), 0, 4.0, Traffic(), status))


async def samples(exporter: Exporter) -> Samples:
    """By name and the labels' values, in the table's order."""
    text = (await exporter.exposition()).decode()
    order = {metric.name.removesuffix("_total"): (*metric.labels, "le") for metric in METRICS}
    return {
        (sample.name, tuple(sample.labels[name] for name in order[family.name] if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        if family.name in order
        for sample in family.samples
    }


async def of(role: Role, *seen: Seen) -> Samples:
    exporter = Exporter(identity(role), clock=lambda: 1_800_000_000.0)
    for one in seen:
        exporter.saw(one)
    return await samples(exporter)


def run(state: RunState, run: str = "r", round_: int = 3) -> RunTold:
    return RunTold(RunStatus(run=run, name="bearings", state=state, round=round_, rounds=40))


@pytest.mark.parametrize("role", ["cloud", "gateway"])
async def test_a_parent_counts_its_rounds_and_what_came_for_them(role: Role) -> None:
    refused = NotTaken("eve", None, "unauthorised", "no child")
    told = await of(
        role,
        Opened(KEY, "train", 2),
        Taken("d0", 100),
        Taken("d1", 50),
        refused,
        refused,
        Declined("d2", KEY, "not_now", "on battery"),
        ended("closed"),
        ended("failed"),
    )
    assert told["headwater_round", ()] == 3
    assert told["headwater_round_cohort", ()] == 2
    assert told["headwater_round_participants", ()] == 2
    assert told["headwater_rounds_total", ("train", "closed")] == 1
    assert told["headwater_rounds_total", ("train", "failed")] == 1
    assert told["headwater_round_duration_seconds_count", ()] == 1
    assert told["headwater_round_duration_seconds_sum", ()] == 4.0
    assert told["headwater_round_duration_seconds_bucket", ("3.0",)] == 0
    assert told["headwater_round_duration_seconds_bucket", ("10.0",)] == 1
    assert told["headwater_round_closed_timestamp_seconds", ()] == 1_800_000_000.0
    assert told["headwater_deltas_total", ("taken", "")] == 2
    assert told["headwater_delta_bytes_total", ()] == 150
    assert told["headwater_deltas_total", ("refused", "unauthorised")] == 2
    assert told["headwater_declined_total", ("not_now",)] == 1
    for phase, spent_s in (("train", 2.0), ("transfer", 0.5), ("wait", 1.5)):
        assert told["headwater_round_phase_seconds_sum", (phase,)] == spent_s
    assert told["headwater_loss", ("test",)] == 0.75
    assert told["headwater_loss", ("train",)] == 0.5
    assert told["headwater_accuracy", ("test",)] == 0.9


async def test_a_cloud_tells_of_its_run_and_of_one_alone() -> None:
    status = ended("closed").result.told
    assert status is not None
    told = await of("cloud", run("running"), run("finished"), run("paused", "r2", 0), Recorded(status, 0.125))
    assert [key[1] for key in told if key[0] == "headwater_run_info"] == [("r2", "bearings")]
    assert {key[1][0]: value for key, value in told.items() if key[0] == "headwater_run_state"} == {
        "queued": 0,
        "running": 0,
        "paused": 1,
        "finished": 0,
        "stopped": 0,
        "failed": 0,
    }
    assert (told["headwater_run_round", ()], told["headwater_run_rounds", ()]) == (0, 40)
    assert told["headwater_round_phase_seconds_sum", ("aggregate",)] == 0.25
    assert told["headwater_round_phase_seconds_sum", ("commit",)] == 0.125
    assert told["headwater_leading", ()] == 0


async def test_a_device_tells_of_its_own_training() -> None:
    spent = Metric(split="train", name=TRAIN_S, total=2.0, weight=1.0)
    loss = Metric(split="train", name="loss", total=6.0, weight=4.0)
    delta = Delta(key=KEY, sender="n1", task="evaluate", weight=4.0, examples=4, devices=1, metrics=(spent, loss))
    told = await of("device", Worked(KEY, delta), Worked(KEY, None, "not_now"))
    assert told["headwater_plans_total", ("done", "")] == 1
    assert told["headwater_plans_total", ("declined", "not_now")] == 1
    assert told["headwater_train_seconds_sum", ()] == 2.0
    assert told["headwater_loss", ("train",)] == 1.5


@dataclass
class Connection:
    """As much of one as is looked at."""

    connected: bool = True
    traffic: Traffic = field(default_factory=Traffic)


async def test_what_is_so_now_is_looked_at(tmp_path: Path) -> None:
    exporter = Exporter(identity("gateway"))
    first, link = Connection(traffic=Traffic(100, 10)), [Connection()]
    link[0] = first
    states = {"d1": "online", "d2": "offline", "d3": "online"}
    exporter.look_at(
        Sights(
            links={"uplink": lambda: link[0], "site": lambda: None},  # type: ignore[dict-item, return-value]
            members=lambda: {
                node: NodeStatus(node=node, role="device", parent="n1", state=state)  # type: ignore[arg-type]
                for node, state in states.items()
            },
            data=lambda: {"vibration": DataStatus(train_examples=30, test_examples=10)},
            gauges={
                **disk(tmp_path / "not" / "yet"),
                "headwater_outbox_bytes": lambda: None,
                "headwater_journal_bytes": lambda: 4096,
            },
        )
    )
    told = await samples(exporter)
    assert told["headwater_connected", ("uplink",)] == 1
    assert told["headwater_connected", ("site",)] == 0
    assert told["headwater_children", ("online",)] == 2
    assert told["headwater_children", ("offline",)] == 1
    assert told["headwater_examples", ("vibration", "train")] == 30
    assert 0 < told["headwater_disk_free_bytes", ()] <= told["headwater_disk_size_bytes", ()]
    assert told["headwater_journal_bytes", ()] == 4096
    # What nobody knows has no value.
    assert ("headwater_outbox_bytes", ()) not in told
    # Another connection to another parent counts on.
    first.traffic = Traffic(150, 10)
    await exporter.exposition()
    link[0] = Connection(traffic=Traffic(7, 3))
    told = await samples(exporter)
    assert told["headwater_bytes_total", ("uplink", "sent")] == 157
    assert told["headwater_bytes_total", ("uplink", "received")] == 13


@pytest.mark.parametrize("role", ["cloud", "gateway", "device"])
async def test_a_tier_exports_what_the_table_says(role: Role) -> None:
    exporter = Exporter(identity(role))
    found = {family.name for family in exporter.registry.collect() if not family.name.startswith("process_")}
    assert found == {metric.name.removesuffix("_total") for metric in metrics_of(role)}


def test_the_table_keeps_prometheus_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("headwater_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not {"node", "child", "device"} & set(metric.labels) or metric.name == "headwater_node_info"


def test_the_table_for_people_is_of_today() -> None:
    page = Path(__file__).parents[2] / "docs" / "operate" / "metrics.md"
    assert page.read_text() == table(), "run python -m headwater.node.metric_names docs/operate"


# ── over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────


def asked(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@contextmanager
def serving(port: int) -> Iterator[Exporter]:
    with metrics(MetricsSettings(port=port), identity("device")) as exporter:
        assert isinstance(exporter, Exporter)
        yield exporter


async def test_metrics_and_health_are_answered_and_nothing_else() -> None:
    port = free_port()
    with serving(port):
        status, text = await asyncio.to_thread(asked, port, "/metrics")
        assert status == 200
        assert 'headwater_node_info{fleet="plant",node="n1",role="device"' in text
        assert "process_resident_memory_bytes" in text
        assert await asyncio.to_thread(asked, port, "/healthz") == (200, "well\n")
        assert (await asyncio.to_thread(asked, port, "/"))[0] == 404
        assert (await asyncio.to_thread(asked, port, "/metrics", "POST"))[0] == 405
    async with asyncio.timeout(5):
        while True:
            try:
                await asyncio.to_thread(asked, port, "/healthz")
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                # It was accepted by the kernel just before the end.
                continue
            await asyncio.sleep(0.05)


async def test_a_node_is_well_for_a_while_behind_its_link(monkeypatch: pytest.MonkeyPatch) -> None:
    port, link = free_port(), Connection(connected=False)
    with serving(port) as exporter:
        exporter.look_at(Sights(links={"uplink": lambda: link}))  # type: ignore[dict-item, return-value]
        assert (await asyncio.to_thread(asked, port, "/healthz"))[0] == 200
        monkeypatch.setattr(metrics_module, "HEALTHY_FOR_S", 0.05)
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(asked, port, "/healthz") == (503, "uplink: no link for 0 s\n")
        link.connected = True
        assert await asyncio.to_thread(asked, port, "/healthz") == (200, "well\n")


async def test_an_event_loop_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.node.scraping.ANSWER_TIMEOUT_S", 0.2)
    port = free_port()
    with serving(port):
        asking = asyncio.ensure_future(asyncio.to_thread(asked, port, "/healthz"))
        await asyncio.sleep(0)
        time.sleep(1.0)  # noqa: ASYNC251 (that is what is wrong with it)
        assert await asking == (503, "the event loop does not answer\n")


async def test_who_holds_connections_open_does_not_pile_up_and_others_are_answered_again() -> None:
    port = free_port()
    with serving(port):
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_AT_ONCE)]
        await asyncio.sleep(0.5)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            await asyncio.to_thread(asked, port, "/healthz")
        for one in held:
            one.close()
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(asked, port, "/healthz") == (200, "well\n")


async def test_who_sends_a_byte_now_and_then_loses_its_place_to_others() -> None:
    port, limit_s, byte_every_s = free_port(), 2.0, 0.05
    gone: list[float] = []

    async def dribble() -> None:
        """Never silent for long, and never done."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began, ended = time.monotonic(), asyncio.ensure_future(reader.read())
        writer.write(b"GET /metrics HTTP/1.0\r\nX-Slow: ")
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait((ended,), timeout=byte_every_s)
        gone.append(time.monotonic() - began)
        with contextlib.suppress(ConnectionError):
            await ended
        writer.close()

    with scraped(MetricsSettings(port=port), identity("device"), limit_s):
        slow = asyncio.gather(*(dribble() for _ in range(MAX_AT_ONCE)))
        await asyncio.sleep(0.5)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            await asyncio.to_thread(asked, port, "/healthz")
        async with asyncio.timeout(10):
            await slow
        assert min(gone) >= limit_s / 2
        # A thread gives its place back behind its connection's end.
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(asked, port, "/healthz") == (200, "well\n")


async def test_a_port_in_use_is_told_with_its_mend() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        about = f"metrics.port: {port} of 127.0.0.1: .*in use.*; give a free port"
        with pytest.raises(ConfigError, match=about), serving(port):
            pass


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
from headwater.node.identity import Identity
from headwater.node.watching import metrics
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import MetricsSettings

with metrics(None, Identity("plant", "n1", "device", None)) as nothing:
    assert nothing is None
try:
    with metrics(MetricsSettings(port=1), Identity("plant", "n1", "device", None)):
        pass
except ConfigError as error:
    print(error)
"""


def test_the_library_is_needed_by_those_alone_who_are_asked() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install 'headwater[metrics]'" in done.stdout
