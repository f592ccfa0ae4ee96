"""Law: what happened is counted as it is told, and what is so now is looked at when somebody asks.

The one module that knows the library of Prometheus; a node without `[metrics]` never loads it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, Summary
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headwater.node.hosting import RoundResult
from headwater.node.identity import Identity, software
from headwater.node.metric_names import SECONDS, Metric, metrics_of
from headwater.node.observing import Declined, Ended, NotTaken, Opened, Recorded, RunTold, Seen, Taken, Worked
from headwater.node.watching import Sights
from headwater.schemas.manifest import TRAIN_S
from headwater.schemas.messages import Delta
from headwater.schemas.statuses import NodeState, RunState, RunStatus, Times
from headwater.transport.session import Connection, Traffic

HEALTHY_FOR_S: Final = 60.0
"""A node whose link has been down for no longer is well: brokers are restarted, and links come back."""

LOOK_EVERY_S: Final = 1.0

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class Exporter:
    """The metrics of one node, in a registry of its own. Its methods are called inside the event loop.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        self.registry = CollectorRegistry()
        self._clock = clock
        self._role = identity.role
        made = [metric for metric in metrics_of(identity.role) if not metric.is_looked_at]
        self._metrics = {metric.name: _made(metric, self.registry) for metric in made}
        self._looked_at = _LookedAt([metric for metric in metrics_of(identity.role) if metric.is_looked_at])
        self.registry.register(self._looked_at)
        ProcessCollector(registry=self.registry)
        self._sights = Sights()
        self._up_at: dict[str, float] = {}
        self._traffic: dict[str, tuple[Connection, Traffic]] = {}
        self._run: tuple[str, str] | None = None
        self._of("headwater_node_info", identity.fleet, identity.node, identity.role, software()).set(1)

    def _of(self, name: str, *labels: str) -> Any:
        metric = self._metrics[name]
        return metric.labels(*labels) if labels else metric

    # ── what happened ───────────────────────────────────────────────────────────────────────────────────────────

    def saw(self, seen: Seen) -> None:
        """Count it."""
        match seen:
            case Opened() | Ended() | Recorded():
                self._saw_round(seen)
            case Taken() | NotTaken() | Declined():
                self._saw_answer(seen)
            case RunTold(status):
                self._tell_run(status)
            case Worked(_, delta, reason):
                self._of("headwater_plans_total", "declined" if delta is None else "done", reason or "").inc()
                if delta is not None and self._role == "device":
                    self._tell_training(delta)

    def _saw_round(self, seen: Opened | Ended | Recorded) -> None:
        match seen:
            case Opened(key, _, cohort):
                self._of("headwater_round").set(key.round)
                self._of("headwater_round_cohort").set(cohort)
            case Ended(result):
                self._count_round(result)
            case Recorded(status, commit_s):
                if status.times is not None:
                    self._of("headwater_round_phase_seconds", "aggregate").observe(status.times.aggregate_s)
                self._of("headwater_round_phase_seconds", "commit").observe(commit_s)

    def _saw_answer(self, seen: Taken | NotTaken | Declined) -> None:
        match seen:
            case Taken(_, size_bytes):
                self._of("headwater_deltas_total", "taken", "").inc()
                self._of("headwater_delta_bytes_total").inc(size_bytes)
            case NotTaken(reason=reason):
                self._of("headwater_deltas_total", "refused", reason).inc()
            case Declined(reason=reason):
                self._of("headwater_declined_total", reason).inc()

    def _count_round(self, result: RoundResult) -> None:
        self._of("headwater_rounds_total", result.plan.task, result.round.state).inc()
        self._of("headwater_round_participants").set(result.round.updates)
        if not result.closed:
            return
        self._of("headwater_round_duration_seconds").observe(result.elapsed_s)
        self._of("headwater_round_closed_timestamp_seconds").set(self._clock())
        if result.times is not None:
            self._spend(result.times)
        if result.told is not None:
            self._tell_figures({tuple(name.split("/", 1)): value for name, value in result.told.metrics.items()})

    def _spend(self, times: Times) -> None:
        for phase, spent_s in (("train", times.train_s), ("transfer", times.transfer_s), ("wait", times.wait_s)):
            self._of("headwater_round_phase_seconds", phase).observe(spent_s)

    def _tell_figures(self, means: Mapping[Any, float]) -> None:
        """Args: means: by split and name."""
        for (split, name), value in means.items():
            if name in ("loss", "correct"):
                self._of("headwater_loss" if name == "loss" else "headwater_accuracy", split).set(value)

    def _tell_training(self, delta: Delta) -> None:
        means = {(m.split, m.name): m.total / m.weight for m in delta.metrics if m.weight > 0}
        self._tell_figures(means)
        if ("train", TRAIN_S) in means:
            self._of("headwater_train_seconds").observe(means["train", TRAIN_S])

    def _tell_run(self, status: RunStatus) -> None:
        named = (status.run, status.name)
        if self._run is not None and self._run != named:
            self._metrics["headwater_run_info"].remove(*self._run)
        self._run = named
        self._of("headwater_run_info", *named).set(1)
        for state in get_args(RunState):
            self._of("headwater_run_state", state).set(state == status.state)
        self._of("headwater_run_round").set(status.round)
        self._of("headwater_run_rounds").set(status.rounds)

    # ── what is so now ──────────────────────────────────────────────────────────────────────────────────────────

    def look_at(self, sights: Sights) -> None:
        """From now on these are the node's. Its links have `HEALTHY_FOR_S` to come up."""
        self._sights = sights
        self._up_at = dict.fromkeys(sights.links, asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Look at the links again and again, for what is between two questions."""
        while True:
            self._look_at_links()
            await asyncio.sleep(LOOK_EVERY_S)

    def _look_at_links(self) -> None:
        now = asyncio.get_running_loop().time()
        for link, connection_of in self._sights.links.items():
            connection = connection_of()
            connected = connection is not None and connection.connected
            if connected:
                self._up_at[link] = now
            self._of("headwater_connected", link).set(connected)
            if connection is not None:
                self._count_bytes(link, connection)

    def _count_bytes(self, link: str, connection: Connection) -> None:
        known, before = self._traffic.get(link, (connection, Traffic()))
        # Another connection begins with nothing.
        more = connection.traffic.since(before if known is connection else Traffic())
        self._traffic[link] = (connection, connection.traffic)
        self._of("headwater_bytes_total", link, "sent").inc(more.sent_bytes)
        self._of("headwater_bytes_total", link, "received").inc(more.received_bytes)

    def ailments(self) -> list[str]:
        """Why this node is not well; nothing where it is, or stands by."""
        self._look_at_links()
        now = asyncio.get_running_loop().time()
        down_s = {link: now - self._up_at[link] for link in self._sights.links}
        return [f"{link}: no link for {since_s:.0f} s" for link, since_s in down_s.items() if since_s > HEALTHY_FOR_S]

    async def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self._look_at_links()
        self._look_around()
        return prometheus_client.generate_latest(self.registry)

    def _look_around(self) -> None:
        sights = self._sights
        if self._role == "cloud":
            self._of("headwater_leading").set(bool(sights.links))
        if sights.members is not None:
            states = [status.state for status in sights.members().values()]
            for state in get_args(NodeState):
                self._of("headwater_children", state).set(states.count(state))
        if sights.data is not None:
            for key, status in sights.data().items():
                self._of("headwater_examples", key, "train").set(status.train_examples)
                self._of("headwater_examples", key, "test").set(status.test_examples)
        self._looked_at.values = {name: gauge() for name, gauge in sights.gauges.items()}


class _LookedAt(Collector):
    """Gauges that may have no value: a board without a battery has no sample of it."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics
        self.values: Mapping[str, float | None] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for metric in self._metrics:
            yield GaugeMetricFamily(metric.name, metric.says, value=self.values.get(metric.name))


def _made(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram | Summary:
    match metric.kind:
        case "counter":
            return Counter(metric.name, metric.says, metric.labels, registry=registry)
        case "gauge":
            return Gauge(metric.name, metric.says, metric.labels, registry=registry)
        case "histogram":
            return Histogram(metric.name, metric.says, metric.labels, registry=registry, buckets=SECONDS)
        case "summary":
            return Summary(metric.name, metric.says, metric.labels, registry=registry)
