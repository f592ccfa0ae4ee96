"""Law: an observer reads what anyone may read, the round topics and the nodes' status, and touches nothing."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from headwater.node.news import News
from headwater.schemas.errors import RunFailed
from headwater.schemas.settings import BrokerSettings
from headwater.schemas.statuses import NodeStatus, RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode_status
from headwater.testbed.tree import Standing
from headwater.transport.session import Caller, Session

READY_TIMEOUT_S: Final = 60.0


class Observer:
    """What the people's topics of a tree say, from all of its brokers."""

    def __init__(self, fleet: str, ports: Mapping[str, int]) -> None:
        self._topics = Topics(fleet)
        self.news = News()
        self.run: RunStatus | None = None
        self.round: RoundStatus | None = None
        self.clusters: dict[str, RoundStatus] = {}
        self.nodes: dict[str, NodeStatus] = {}
        self.closed: list[RoundStatus] = []
        self.closed_clusters: list[RoundStatus] = []
        self._sessions = [self._session(fleet, port) for port in sorted(set(ports.values()))]

    async def follow(self) -> None:
        """Read until cancelled."""
        await asyncio.gather(*(session.run() for session in self._sessions))

    async def wait_ready(self, standing: Standing) -> None:
        """Until every node has said that it is online.

        Raises:
            RunFailed: some have not within `READY_TIMEOUT_S`; they are named.
            ProcessDied: one has ended.
        """
        expected = {*standing.tree.gateways, *standing.tree.devices}
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            standing.check()
            online = {name for name, status in self.nodes.items() if status.state == "online"}
            if expected <= online:
                return
            if time.monotonic() > deadline:
                missing = ", ".join(sorted(expected - online))
                raise RunFailed(f"not online within {READY_TIMEOUT_S:g} s: {missing}; see their logs")
            await self.news.wait(0.5)

    async def wait_run(self, run: str, standing: Standing, look: Callable[[], None]) -> RunStatus:
        """Until the run has ended; `look` is called at every change and at least twice a second."""
        while True:
            standing.check()
            look()
            if self.run is not None and self.run.run == run and self.run.state in ("finished", "stopped", "failed"):
                return self.run
            await self.news.wait(0.25)

    def _session(self, fleet: str, port: int) -> Session:
        async def nothing_to_say() -> None:
            return None

        return Session(
            BrokerSettings(port=port),
            Caller(
                fleet=fleet,
                node="observer",
                client=f"observer-{port}",
                filters=(self._topics.all_rounds, self._topics.status()),
                on_message=self._on_message,
                on_connect=nothing_to_say,
            ),
        )

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            self._take(topic, payload)
        except WireError:
            return
        self.news.tell()

    def _take(self, topic: str, payload: bytes) -> None:
        if topic == self._topics.run:
            self.run = decode_status(payload, RunStatus)
        elif topic == self._topics.round:
            round_ = decode_status(payload, RoundStatus)
            # The cloud says it again with the time that its commit took.
            if round_.state != "open" and self.round is not None and _ended(self.round) == _ended(round_):
                self.closed[-1] = round_
            elif round_.state != "open":
                self.closed.append(round_)
            self.round = round_
        elif topic.startswith(self._topics.cluster("+")[:-1]):
            status = decode_status(payload, RoundStatus)
            before = self.clusters.get(status.parent)
            self.clusters[status.parent] = status
            # The site's broker and the cloud's both carry it: count it once.
            if status.state != "open" and (before is None or _ended(before) != _ended(status)):
                self.closed_clusters.append(status)
        else:
            node = decode_status(payload, NodeStatus)
            self.nodes[node.node] = node


def _ended(status: RoundStatus) -> tuple[str, int, int, int, bool]:
    return status.run, status.round, status.step, status.attempt, status.state != "open"
