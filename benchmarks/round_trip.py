"""Law: a round is measured from its opening to the next one's, with real processes, beside the floor in the same run.

The digits task: MLP 64-32-10, batch 16, learning rate 0.1, one local epoch, FedAvg, Dirichlet 0.3 over N devices.

    python benchmarks/round_trip.py --devices 10 --tiers 3 --broker mosquitto --json
    python benchmarks/round_trip.py --all
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import floor
import numpy as np
import psutil
from asking import asking
from plain_fedavg import Weights, accuracy, fedavg
from tables import aligned

from headwater.cloud.history import RoundRecord, open_history
from headwater.cloud.preparation import forward_model
from headwater.core.graph import compile_bundle
from headwater.device.sources import load
from headwater.schemas.errors import HeadwaterError
from headwater.schemas.messages import Model
from headwater.schemas.run import RunDescription
from headwater.schemas.sources import DigitsSource
from headwater.schemas.tensors import decode_tensor
from headwater.schemas.wire import decode_object
from headwater.testbed.brokers import Mosquitto
from headwater.testbed.machine import ToolMissing, free_port
from headwater.testbed.observer import Observer
from headwater.testbed.tree import Standing, Tree, standing
from headwater.transport.broker import BrokerConfig, spawn
from headwater.transport.mosquitto import Door, config_file
from headwater.trust.folder import Folder

TOLERANCE: Final = 0.003
GATEWAYS: Final = {10: 2, 50: 5}
FLEET: Final = "bench"
SCRAPED_EVERY_S: Final = 1.0
"""Prometheus' own habit is 15 seconds."""


@dataclass(frozen=True)
class Case:
    devices: int
    tiers: int
    broker: str
    rounds: int = 20
    seed: int = 4
    signed: bool = False
    metrics: bool = False
    """Every node tells its metrics, and each is asked every second."""

    asked_hz: float = 0.0
    """Requests a second to the cloud's HTTP API, for all the time that the fleet learns; 0: none is served."""


def measure(case: Case) -> dict[str, Any]:
    """One case: the floor first, then the fleet, on one broker each of the same kind."""
    description = _description(case)
    initial = _initial(description)
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        with _broker(case.broker, Path(folder) / "floor") as (port, _):
            floor_times = floor.measure(port, case.devices, case.seed, case.rounds, initial)
        fleet = asyncio.run(_fleet(case, description, Path(folder) / "fleet"))
    shards = {f"d{i}": load("bench", _source(case, i)) for i in range(case.devices)}
    reference = fedavg(
        initial, shards, run="bench", rounds=case.rounds, batch_size=16, learning_rate=0.1, seed=case.seed
    )
    test = shards["d0"]
    told = accuracy(fleet.pop("model"), test.test_x, test.test_y)
    expected = accuracy(reference, test.test_x, test.test_y)
    return {
        "devices": case.devices,
        "tiers": case.tiers,
        "broker": case.broker,
        **fleet,
        "floor_median_round_s": round(statistics.median(floor_times), 5),
        "ratio": round(fleet["median_round_s"] / statistics.median(floor_times), 2),
        "accuracy": round(told, 4),
        "reference_accuracy": round(expected, 4),
        "agrees": abs(told - expected) <= TOLERANCE,
    }


async def _fleet(case: Case, description: RunDescription, folder: Path) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        tree, pids = _tree(case, folder, stack)
        fleet = stack.enter_context(standing(tree, folder, log_level="warning"))
        observer = Observer(FLEET, fleet.ports)
        following = asyncio.create_task(observer.follow())
        try:
            await observer.wait_ready(fleet)
            with _watched(tree.settings, case):
                rounds, model = await asyncio.to_thread(_run, fleet, description)
            await asyncio.sleep(0.3)
            return {
                **_rounds(rounds),
                **_processes(fleet, pids),
                **_links(observer),
                "model": model,
            }
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@contextlib.contextmanager
def _watched(settings: Mapping[str, Mapping[str, Any]], case: Case) -> Iterator[None]:
    """Whoever looks at the fleet from outside, until the block ends."""
    base = "http://127.0.0.1:{}".format
    nodes = [f"{base(place['metrics']['port'])}/metrics" for place in settings.values() if "metrics" in place]
    askers = [asking(nodes, len(nodes) / SCRAPED_EVERY_S)] if nodes else []
    for port in (place["http"]["port"] for place in settings.values() if "http" in place):
        runs = f"{base(port)}/api/v1/runs"
        askers.append(asking([runs, f"{runs}/bench", f"{runs}/bench/rounds"], case.asked_hz))
    with contextlib.ExitStack() as stack:
        for asker in askers:
            stack.enter_context(asker)
        yield


def _run(fleet: Standing, description: RunDescription) -> tuple[tuple[RoundRecord, ...], Weights]:
    history = open_history(fleet.database)
    try:
        history.enqueue_run("bench", FLEET, description, None, datetime.now(UTC))
        while history.show_run("bench").state in ("queued", "running"):
            fleet.check()
            time.sleep(0.2)
        record = history.show_run("bench")
        if record.state != "finished":
            raise SystemExit(f"the run {record.state}: {record.failure}")
        _, payload = history.model_of("bench")
        return history.rounds_of("bench"), [decode_tensor(t) for t in decode_object(payload, Model).tensors]
    finally:
        history.close()


def _rounds(rounds: tuple[RoundRecord, ...]) -> dict[str, Any]:
    """From one opening to the next: the history's commit and the announcement are in it."""
    opened = [r.opened_at for r in rounds]
    times = [(after - before).total_seconds() for before, after in itertools.pairwise(opened)]
    return {
        "median_round_s": round(statistics.median(times), 5),
        "rounds_a_second": round(len(times) / sum(times), 1),
        "devices_in_each": min(r.devices for r in rounds),
    }


def _processes(fleet: Standing, brokers: list[int]) -> dict[str, Any]:
    """CPU since each process began, its start and imports included, and its peak of resident memory."""
    kinds = {started.process.pid: started.kind for started in fleet.processes.started}
    kinds |= dict.fromkeys([*brokers, *(broker.pid for broker in fleet.brokers)], "broker")
    # Devices run their graphs in a process of their own.
    for pid in tuple(kinds):
        below = psutil.Process(pid).children(recursive=True)
        kinds |= {child.pid: "worker" for child in below if child.pid not in kinds}
    peaks: dict[str, int] = {}
    cpu_s = 0.0
    for pid, kind in kinds.items():
        times = psutil.Process(pid).cpu_times()
        cpu_s += times.user + times.system
        peaks[kind] = max(peaks.get(kind, 0), peak_rss_bytes(pid))
    return {"cpu_s": round(cpu_s, 2), "peak_rss_bytes": peaks}


def peak_rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _links(observer: Observer) -> dict[str, Any]:
    links: dict[str, dict[str, int]] = {}
    for status in (*observer.closed, *observer.closed_clusters):
        link = links.setdefault(status.parent, {"down": 0, "up": 0})
        link["down"] += status.bytes_down
        link["up"] += status.bytes_up
    return {
        "bytes_up": sum(link["up"] for link in links.values()),
        "bytes_down": sum(link["down"] for link in links.values()),
        "bytes": links,
    }


# ── set-up ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _description(case: Case) -> RunDescription:
    return RunDescription.model_validate(
        {
            "name": "digits",
            "data": "digits",
            "rounds": case.rounds,
            "evaluate_every": 0,
            "seed": case.seed,
            "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (32,)},
            "local": {"batch_size": 16, "learning_rate": 0.1},
            "cohort": {
                "quorum": 1.0,
                "deadline_s": 60.0,
                "min_children": case.devices if case.tiers == 1 else _gateways(case),
            },
        }
    )


def _initial(description: RunDescription) -> Weights:
    compiled = compile_bundle(forward_model(description, None), objective="cross_entropy", name="digits")
    return [np.array(value) for value in compiled.initial]


def _gateways(case: Case) -> int:
    return GATEWAYS.get(case.devices, max(1, case.devices // 10))


def _source(case: Case, index: int) -> DigitsSource:
    return DigitsSource(kind="digits", devices=case.devices, index=index, seed=case.seed)


def _tree(case: Case, folder: Path, stack: contextlib.ExitStack) -> tuple[Tree, list[int]]:
    """The tree, and the brokers that were started for it here."""
    names = [f"d{i}" for i in range(case.devices)]
    if case.tiers == 1:
        clusters = {"": tuple(names)}
    else:
        gateways = _gateways(case)
        clusters = {f"gw{g}": tuple(names[g::gateways]) for g in range(gateways)}
    data = {name: {"digits": _source(case, i).model_dump()} for i, name in enumerate(names)}
    ports: dict[str, int] | None = None
    pids: list[int] = []
    if case.broker == "mosquitto":
        ports = {}
        for node in ("cloud", *(gateway for gateway in clusters if gateway)):
            ports[node], pid = stack.enter_context(_broker("mosquitto", folder.parent / f"broker-{node}"))
            pids.append(pid)
    nodes = ("cloud", *filter(None, clusters), *names)
    settings = _certificates(nodes, folder) if case.signed else {node: {} for node in nodes}
    if case.metrics:
        settings = {node: place | {"metrics": {"port": free_port()}} for node, place in settings.items()}
    if case.asked_hz:
        settings["cloud"] = settings["cloud"] | {"http": {"port": free_port()}}
    return Tree(fleet=FLEET, clusters=clusters, data=data, brokers=ports, settings=settings), pids


def _certificates(nodes: tuple[str, ...], folder: Path) -> dict[str, dict[str, Any]]:
    """The trust settings of each node, by an authority of their own."""
    authority, now = Folder(folder.resolve().parent / "pki"), datetime.now(UTC)
    authority.create("bench", now)
    opened = authority.authority()
    for node in nodes:
        authority.issue(opened, node, now)
    common = {"ca": str(authority.certificate_file), "revoked": str(authority.revoked_file)}
    return {
        node: {
            "trust": {
                **common,
                "certificate": str(authority.certificate_of(node)),
                "key": str(authority.key_of(node)),
            }
        }
        for node in nodes
    }


@contextlib.contextmanager
def _broker(kind: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Port and process number of a broker."""
    if kind == "embedded":
        with spawn(BrokerConfig(port=0)) as process:
            yield process.port, process.pid
        return
    port = free_port()
    try:
        broker = Mosquitto(folder, port, config_file(Door(port=port)))
    except ToolMissing as error:
        raise SystemExit(f"{error}; or take --broker embedded") from None
    with broker:
        assert broker.pid is not None
        yield port, broker.pid


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────


def table(results: list[Mapping[str, Any]]) -> str:
    head = ("N", "tiers", "broker", "round s", "floor s", "×", "rounds/s", "CPU s", "device MB", "up MB", "accuracy")
    rows = [
        (
            str(r["devices"]),
            str(r["tiers"]),
            r["broker"],
            f"{r['median_round_s']:.4f}",
            f"{r['floor_median_round_s']:.4f}",
            f"{r['ratio']:.1f}",
            f"{r['rounds_a_second']:.0f}",
            f"{r['cpu_s']:.1f}",
            f"{r['peak_rss_bytes']['device'] / 1e6:.0f}",
            f"{r['bytes_up'] / 1e6:.1f}",
            f"{r['accuracy']:.4f} ({r['reference_accuracy']:.4f})",
        )
        for r in results
    ]
    return aligned((head, *rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--devices", type=int, default=10, help="device processes (10)")
    parser.add_argument("--tiers", type=int, choices=(1, 3), default=3, help="1: flat; 3: with gateways")
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), default="embedded")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--all", action="store_true", help="10 and 50 devices, flat and three-tier, both brokers")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    parser.add_argument("--signed", action="store_true", help="every node has a certificate and signs what it says")
    given = parser.parse_args()
    cases = [Case(given.devices, given.tiers, given.broker, given.rounds, given.seed, given.signed)]
    if given.all:
        cases = [
            Case(n, tiers, broker, given.rounds, given.seed)
            for n in (10, 50)
            for broker in ("mosquitto", "embedded")
            for tiers in (1, 3)
        ]
    try:
        results = [measure(case) for case in cases]
    except HeadwaterError as error:
        print(f"round_trip: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print((json.dumps(results if given.all else results[0])) if given.json else table(results))
    return 0 if all(result["agrees"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
