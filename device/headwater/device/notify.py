"""Law: whoever supervises this process hears when it works, that it still does, and what it waits for; nobody else.

The protocol is sd_notify(3): datagrams of NAME=value lines to the socket that NOTIFY_SOCKET names. Signs of life come
from the event loop, so one that hangs is noticed. Without such a socket nothing is sent.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from headwater.device.launcher import LAUNCHED, tell_supervisor
from headwater.node.parents import Standing

log = logging.getLogger("headwater.device")

LOOK_EVERY_S: Final = 1.0
SIGNS_A_WATCHDOG: Final = 3
"""Signs of life in the time after which a watchdog takes a process for hung."""

SILENT_AFTER_S: Final = 180.0
"""A parent that said nothing for so long is told to be silent; three heartbeats of a minute."""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who is told, and how soon a watchdog expects a sign of life; None where nobody is, or none is expected.

    `is_launchers`: the agent's end is not the service's, for the launcher may start another.
    """

    address: str | None = None
    watchdog_s: float | None = None
    is_launchers: bool = False

    @staticmethod
    def of(environment: Mapping[str, str]) -> "Supervisor":
        """As the process's environment names it. WATCHDOG_PID is passed over: an agent's launcher may stand between."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return Supervisor()
        microseconds = environment.get("WATCHDOG_USEC", "")
        watchdog_s = int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
        return Supervisor(address, watchdog_s, bool(environment.get(LAUNCHED)))

    @property
    def look_every_s(self) -> float:
        """How often there may be something to say."""
        return min(LOOK_EVERY_S, (self.watchdog_s or float("inf")) / SIGNS_A_WATCHDOG)

    def tell(self, lines: Mapping[str, str]) -> None:
        """Hand the lines over; a supervisor that does not take them is no reason to stop."""
        if self.address is None or not lines:
            return
        tell_supervisor(self.address, "\n".join(f"{name}={value}" for name, value in lines.items()))


@dataclass(frozen=True, slots=True)
class Told:
    """What the supervisor knows; times are the loop's."""

    ready: bool = False
    status: str = ""
    alive_at: float | None = None


def step(told: Told, standing: Standing, now: float, watchdog_s: float | None) -> tuple[Told, dict[str, str]]:
    """What the supervisor knows next, and the lines that tell it."""
    lines: dict[str, str] = {}
    if standing.connected and not told.ready:
        lines["READY"] = "1"
    status = words(standing)
    if status != told.status:
        lines["STATUS"] = status
    alive_at = told.alive_at
    if watchdog_s is not None and (alive_at is None or now - alive_at >= watchdog_s / SIGNS_A_WATCHDOG):
        lines["WATCHDOG"] = "1"
        alive_at = now
    return Told(told.ready or standing.connected, status, alive_at), lines


def words(standing: Standing) -> str:
    """A node's standing in a sentence that changes seldom."""
    if not standing.connected:
        return f"waits for the broker of {standing.parent}"
    if standing.silent_s is None:
        return f"connected; nothing heard of {standing.parent} yet"
    if standing.silent_s > SILENT_AFTER_S:
        return f"connected; {standing.parent} silent for {standing.silent_s // 60:.0f} min"
    return f"connected; follows {standing.parent}"


async def keep_told(supervisor: Supervisor, look: Callable[[], Standing]) -> None:
    """Tell the supervisor how this node stands, whenever that changes. Runs until cancelled."""
    told = Told()
    try:
        while True:
            now = asyncio.get_running_loop().time()
            told, lines = step(told, look(), now, supervisor.watchdog_s)
            supervisor.tell(lines)
            await asyncio.sleep(supervisor.look_every_s)
    finally:
        supervisor.tell({"STATUS": "stops"} if supervisor.is_launchers else {"STOPPING": "1", "STATUS": "stops"})
