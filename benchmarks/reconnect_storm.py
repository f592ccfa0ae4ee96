"""Law: a broker that is killed and comes back finds all of its clients again, within a stated bound, and none gave up.

Real sessions over real sockets, all in this process; the broker is killed while all are connected and stays away for
`--down` seconds. Bound: the longest wait of one client (`max_retry_wait_s`) and `SETTLE_S` for the connections.

    python benchmarks/reconnect_storm.py --clients 1000 --json
"""

import argparse
import asyncio
import json
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import psutil

from headwater.schemas.errors import HeadwaterError
from headwater.schemas.settings import BrokerSettings
from headwater.testbed.brokers import Broker, Embedded, Mosquitto
from headwater.testbed.crowd import Crowd, gathered
from headwater.testbed.machine import free_port
from headwater.transport.broker import BrokerConfig, BrokerLimits
from headwater.transport.mosquitto import Door, config_file

SETTLE_S: Final = 15.0
"""For a thousand handshakes, subscriptions and echoes, on two cores that the clients share with the broker."""

_SPARE_FILES: Final = 128


def measure(kind: str, clients: int, down_s: float, max_retry_wait_s: float) -> dict[str, Any]:
    """One storm on one kind of broker."""
    with tempfile.TemporaryDirectory(prefix="headwater-storm-") as folder:
        broker = _broker(kind, Path(folder), clients)
        with broker:
            return asyncio.run(_storm(kind, broker, clients, down_s, max_retry_wait_s))


async def _storm(kind: str, broker: Broker, clients: int, down_s: float, max_retry_wait_s: float) -> dict[str, Any]:
    settings = BrokerSettings(port=broker.port, max_retry_wait_s=max_retry_wait_s)
    bound_s = max_retry_wait_s + SETTLE_S
    async with gathered(settings, "storm", clients) as crowd:
        first = await crowd.settled(clients, bound_s)
        before_bytes = psutil.Process().memory_info().rss
        # A connection that has not lasted would not begin its back-off anew; a fleet's has.
        await asyncio.sleep(min(max_retry_wait_s, 5.0))
        started_at = await _restart(crowd, broker, down_s)
        back = await crowd.settled(clients, bound_s)
        waited_s = time.monotonic() - started_at
        return {
            "broker": kind,
            "clients": clients,
            "down_s": down_s,
            "came_in_s": first.all_s,
            "half_back_s": back.half_s,
            "all_back_s": round(waited_s, 3) if back.all_s is not None else None,
            "bound_s": bound_s,
            "connected": back.connected,
            "gave_up": back.gave_up,
            "memory_before_mb": round(before_bytes / 2**20, 1),
            "memory_after_mb": round(psutil.Process().memory_info().rss / 2**20, 1),
        }


async def _restart(crowd: Crowd, broker: Broker, down_s: float) -> float:
    """When the broker accepted connections again, in monotonic seconds."""
    broker.kill()
    await crowd.settled(0, SETTLE_S)
    await asyncio.sleep(down_s)
    await asyncio.to_thread(broker.start)
    return time.monotonic()


def _broker(kind: str, folder: Path, clients: int) -> Broker:
    port = free_port()
    if kind == "mosquitto":
        return Mosquitto(folder, port, config_file(Door(port=port)))
    return Embedded(BrokerConfig(port=port, limits=BrokerLimits(max_connections=2 * clients)))


def table(results: list[dict[str, Any]]) -> str:
    columns = {
        "broker": "broker",
        "clients": "clients",
        "down_s": "down s",
        "came_in_s": "came in s",
        "half_back_s": "half back s",
        "all_back_s": "all back s",
        "bound_s": "bound s",
        "memory_before_mb": "MB before",
        "memory_after_mb": "MB after",
    }
    rows = [[_shown(result[key]) for key in columns] for result in results]
    return "\n".join("  ".join(f"{cell:>11}" for cell in row) for row in [list(columns.values()), *rows])


def _shown(value: object) -> str:
    return "never" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description="A restarted broker and its clients.")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--broker", choices=("mosquitto", "embedded"), action="append")
    parser.add_argument("--down", type=float, default=3.0, metavar="SECONDS", help="how long the broker is away")
    parser.add_argument("--max-retry-wait", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="one line, a list with an object a broker")
    options = parser.parse_args()
    logging.getLogger("headwater").setLevel(logging.ERROR)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * options.clients + _SPARE_FILES), most))
    results = []
    for kind in options.broker or ("mosquitto", "embedded"):
        try:
            results.append(measure(kind, options.clients, options.down, options.max_retry_wait))
        except HeadwaterError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    print(json.dumps(results) if options.json else table(results))
    return 0 if all(r["all_back_s"] is not None and not r["gave_up"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
