"""A history that a small real fleet has filled, with releases, and callers of the API over it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from headwater.cloud.api.app import create_app
from headwater.cloud.api.gate import Application
from headwater.cloud.api.service import Api, Standing
from headwater.cloud.api.tokens import TokenBook, of_secret, write
from headwater.cloud.history import History, open_history
from headwater.cloud.releasing import Policy
from headwater.schemas.run import RunDescription
from headwater.testbed.tree import Tree, standing
from support.releases import publish
from support.waiting import eventually, wait_online

ROUNDS = 3
RUN = "20260102-030405-digits-0000"
GATEWAYS = {"gw1": ("d0", "d1"), "gw2": ("d2",), "": ("d3",)}
DEVICES = ("d0", "d1", "d2", "d3")
DATA = {
    name: {"digits": {"kind": "digits", "devices": 4, "index": index, "alpha": 1.0}}
    for index, name in enumerate(DEVICES)
}
DESCRIPTION = RunDescription.model_validate(
    {
        "name": "digits",
        "data": "digits",
        "rounds": ROUNDS,
        "edge_rounds": 2,
        "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (8,), "normalise": True},
        "local": {"batch_size": 64},
        "cohort": {"deadline_s": 20.0, "quorum": 1.0, "min_children": 3},
    }
)
VERSIONS = ("2.0", "2.1", "2.0")
"""Of the releases 1, 2 and 3; the last takes the second one back."""

SECRETS = {"eve": "hw_viewer", "ops": "hw_operator"}
VIEWER, OPERATOR = ({"Authorization": f"Bearer {secret}"} for secret in SECRETS.values())


def fill(folder: Path, url: str) -> None:
    """Three rounds of two gateways and four devices, one of them right below the cloud."""
    tree = Tree(fleet="plant", clusters=GATEWAYS, data=DATA, settings={"cloud": {"database": url}})
    with standing(tree, folder), contextlib.closing(open_history(url)) as history:
        wait_online(folder, (*tree.gateways, *tree.devices))
        history.enqueue_run(RUN, "plant", DESCRIPTION, None, datetime.now(UTC))
        eventually(lambda: history.show_run(RUN).state not in ("queued", "running"), 90)
        record = history.show_run(RUN)
        assert record.state == "finished", record.failure
        clusters = history.reading.clusters
        # What gateways tell comes beside the rounds.
        eventually(lambda: len(clusters(RUN, ROUNDS, _all()).entries) == 4, 10)
    with contextlib.closing(open_history(url)) as history:
        for version in VERSIONS:
            publish(history, version, Policy(canaries=("d0",), canary_share=0.0, shares=(0.5,), soak_s=60.0))


def _all() -> Any:
    from headwater.cloud.history.reading import Part

    return Part(limit=500)


def tokens(folder: Path) -> Path:
    """A file with a viewer and an operator."""
    file = folder / "tokens.toml"
    eve, ops = SECRETS.items()
    write(file, (of_secret(eve[0], "viewer", eve[1]), of_secret(ops[0], "operator", ops[1])))
    return file


@dataclass(frozen=True)
class Served:
    """An application with its history."""

    app: Application
    history: History
    standing: list[Standing]

    def client(self, headers: dict[str, str] | None = None, base: str = "http://127.0.0.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url=base, headers=headers or {})


@contextlib.contextmanager
def served(url: str, book: Path | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Served]:
    """The API over a database, in this process. Its standing is the last in the list."""
    with contextlib.closing(open_history(url)) as history:
        standings = [Standing(leads=True, is_connected=True)]
        api = Api(history, "plant", lambda: standings[-1], now, lambda: "salt")
        yield Served(create_app(api, TokenBook(book) if book else None), history, standings)
