"""Law: a demo's dashboard is the one that everybody has, a process beside the fleet; the demo only says where it is."""

import asyncio
import webbrowser
from dataclasses import dataclass
from time import monotonic
from typing import Final

from rich.console import Console

from headwater.schemas.errors import RunFailed
from headwater.testbed.machine import HOST, LOOK_EVERY_S, listens, port_near
from headwater.testbed.tree import Standing

PORT: Final = 8090
"""Where people look for it; another where somebody has that."""

START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Showing:
    """What is there to look at: the dashboard, its browser opened or not, and whether the fleet `stays` for it."""

    dashboard: bool = True
    opens: bool = False
    stays: bool = False


NOTHING: Final = Showing(dashboard=False)


async def show(fleet: Standing, api: int, showing: Showing, console: Console) -> None:
    """Start a dashboard of all brokers and of the cloud's HTTP API (its port), and say where it is.

    Raises:
        ProcessDied: it, or another part of the fleet, has ended.
        RunFailed: it is not there within `START_TIMEOUT_S`.
    """
    port = port_near(PORT)
    brokers = {name: {"port": of_it} for name, of_it in fleet.ports.items()}
    about = {"fleet": fleet.tree.fleet, "port": port, "api": f"http://{HOST}:{api}", "brokers": brokers}
    fleet.processes.start("dashboard", about)
    await _there(fleet, port)
    url = f"http://{HOST}:{port}"
    console.print(f"Watch it: {url}", highlight=False)
    if showing.opens:
        webbrowser.open(url)


async def _there(fleet: Standing, port: int) -> None:
    # In no thread, for which an interrupted demo would have to wait.
    deadline = monotonic() + START_TIMEOUT_S
    while not listens(port):
        fleet.check()
        if monotonic() > deadline:
            raise RunFailed(
                f"dashboard: nothing listens on port {port} after {START_TIMEOUT_S:g} s; see dashboard.log, or leave "
                "it out by --no-dashboard"
            )
        await asyncio.sleep(LOOK_EVERY_S)
