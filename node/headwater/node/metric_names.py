"""Law: every metric stands in this table once: its name, what it counts, its labels, and the tiers that export it.

A label has few values, known beforehand: states, reasons, splits, links. No metric has a node of the fleet as a label,
so that a parent of ten thousand children exports as much as one of ten; the run that is worked on is the one exception,
for there is one.

    python -m headwater.node.metric_names FOLDER [--check]

writes the table for people, `metrics.md`, or with `--check` ends with 1 where that is stale.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from headwater.schemas.base import Role

Kind = Literal["counter", "gauge", "histogram", "summary"]
ALL: Final[tuple[Role, ...]] = ("cloud", "gateway", "device")
PARENTS: Final[tuple[Role, ...]] = ("cloud", "gateway")
CHILDREN: Final[tuple[Role, ...]] = ("gateway", "device")
CLOUD: Final[tuple[Role, ...]] = ("cloud",)
DEVICE: Final[tuple[Role, ...]] = ("device",)

SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
"""The buckets of what may take moments or an hour."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is exported under a name. A histogram and a summary end in `_count`, `_sum` and, the first, `_bucket`.

    `is_looked_at` marks a gauge without labels that a service gives a function for; it may have no value.
    """

    name: str
    kind: Kind
    says: str
    tiers: tuple[Role, ...] = ALL
    labels: tuple[str, ...] = ()
    is_looked_at: bool = False


METRICS: Final = (
    Metric("headwater_node_info", "gauge", "Always 1; who this is.", ALL, ("fleet", "node", "role", "software")),
    Metric("headwater_connected", "gauge", "Whether a link to a broker is up.", ALL, ("link",)),
    Metric("headwater_bytes_total", "counter", "Payload bytes over a link to a broker.", ALL, ("link", "direction")),
    Metric("headwater_examples", "gauge", "Examples here, or below that are online.", ALL, ("data", "part")),
    Metric("headwater_disk_free_bytes", "gauge", "Free where this node keeps what outlives it.", is_looked_at=True),
    Metric("headwater_disk_size_bytes", "gauge", "All there is of that.", is_looked_at=True),
    Metric("headwater_loss", "gauge", "The last round's mean loss.", ALL, ("split",)),
    Metric("headwater_accuracy", "gauge", "The last round's accuracy, of a classifier.", ALL, ("split",)),
    Metric("headwater_children", "gauge", "Children that are known, by whether they are there.", PARENTS, ("state",)),
    Metric("headwater_round", "gauge", "The number of the newest round.", PARENTS),
    Metric("headwater_rounds_total", "counter", "Rounds that ended here.", PARENTS, ("task", "state")),
    Metric("headwater_round_duration_seconds", "histogram", "From opening to close, of closed rounds.", PARENTS),
    Metric(
        "headwater_round_phase_seconds",
        "summary",
        "How the mean child's round was spent (train, transfer, wait), and at the cloud what followed (aggregate, "
        "commit).",
        PARENTS,
        ("phase",),
    ),
    Metric("headwater_round_cohort", "gauge", "Children asked in the newest round.", PARENTS),
    Metric("headwater_round_participants", "gauge", "Updates in the last round that ended.", PARENTS),
    Metric(
        "headwater_round_closed_timestamp_seconds", "gauge", "When a round last closed, in seconds since 1970.", PARENTS
    ),
    Metric(
        "headwater_deltas_total",
        "counter",
        "Children's deltas: taken, or refused with the reason (of other words than deltas too).",
        PARENTS,
        ("result", "reason"),
    ),
    Metric("headwater_delta_bytes_total", "counter", "Encoded size of the deltas that were taken.", PARENTS),
    Metric("headwater_declined_total", "counter", "Plans that children declined.", PARENTS, ("reason",)),
    Metric("headwater_leading", "gauge", "1 where this coordinator leads its fleet, 0 where it stands by.", CLOUD),
    Metric("headwater_run_info", "gauge", "Always 1; the run that is worked on, or the last.", CLOUD, ("run", "name")),
    Metric("headwater_run_state", "gauge", "1 for the state of that run.", CLOUD, ("state",)),
    Metric("headwater_run_round", "gauge", "Rounds of that run that are done.", CLOUD),
    Metric("headwater_run_rounds", "gauge", "Rounds that it is to have.", CLOUD),
    Metric(
        "headwater_plans_total", "counter", "Its parent's plans: done, or declined.", CHILDREN, ("result", "reason")
    ),
    Metric(
        "headwater_outbox_bytes",
        "gauge",
        "Finished deltas that the parent has not answered.",
        CHILDREN,
        is_looked_at=True,
    ),
    Metric("headwater_journal_bytes", "gauge", "The file of what outlives a restart.", CHILDREN, is_looked_at=True),
    Metric("headwater_train_seconds", "histogram", "How long this device worked on a plan.", DEVICE),
    Metric(
        "headwater_worker_memory_bytes",
        "gauge",
        "Resident memory of the process that runs graphs.",
        DEVICE,
        is_looked_at=True,
    ),
    Metric("headwater_temperature_celsius", "gauge", "The warmest sensor.", DEVICE, is_looked_at=True),
    Metric("headwater_battery_ratio", "gauge", "The battery's level, 0 to 1.", DEVICE, is_looked_at=True),
)


def metrics_of(role: Role) -> tuple[Metric, ...]:
    """What a tier exports."""
    return tuple(metric for metric in METRICS if role in metric.tiers)


def table() -> str:
    """For people."""
    rows = "".join(
        f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {', '.join(m.tiers)} | {m.says} |\n" for m in METRICS
    )
    return (
        "# Every metric\n\nGenerated from `node/metric_names.py`; what they are for is in [operate](index.md). "
        "Beside them each process exports Prometheus' own `process_*`.\n\n"
        "| metric | kind | labels | exported by | what it says |\n|---|---|---|---|---|\n" + rows
    )


def main(arguments: list[str]) -> int:
    file = Path(arguments[0]) / "metrics.md"
    if "--check" in arguments:
        if file.exists() and file.read_text(encoding="utf-8") == table():
            return 0
        print(f"{file}: stale; run python -m headwater.node.metric_names {arguments[0]}", file=sys.stderr)
        return 1
    file.write_text(table(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
