"""Law: a page is told of a change at most a few times a second, and of nothing that did not change."""

import time
from collections.abc import Callable
from typing import Final

from nicegui import ui

from headwater.dashboard.pages.site import Site
from headwater.dashboard.view.state import Fleet

TICK_S: Final = 0.5
AT_LEAST_EVERY_S: Final = 2.0
"""What is said of the time that went by is told anew so often, though nothing else happened."""


def every_tick(site: Site, show: Callable[[Fleet], None], *, also: Callable[[], object] = lambda: None) -> None:
    """Call `show` now, and whenever the fleet, or what `also` gives, is another than when it was called last."""
    told: tuple[int, object] = (-1, None)
    told_at = 0.0

    client = ui.context.client

    def tick() -> None:
        nonlocal told, told_at
        # A tab that went away for a moment is told when it is back, and need not be told what it missed.
        if not client.has_socket_connection:
            return
        fleet, other = site.feed.fleet, also()
        if (fleet.revision, other) != told or time.monotonic() - told_at > AT_LEAST_EVERY_S:
            told, told_at = (fleet.revision, other), time.monotonic()
            show(fleet)

    tick()
    ui.timer(TICK_S, tick)
