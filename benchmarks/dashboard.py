"""Law: a thousand devices do not make a browser wait: what it is sent, and does, follows what changed, not how many.

A real dashboard behind a real broker, and a real Chromium; nodes are played by one session, which tells of every
cluster's round twice a second. First paint is from the request until every device has its mark; a click is from the
mark of a device to its page. What keeps the browser's main thread for more than 50 ms is a long task.

    python benchmarks/dashboard.py --devices 1000 --clusters 20 --json
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import psutil
from playwright.async_api import Page, async_playwright

from headwater.schemas.settings import BrokerSettings
from headwater.schemas.statuses import MemberStatus, NodeStatus, RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.testbed.brokers import Embedded
from headwater.testbed.machine import free_port, program, wait_for_port
from headwater.testbed.processes import Processes
from headwater.transport.broker import BrokerConfig
from headwater.transport.session import Caller, LinkDown, Session

FLEET: Final = "plant"
TELL_EVERY_S: Final = 0.5
CLICKS: Final = 8
SEEN_MS: Final = 60_000
_ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_WATCH: Final = """
window.long = [];
new PerformanceObserver(list => list.getEntries().forEach(e => window.long.push(e.duration)))
  .observe({ entryTypes: ["longtask"] });
"""


class Players:
    """A cloud, gateways and devices, all said by one session."""

    def __init__(self, port: int, devices: int, clusters: int) -> None:
        self._topics = Topics(FLEET)
        each = devices // clusters
        self.clusters = {
            f"gw{gateway:03d}": [f"gw{gateway:03d}-d{number:03d}" for number in range(each)]
            for gateway in range(clusters)
        }
        caller = Caller(FLEET, "players", "players", (), lambda *_: None, self._nothing)
        self.session = Session(BrokerSettings(port=port), caller)

    async def _nothing(self) -> None:
        return None

    async def come(self) -> None:
        """Everybody's birth."""
        cloud = NodeStatus(node="cloud", role="cloud", parent=None, state="online", data={})
        run = RunStatus(run="r1", name="wear", state="running", round=1, rounds=1000)
        await self._say(self._topics.status("cloud"), cloud)
        await self._say(self._topics.run, run)
        for gateway, below in self.clusters.items():
            born = NodeStatus(node=gateway, role="gateway", parent="cloud", state="online", data={})
            await self._say(self._topics.status(gateway), born)
            for device in below:
                there = NodeStatus(node=device, role="device", parent=gateway, state="online", data={})
                await self._say(self._topics.status(device), there)

    async def learn(self) -> None:
        """Rounds of ten tellings each, until cancelled."""
        for number in range(10**9):
            for gateway, below in self.clusters.items():
                with contextlib.suppress(LinkDown):
                    await self._say(self._topics.cluster(gateway), _cluster(gateway, below, number))
            await asyncio.sleep(TELL_EVERY_S)

    async def _say(self, topic: str, status: NodeStatus | RunStatus | RoundStatus) -> None:
        await self.session.publish(topic, encode_status(status), retain=True)


def _cluster(gateway: str, below: list[str], number: int) -> RoundStatus:
    received = len(below) * (number % 10 + 1) // 10
    members = tuple(
        MemberStatus(node=name, state="received" if place < received else "waiting", examples=30, devices=1)
        for place, name in enumerate(below)
    )
    return RoundStatus(
        parent=gateway,
        run="r1",
        round=1 + number // 10,
        step=0,
        attempt=0,
        task="train",
        state="closed" if received == len(below) else "open",
        cohort=len(below),
        received=received,
        refused=0,
        examples=30 * received,
        elapsed_s=TELL_EVERY_S * (number % 10 + 1),
        bytes_down=1000 * len(below),
        bytes_up=1000 * received,
        metrics={},
        members=members,
        figures={},
    )


async def measure(devices: int, clusters: int, seconds: float, picture: Path | None = None) -> dict[str, Any]:
    """One fleet, watched for so long; `picture` takes what was seen."""
    with tempfile.TemporaryDirectory(prefix="headwater-dashboard-") as name, Embedded(BrokerConfig(port=0)) as broker:
        players = Players(broker.port, devices, clusters)
        async with _running(players), _dashboard(Path(name), broker.port) as (process, url), _page() as page:
            told = await _watched(page, url, process, devices, clusters, seconds, picture)
            clicks = [await _click(page, number * 7 % (devices // clusters * clusters)) for number in range(CLICKS)]
            return told | {"click_s": statistics.median(clicks), "slowest_click_s": max(clicks)}


async def _watched(
    page: Page, url: str, process: psutil.Process, devices: int, clusters: int, seconds: float, picture: Path | None
) -> dict[str, Any]:
    arrived: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: arrived.append(len(frame))))
    await page.add_init_script(_WATCH)
    began = time.perf_counter()
    await page.goto(url)
    shown = f"document.querySelectorAll('.hw-tree .hw-cell').length === {devices // clusters * clusters}"
    await page.wait_for_function(shown, timeout=SEEN_MS)
    first_paint_s = time.perf_counter() - began
    await page.wait_for_timeout(2000)
    await page.evaluate("window.long.length = 0")
    arrived.clear()
    cpu_s, watched_at = _cpu_s(process), time.perf_counter()
    await page.wait_for_timeout(seconds * 1000)
    watched_s = time.perf_counter() - watched_at
    long_ms: list[float] = await page.evaluate("window.long")
    if picture is not None:
        await page.screenshot(path=picture)
    return {
        "devices": devices,
        "clusters": clusters,
        "first_paint_s": first_paint_s,
        "dom_nodes": await page.evaluate("document.querySelectorAll('*').length"),
        "blocked_share": sum(long_ms) / 1000 / watched_s,
        "longest_task_ms": max(long_ms, default=0.0),
        "kilobytes_a_second": sum(arrived) / 1000 / watched_s,
        "server_cpu_share": (_cpu_s(process) - cpu_s) / watched_s,
        "server_memory_mb": process.memory_info().rss / 1e6,
    }


async def _click(page: Page, place: int) -> float:
    cell = page.locator(".hw-tree .hw-cell").nth(place)
    name = (await cell.get_attribute("href") or "").rsplit("/", 1)[-1]
    began = time.perf_counter()
    await cell.click(timeout=SEEN_MS)
    await page.get_by_role("heading", name=name).wait_for(timeout=SEEN_MS)
    took_s = time.perf_counter() - began
    # The address follows the page; going back before it did would leave the dashboard.
    await page.wait_for_url(f"**/node/{name}", timeout=SEEN_MS)
    await page.go_back()
    await cell.wait_for(timeout=SEEN_MS)
    return took_s


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.asynccontextmanager
async def _running(players: Players) -> AsyncIterator[None]:
    link = asyncio.create_task(players.session.run())
    await players.session.wait_connected()
    await players.come()
    learning = asyncio.create_task(players.learn())
    try:
        yield
    finally:
        for task in (learning, link):
            task.cancel()
        await asyncio.gather(learning, link, return_exceptions=True)


@contextlib.asynccontextmanager
async def _dashboard(folder: Path, broker: int) -> AsyncIterator[tuple[psutil.Process, str]]:
    port = free_port()
    with Processes(folder) as processes:
        started = processes.start("dashboard", {"fleet": FLEET, "port": port, "brokers": {"cloud": {"port": broker}}})
        await asyncio.to_thread(wait_for_port, port, 30.0)
        await asyncio.sleep(2.0)
        yield psutil.Process(started.process.pid), f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def _page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        where = program("chromium", "chromium")
        browser = await playwright.chromium.launch(executable_path=where, args=list(_ARGUMENTS))
        yield await browser.new_page(viewport={"width": 1280, "height": 900})
        await browser.close()


def line(told: dict[str, Any]) -> str:
    return (
        f"{told['devices']:>6} devices  first paint {told['first_paint_s']:.2f} s  click {told['click_s']:.2f} s "
        f"(slowest {told['slowest_click_s']:.2f})  main thread blocked {told['blocked_share']:.1%}, longest "
        f"{told['longest_task_ms']:.0f} ms  {told['kilobytes_a_second']:.0f} kB/s  {told['dom_nodes']} nodes  "
        f"server {told['server_cpu_share']:.0%} of a core, {told['server_memory_mb']:.0f} MB"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="What a large fleet costs a browser, and the dashboard's server.")
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--clusters", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--picture", type=Path, help="Keep what was seen of the last of them, as PNG.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for devices in given.devices:
        told = asyncio.run(measure(devices, min(given.clusters, devices), given.seconds, given.picture))
        print(json.dumps(told) if given.json else line(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
