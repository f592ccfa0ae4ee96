"""Law: what the testbed starts it also ends, whatever happens: asked first, killed after a bounded wait.

A process that outlives its testbed would be a leak; each also ends by itself when the testbed is gone.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater.node.service import STOP_WITH_PARENT
from headwater.schemas.errors import HeadwaterError
from headwater.testbed.toml import to_toml

STOP_TIMEOUT_S: Final = 5.0
STATE: Final = "state"
"""Where nodes keep what outlives them, in the testbed's folder."""

_MODULES: Final = {
    "cloud": ("headwater.cli.main", "cloud"),
    "gateway": ("headwater.cli.main", "gateway"),
    "device": ("headwater.device",),
    "dashboard": ("headwater.cli.main", "dashboard"),
}

_KEEPERS: Final = ("gateway", "device")
"""Those that have a folder for what outlives them."""


class ProcessDied(HeadwaterError):
    """A part of the testbed ended by itself; the sentence holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Started:
    name: str
    kind: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """The services of a testbed. As a context manager it ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[Started] = []
        self._logged: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def start(
        self, kind: str, settings: Mapping[str, Any], *, name: str = "", environment: Mapping[str, str] | None = None
    ) -> Started:
        """Start a cloud, gateway, device or dashboard with these settings, written to `NAME.toml`; its log is
        `NAME.log`, which a second start continues. `name` is the node's unless another is given; `environment` comes on
        top of this one's.

        What it keeps is below the testbed's folder, unless they say otherwise: no testbed meets another one's past.
        """
        name = name or str(settings.get("node", kind))
        if kind in _KEEPERS:
            settings = {"state": str((self._folder / STATE).resolve()), **settings}
        config, log = self._folder / f"{name}.toml", self._folder / f"{name}.log"
        config.write_text(to_toml(settings), encoding="utf-8")
        with log.open("ab" if name in self._logged else "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *_MODULES[kind], str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment() | dict(environment or {}),
                # Ctrl-C goes to the testbed alone, which ends the others in order.
                start_new_session=True,
            )
        self._logged.add(name)
        self.started.append(Started(name, kind, process, log))
        return self.started[-1]

    def kill(self, started: Started) -> None:
        """SIGKILL; from then on it is none of these."""
        started.process.kill()
        started.process.wait()
        self.started.remove(started)

    def check(self) -> None:
        """Raises ProcessDied where one has ended by itself."""
        for started in self.started:
            code = started.process.poll()
            if code is not None:
                last = started.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
                raise ProcessDied(f"{started.name} ended with code {code}: {' | '.join(last)}; see {started.log}")

    def stop(self) -> None:
        """Devices first, the cloud last, so that each can still say goodbye."""
        for kind in ("dashboard", "device", "gateway", "cloud"):
            _end(started.process for started in self.started if started.kind == kind)
        self.started.clear()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _environment() -> dict[str, str]:
    """This process's environment without other services' settings; one thread for every numeric library."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    return kept | {STOP_WITH_PARENT: str(os.getpid()), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for process in running:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
