"""The testbed of containers, as anybody starts it: the repository's own docker-compose.yml, under a name of its own."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from headwater.testbed.machine import free_port
from support.postgres import missing

ROOT: Final = Path(__file__).parents[2]
BUILT: Final = ("setup", "broker", "postgres", "cloud", "gateway-north", "device-north", "dashboard", "chaos-north")
"""One service for each image."""

BUILD_TIMEOUT_S: Final = 1500.0
COMMAND_TIMEOUT_S: Final = 240.0


@functools.lru_cache(maxsize=1)
def compose_command() -> tuple[str, ...]:
    """Either generation of the tool will do. Skipped, on CI failed, without an engine or the tool."""
    if shutil.which("docker") is None or _run("docker", "info", check=False).returncode:
        missing("Docker", "start its engine")
    if not _run("docker", "compose", "version", check=False).returncode:
        return ("docker", "compose")
    if shutil.which("docker-compose") is None:
        missing("docker-compose", "apt-get install docker-compose")
    return ("docker-compose",)


@dataclass(frozen=True)
class Containers:
    """A testbed, up or down. `settings` are the variables that docker-compose.yml reads."""

    name: str = field(default_factory=lambda: f"headwater-test-{uuid.uuid4().hex[:8]}")
    settings: dict[str, str] = field(default_factory=dict)

    def compose(
        self, *arguments: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        command = (*compose_command(), "--project-name", self.name, *arguments)
        return _run(*command, check=check, timeout_s=timeout_s, environment=os.environ | self.settings)

    def up(self, *arguments: str) -> None:
        self.compose("up", "--detach", *arguments)

    def down(self) -> None:
        """Take the containers away. An engine that was busy may keep a network of theirs, which the next `up` takes."""
        self.compose("--profile", "chaos", "down", "--timeout", "5", check=False)
        assert not docker("ps", "--all", "--quiet", *self._own()).split()

    def forget(self) -> None:
        """Nothing is left, but the images."""
        self.down()
        if volumes := docker("volume", "ls", "--quiet", *self._own()).split():
            docker("volume", "rm", *volumes)

    def _own(self) -> tuple[str, str]:
        return ("--filter", f"label=com.docker.compose.project={self.name}")

    def inside(self, service: str, *command: str, check: bool = True) -> str:
        """What a command says in the one container of a service."""
        return self.compose("exec", "-T", service, *command, check=check).stdout

    def sql(self, query: str) -> list[list[str]]:
        """The rows of a query, by PostgreSQL's own client."""
        told = self.inside("postgres", "psql", "--no-align", "--tuples-only", "--field-separator=|", "-c", query)
        return [line.split("|") for line in told.splitlines()]

    def heard(self, topic: str, wait_s: int = 3) -> list[dict[str, Any]]:
        """What is retained on a topic at the cloud's broker, as its viewer reads it."""
        told = self.inside("broker", "watch", "-t", topic, "--retained-only", "-W", str(wait_s), check=False)
        return [json.loads(line) for line in told.splitlines()]

    def ids(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).stdout.split()

    def inspected(self, *services: str) -> list[dict[str, Any]]:
        """All that the engine says of the containers of these services, or of all."""
        ids = self.compose("ps", "--quiet", *services).stdout.split()
        found: list[dict[str, Any]] = json.loads(docker("inspect", *ids))
        return found

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "40", check=False).stdout


@contextlib.contextmanager
def containers(run: Path) -> Iterator[Containers]:
    """A testbed whose images are built, and of which nothing but they is left behind. `run` is what it learns."""
    settings = {
        name: str(free_port()) for name in ("HEADWATER_VIEWER_PORT", "HEADWATER_API_PORT", "HEADWATER_DASHBOARD_PORT")
    }
    testbed = Containers(settings=settings | {"HEADWATER_RUN": str(run)})
    testbed.compose("--profile", "chaos", "build", "--quiet", *BUILT, timeout_s=BUILD_TIMEOUT_S)
    try:
        yield testbed
    finally:
        testbed.forget()


def docker(*arguments: str) -> str:
    return _run("docker", *arguments).stdout


def _run(
    *command: str,
    check: bool = True,
    timeout_s: float = COMMAND_TIMEOUT_S,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done
