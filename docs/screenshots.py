"""Law: a picture in the documentation is of a real run, made by this script; nothing in it is drawn by hand.

A fleet of nine watches learns on this machine, with a dashboard beside it; for the last picture its cloud is killed.
Needs chromium, and Pillow, which comes with the extra `plots`.

    python docs/screenshots.py
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from headwater.cloud.history import History, open_history
from headwater.schemas.errors import RunFailed
from headwater.schemas.run import RunDescription
from headwater.testbed import scenarios
from headwater.testbed.machine import free_port, program, wait_for_port
from headwater.testbed.tree import Standing, standing

IMAGES: Final = Path(__file__).parent / "images"
MAX_SIZE_BYTES: Final = 150_000
COLOURS: Final = 128
"""Of a picture's palette: flat pages need no more."""

TIMEOUT_S: Final = 240.0
ROUNDS: Final = 40
AGAIN: Final = "exercises-again"
LONG: Final = 4000
"""Rounds of the run that is still going on when it is looked at."""

_ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_DESK: Final = {"width": 1280, "height": 800}
_PHONE: Final = {"width": 390, "height": 780}


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: where to look, how large, in which colours."""

    name: str
    path: str
    scheme: str = "light"
    is_phone: bool = False
    wait_for: str = "main h1"


COMPARED: Final[dict[str, dict[str, Any]]] = {
    "exercises": {},
    "exercises-int8": {"uplink": {"codec": "int8"}, "downlink": {"codec": "int8"}},
    "exercises-fedprox": {"strategy": {"name": "fedprox", "mu": 0.3}},
}
"""Runs that are looked at beside each other, by what they differ in from the scenario's."""

SHOTS: Final = (
    Shot("dashboard-tree", "/", wait_for=".hw-chart canvas"),
    Shot("dashboard-run", "/run/exercises", wait_for=".hw-chart canvas"),
    Shot("dashboard-run-dark", "/run", "dark", wait_for=".hw-chart canvas"),
    Shot("dashboard-device", "/node/watch-3", wait_for=".hw-chart canvas"),
    Shot("dashboard-compare", f"/compare?runs={','.join(COMPARED)}&along=bytes", wait_for=".hw-chart canvas"),
    Shot("dashboard-phone", "/", "dark", is_phone=True, wait_for=".hw-chart canvas"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Take the documentation's pictures of the dashboard anew.")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="headwater-shots-") as name,
        _fleet(Path(name)) as (fleet, url),
        _browser() as browser,
    ):
        for shot in SHOTS:
            _keep(folder / f"{shot.name}.png", _taken(browser, url, shot))
        _keep(folder / "dashboard-away.png", _without_the_cloud(browser, url, fleet))
    return 0


# ── the fleet ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _fleet(folder: Path) -> Iterator[tuple[Standing, str]]:
    """Three runs behind it, a fourth under way."""
    scenario = scenarios.scenario("wearables")
    api, port = free_port(), free_port()
    tree = replace(scenario.tree(), settings={"cloud": {"http": {"port": api}}})
    with standing(tree, folder) as fleet:
        brokers = {name: {"port": broker} for name, broker in fleet.ports.items()}
        about = {"fleet": tree.fleet, "port": port, "api": f"http://127.0.0.1:{api}", "brokers": brokers}
        fleet.processes.start("dashboard", about)
        wait_for_port(port, 30.0)
        history = open_history(fleet.database)
        try:
            _learn(history, tree.fleet, scenario.run.model_copy(update={"rounds": ROUNDS}))
        finally:
            history.close()
        yield fleet, f"http://127.0.0.1:{port}"


def _learn(history: History, fleet: str, run: RunDescription) -> None:
    for name, differs in COMPARED.items():
        history.enqueue_run(name, fleet, _but(run, differs), None, datetime.now(UTC))
    history.enqueue_run(AGAIN, fleet, _but(run, {"rounds": LONG}), None, datetime.now(UTC))
    _until(lambda: history.show_run(AGAIN).round >= ROUNDS, "the last run has not begun")


def _but(run: RunDescription, differs: Mapping[str, Any]) -> RunDescription:
    return RunDescription.model_validate(run.model_dump(exclude_unset=True) | differs)


def _until(holds: Any, otherwise: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise RunFailed(f"{otherwise} within {TIMEOUT_S:g} s")
        time.sleep(0.5)


# ── the pictures ────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium", "chromium"), args=list(_ARGUMENTS))
        yield browser
        browser.close()


def _opened(browser: Browser, shot: Shot) -> Page:
    size = _PHONE if shot.is_phone else _DESK
    scheme: Any = shot.scheme
    return browser.new_page(
        viewport=size, color_scheme=scheme, timezone_id="UTC", device_scale_factor=2 if shot.is_phone else 1
    )


def _taken(browser: Browser, url: str, shot: Shot) -> bytes:
    page = _opened(browser, shot)
    page.goto(url + shot.path)
    page.wait_for_selector(shot.wait_for, timeout=30_000)
    page.wait_for_timeout(3000)
    picture = page.screenshot()
    page.close()
    return picture


def _without_the_cloud(browser: Browser, url: str, fleet: Standing) -> bytes:
    """The gap, while the coordinator is gone."""
    page = _opened(browser, Shot("", ""))
    page.goto(f"{url}/")
    page.wait_for_selector(".hw-chart canvas", timeout=30_000)
    fleet.processes.kill(next(started for started in fleet.processes.started if started.kind == "cloud"))
    page.wait_for_selector(".hw-banner:visible", timeout=30_000)
    page.wait_for_timeout(1500)
    picture = page.screenshot()
    page.close()
    return picture


def _keep(file: Path, picture: bytes) -> None:
    """As a small PNG of few colours."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    if len(packed.getvalue()) > MAX_SIZE_BYTES:
        raise RunFailed(f"{file.name}: {len(packed.getvalue())} bytes; at most {MAX_SIZE_BYTES}, take fewer colours")
    file.write_bytes(packed.getvalue())
    print(f"{file.name}: {len(packed.getvalue()) / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
