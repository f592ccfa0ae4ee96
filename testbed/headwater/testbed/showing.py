"""Law: a demo's dashboard is the one that everybody has, a process beside the fleet; the demo only says where it is."""

import asyncio
import webbrowser
from dataclasses import dataclass
from typing import Final

from rich.console import Console

from headwater.testbed.machine import HOST, port_near, wait_for_port
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
        TimeoutError: it is not there within `START_TIMEOUT_S`.
    """
    port = port_near(PORT)
    brokers = {name: {"port": of_it} for name, of_it in fleet.ports.items()}
    about = {"fleet": fleet.tree.fleet, "port": port, "api": f"http://{HOST}:{api}", "brokers": brokers}
    fleet.processes.start("dashboard", about)
    await asyncio.to_thread(wait_for_port, port, START_TIMEOUT_S)
    url = f"http://{HOST}:{port}"
    console.print(f"Watch it: {url}", highlight=False)
    if showing.opens:
        webbrowser.open(url)
