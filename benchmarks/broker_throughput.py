"""Law: a ratio counts only when both were measured in the same run: the mended broker against stock amqtt.

Each broker has its own process, the aiomqtt clients share another. QoS 1 throughout. Printed are deliveries a second
of wall time and of the broker's own CPU time; the clients cost more than the mended broker, so CPU time is its
measure and wall time that of the whole.

    python benchmarks/broker_throughput.py [--json] [--messages N]
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import aiomqtt
import psutil

from headwater.transport.broker import BrokerConfig, spawn

_TIMEOUT_S = 300.0
_IN_FLIGHT = 10
"""Unacknowledged publishes of one client; aiomqtt warns beyond."""


class Case(NamedTuple):
    name: str
    publishers: int
    subscribers: int
    payload_size_bytes: int
    messages: int


class Figures(NamedTuple):
    """Deliveries a second of wall time, and of the broker's CPU time."""

    per_s: float
    per_cpu_s: float


def cases(messages: int) -> list[Case]:
    """`messages` are published in all, by all publishers together."""
    return [
        Case("1 -> 10, 300 B", 1, 10, 300, messages),
        Case("1 -> 10, 10 kB", 1, 10, 10_000, messages),
        Case("10 -> 1, 300 B", 10, 1, 300, 5 * messages),
        Case("10 -> 1, 10 kB", 10, 1, 10_000, 5 * messages),
        Case("1 -> 10, 256 kB", 1, 10, 262_144, max(10, messages // 20)),
    ]


@contextmanager
def mended() -> Iterator[tuple[int, int]]:
    """Port and pid."""
    with spawn(BrokerConfig(port=0)) as broker:
        yield broker.port, broker.pid


@contextmanager
def stock() -> Iterator[tuple[int, int]]:
    """Port and pid."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--serve-stock", str(port)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def serve_stock(port: int) -> None:
    """Runs amqtt as it comes, without its logging and $SYS plugins."""
    from amqtt.broker import Broker

    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}

    async def run() -> None:
        broker = Broker({"listeners": {"default": {"bind": f"127.0.0.1:{port}"}}, "plugins": plugins})
        await broker.start()
        await asyncio.Event().wait()

    asyncio.run(run())


async def run_case(case: Case, port: int, pid: int) -> Figures:
    """Publishes all and returns when all is delivered."""
    expected = case.messages // case.publishers * case.publishers
    broker = psutil.Process(pid)
    subscribed = asyncio.Barrier(case.subscribers + 1)
    async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as group:
        subscribers = [group.create_task(_subscribe(port, subscribed, expected)) for _ in range(case.subscribers)]
        await subscribed.wait()
        cpu_s, start_s = sum(broker.cpu_times()[:2]), time.perf_counter()
        for index in range(case.publishers):
            group.create_task(_publish(port, index, case))
        await asyncio.gather(*subscribers)
        wall_s, cpu_s = time.perf_counter() - start_s, sum(broker.cpu_times()[:2]) - cpu_s
    deliveries = expected * case.subscribers
    return Figures(deliveries / wall_s, deliveries / max(cpu_s, 0.01))


async def _subscribe(port: int, subscribed: asyncio.Barrier, expected: int) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("bench/+", qos=1)
        await subscribed.wait()
        received = 0
        async for _ in client.messages:
            received += 1
            if received == expected:
                return


async def _publish(port: int, index: int, case: Case) -> None:
    payload = bytes(case.payload_size_bytes)
    async with aiomqtt.Client("127.0.0.1", port) as client:
        window = asyncio.Semaphore(_IN_FLIGHT)

        async def one() -> None:
            async with window:
                await client.publish(f"bench/{index}", payload, qos=1, timeout=_TIMEOUT_S)

        await asyncio.gather(*(one() for _ in range(case.messages // case.publishers)))


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Mended broker against stock amqtt.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--serve-stock", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_stock:
        serve_stock(options.serve_stock)
        return
    rows = []
    for case in cases(options.messages):
        figures = {}
        for name, start in (("stock", stock), ("mended", mended)):
            with start() as (port, pid):
                figures[name] = asyncio.run(run_case(case, port, pid))
        rows.append((case.name, figures["stock"], figures["mended"]))
    if options.json:
        print(json.dumps([_as_json(*row) for row in rows], indent=2))
        return
    columns = f"{'stock':>8} {'mended':>8} {'ratio':>6}"
    print(f"{'deliveries a second':19} {columns}   CPU: {columns}")
    for name, old, new in rows:
        print(
            f"{name:19} {old.per_s:8.0f} {new.per_s:8.0f} {new.per_s / old.per_s:6.1f}"
            f"        {old.per_cpu_s:8.0f} {new.per_cpu_s:8.0f} {new.per_cpu_s / old.per_cpu_s:6.1f}"
        )


def _as_json(name: str, old: Figures, new: Figures) -> dict[str, object]:
    return {
        "case": name,
        "stock": old._asdict(),
        "mended": new._asdict(),
        "ratio": {"wall": new.per_s / old.per_s, "cpu": new.per_cpu_s / old.per_cpu_s},
    }


if __name__ == "__main__":
    main()
