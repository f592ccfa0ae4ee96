"""Law: an update costs what is published for it, to the last byte of its envelope, and what it saves is held against
the accuracy of the same run without a codec.

Digits, or with `--dense` the same pixels centred and rotated, so that no input is dead; MLP 64-280-280-10 (99,690
parameters), ten devices of Dirichlet(0.3) below two gateways, batch 16, learning rate 0.1, one local epoch, 60 rounds,
every codec with the settings that a run's file gets by naming it. Devices, gateways and the cloud's step are the real
ones, in one process (`testbed.laboratory`); `--live` has real processes and a broker say the same.

    python benchmarks/bytes.py --codec stc --json
    python benchmarks/bytes.py --plot docs/images/bytes.svg
    python benchmarks/bytes.py --live --codec stc --downlink int8
"""

import argparse
import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from tables import aligned

from headwater.cloud.history import open_history
from headwater.device.sources.dataset import Dataset, dataset
from headwater.device.sources.digits import CLASSES, digits, shards
from headwater.schemas.errors import HeadwaterError
from headwater.schemas.learning import CODECS
from headwater.schemas.run import RunDescription
from headwater.schemas.sources import DigitsSource
from headwater.testbed.laboratory import RUN, Laboratory
from headwater.testbed.observer import Observer
from headwater.testbed.tree import Standing, Tree, standing
from headwater.transport.session import Traffic

FEATURES: Final = 64
ALPHA: Final = 0.3
FLEET: Final = "bytes"
NAMES: Final = ("fp32", *(codec for codec in CODECS if codec != "none"))
DOWNLINKS: Final = ("int8", "int4", "stc")
PROTOTYPE: Final[Mapping[str, tuple[float, float]]] = {
    "int8": (6.9, 0.0),
    "int4": (19.9, 0.0),
    "ternary": (44.0, -0.003),
    "topk": (217.0, -0.003),
    "stc": (338.0, -0.003),
    "stc, no feedback": (240.0, -0.033),
}
"""Ratio to fp32, and the accuracy that it cost."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is. The hidden layers make 99,690 parameters."""

    rounds: int = 60
    hidden: tuple[int, ...] = (280, 280)
    devices: int = 10
    gateways: int = 2

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"d{i}" for i in range(self.devices))

    @property
    def clusters(self) -> dict[str, tuple[str, ...]]:
        names = self.names
        return {f"gw{g}": tuple(names[g :: self.gateways]) for g in range(self.gateways)}


QUICK: Final = Scale(rounds=3, hidden=(16,), devices=4)


@dataclass(frozen=True, slots=True)
class Case:
    """A codec up, one down, and on which data; `feedback` False: what an update leaves out is lost."""

    codec: str
    downlink: str = "fp32"
    feedback: bool | None = None
    dense: bool = False
    scale: Scale = field(default_factory=Scale)

    @property
    def name(self) -> str:
        without = ", no feedback" if self.feedback is False else ""
        return self.codec + without + (f", {self.downlink} down" if self.downlink != "fp32" else "")


@dataclass(frozen=True, slots=True)
class Links:
    """Payload bytes of one update on each link up, and of one model or patch on each link down: means of all rounds.

    The first model goes down whole, whatever the codec.
    """

    device_to_gateway: float
    gateway_to_cloud: float
    cloud_to_gateway: float
    gateway_to_device: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: its links, and the accuracy of its last model, over all devices by their test examples."""

    links: Links
    accuracy: float


@dataclass(frozen=True, slots=True)
class Row:
    """A case, and the same without codecs, over some seeds."""

    case: Case
    outcomes: tuple[Outcome, ...]
    plain: tuple[Outcome, ...]

    @property
    def accuracy(self) -> float:
        return statistics.fmean(outcome.accuracy for outcome in self.outcomes)

    @property
    def accuracy_fp32(self) -> float:
        return statistics.fmean(outcome.accuracy for outcome in self.plain)

    def bytes_on(self, link: str) -> float:
        return statistics.fmean(getattr(outcome.links, link) for outcome in self.outcomes)

    def ratio_on(self, link: str) -> float:
        return statistics.fmean(getattr(outcome.links, link) for outcome in self.plain) / self.bytes_on(link)

    def told(self) -> dict[str, Any]:
        links = Links.__dataclass_fields__
        return {
            "codec": self.case.codec,
            "bytes_per_update": round(self.bytes_on("device_to_gateway"), 1),
            "ratio": round(self.ratio_on("device_to_gateway"), 2),
            "accuracy": round(self.accuracy, 4),
            "accuracy_fp32": round(self.accuracy_fp32, 4),
            "downlink": self.case.downlink,
            "data": "dense" if self.case.dense else "digits",
            "rounds": self.case.scale.rounds,
            "seeds": len(self.outcomes),
            "bytes": {link: round(self.bytes_on(link), 1) for link in links},
            "ratios": {link: round(self.ratio_on(link), 2) for link in links},
        }


# ── the task ────────────────────────────────────────────────────────────────────────────────────────────────────


def description(case: Case, seed: int) -> RunDescription:
    """The run, which measures its last model alone."""
    uplink = {"codec": _codec(case.codec)} | ({} if case.feedback is None else {"feedback": case.feedback})
    return RunDescription.model_validate(
        {
            "name": FLEET,
            "data": "digits",
            "rounds": case.scale.rounds,
            "evaluate_every": 0,
            "seed": seed,
            "model": {"kind": "mlp", "features": FEATURES, "classes": CLASSES, "hidden": case.scale.hidden},
            "local": {"batch_size": 16, "learning_rate": 0.1},
            "cohort": {"quorum": 1.0, "deadline_s": 60.0, "min_children": case.scale.gateways},
            "uplink": uplink,
            "downlink": {"codec": _codec(case.downlink)},
        }
    )


def _codec(name: str) -> str:
    return "none" if name == "fp32" else name


def people(case: Case, seed: int) -> dict[str, Dataset]:
    """By device: its shard, and everyone's test part."""
    x, y, test = digits(seed)
    if case.dense:
        x = _without_dead_inputs(x)
    hands = shards(y[~test], case.scale.devices, ALPHA, seed)
    dealt = zip(case.scale.names, hands, strict=True)
    return {name: dataset(x[~test][rows], y[~test][rows], x[test], y[test]) for name, rows in dealt}


def _without_dead_inputs(x: np.ndarray) -> np.ndarray:
    """The pixels centred and turned by a fixed rotation: each input is a bit of all of them, and none is always 0."""
    rotation, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(FEATURES, FEATURES)))
    turned = (x - x.mean(axis=0)) @ rotation
    return np.asarray(turned / (2 * turned.std()), dtype=np.float32)


# ── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────


def measure(case: Case, seeds: Sequence[int]) -> Row:
    plain = Case("fp32", dense=case.dense, scale=case.scale)
    return Row(case, tuple(outcome(case, seed) for seed in seeds), tuple(outcome(plain, seed) for seed in seeds))


@lru_cache(maxsize=64)
def outcome(case: Case, seed: int) -> Outcome:
    """One run in one process."""
    with Laboratory(description(case, seed), people(case, seed), clusters=case.scale.clusters) as lab:
        seen: dict[str, Traffic] = {}

        def look(number: int) -> bool:
            seen.update({node: host.traffic for node, host in lab.hosts.items()})
            return True

        lab.run(look)
        assert lab.course.accuracy is not None
        return Outcome(_links(case.scale, seen), lab.course.accuracy)


def _links(scale: Scale, traffic: Mapping[str, Traffic]) -> Links:
    """Traffic of all rounds of training, by host, as means of one message."""
    gateways = [traffic[gateway] for gateway in scale.clusters]
    return Links(
        device_to_gateway=sum(site.received_bytes for site in gateways) / (scale.rounds * scale.devices),
        gateway_to_cloud=traffic["cloud"].received_bytes / (scale.rounds * scale.gateways),
        cloud_to_gateway=traffic["cloud"].sent_bytes / scale.rounds,
        gateway_to_device=sum(site.sent_bytes for site in gateways) / (scale.rounds * scale.gateways),
    )


def cases(scale: Scale, *, dense: bool) -> list[Case]:
    """Every codec up; what feedback is worth to the smallest; and patches down."""
    up = [Case(name, dense=dense, scale=scale) for name in NAMES]
    without = Case("stc", feedback=False, dense=dense, scale=scale)
    down = [Case("stc", downlink, dense=dense, scale=scale) for downlink in DOWNLINKS]
    return [*up, without, *down]


# ── over MQTT ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def live(case: Case, seed: int) -> dict[str, Any]:
    """The same run by processes and brokers, its bytes as its own history and round topics tell them: all payloads that
    parents received, signs of life and statuses among them."""
    if case.dense:
        raise SystemExit(
            "bytes: --dense has no data source that a device's process could open; leave out one of the two"
        )
    with tempfile.TemporaryDirectory(prefix="headwater-bytes-") as folder, _standing(case, seed, Path(folder)) as fleet:
        observer = Observer(FLEET, fleet.ports)
        following = asyncio.create_task(observer.follow())
        try:
            await observer.wait_ready(fleet)
            sum_up = await asyncio.to_thread(_run, fleet, description(case, seed))
            # The last statuses are on their way.
            await asyncio.sleep(0.5)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    scale, told = case.scale, (await asyncio.to_thread(outcome, case, seed)).links
    trained = [status for status in observer.closed_clusters if status.round <= scale.rounds]
    up = sum(status.bytes_up for status in trained) / sum(status.devices for status in trained)
    return {
        "codec": case.codec,
        "downlink": case.downlink,
        "bytes": {"device_to_gateway": round(up, 1), "gateway_to_cloud": round(sum_up / scale.gateways, 1)},
        "in_one_process": {
            "device_to_gateway": round(told.device_to_gateway, 1),
            "gateway_to_cloud": round(told.gateway_to_cloud, 1),
        },
    }


def _standing(case: Case, seed: int, folder: Path) -> AbstractContextManager[Standing]:
    sources = {
        name: {"digits": DigitsSource(kind="digits", devices=case.scale.devices, index=i, seed=seed).model_dump()}
        for i, name in enumerate(case.scale.names)
    }
    return standing(Tree(FLEET, case.scale.clusters, sources), folder, log_level="warning")


def _run(fleet: Standing, run: RunDescription) -> float:
    """Bytes up to the cloud in a round of training, the mean over all."""
    history = open_history(fleet.database)
    try:
        history.enqueue_run(RUN, FLEET, run, None, datetime.now(UTC))
        while history.show_run(RUN).state in ("queued", "running"):
            fleet.check()
            time.sleep(0.2)
        record = history.show_run(RUN)
        if record.state != "finished":
            raise SystemExit(f"bytes: the run {record.state}: {record.failure}")
        return statistics.fmean(one.bytes_up for one in history.rounds_of(RUN) if one.round <= run.rounds)
    finally:
        history.close()


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(rows: Sequence[Row]) -> str:
    head = (
        "codec",
        "bytes up",
        "×",
        "gateway's",
        "×",
        "bytes down",
        "×",
        "accuracy",
        "change",
        "prototype's × and change",
    )
    return aligned([head, *map(_line, rows)])


def _line(row: Row) -> tuple[str, ...]:
    links = (
        text
        for link in ("device_to_gateway", "gateway_to_cloud", "cloud_to_gateway")
        for text in (f"{row.bytes_on(link):,.0f}", f"{row.ratio_on(link):.1f}")
    )
    found = PROTOTYPE.get(row.case.name)
    return (
        row.case.name,
        *links,
        f"{row.accuracy:.4f}",
        f"{row.accuracy - row.accuracy_fp32:+.4f}",
        f"{found[0]:g}  {found[1]:+.3f}" if found else "–",
    )


def plot(panels: Mapping[str, Sequence[Row]], file: Path) -> None:
    """Accuracy against the ratio of a device's update, a panel for each kind of data."""
    from matplotlib import pyplot, rcParams

    # Text as text, and nothing that differs from one drawing to the next.
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "headwater"})
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.6), layout="constrained", squeeze=False
    )
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for row in (row for row in rows if row.case.downlink == "fp32"):
            at = (row.ratio_on("device_to_gateway"), row.accuracy)
            axis.scatter(*at, s=18, color="tab:red" if row.case.feedback is False else "tab:blue")
            axis.annotate(row.case.name, at, xytext=(4, 3), textcoords="offset points", fontsize="x-small")
        axis.set(xscale="log", title=title, xlabel="times fewer bytes up than fp32")
    axes[0][0].set_ylabel("test accuracy")
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--codec", choices=NAMES, help="this one alone; else all of them")
    parser.add_argument("--downlink", choices=NAMES, default="fp32", help="with --codec: how models go down (fp32)")
    parser.add_argument("--no-feedback", action="store_true", help="with --codec: what an update leaves out is lost")
    parser.add_argument("--dense", action="store_true", help="pixels centred and rotated: no input is dead")
    parser.add_argument("--rounds", type=int, default=Scale.rounds, help="of training (60)")
    parser.add_argument("--seeds", type=int, help="how many, from 0 (3; with --json 1)")
    parser.add_argument("--quick", action="store_true", help="three rounds of a small model: does it run at all?")
    parser.add_argument("--live", action="store_true", help="with --codec: by processes and brokers too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="both kinds of data, drawn; needs the extra plots")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each codec instead of the table")
    given = parser.parse_args()
    logging.getLogger("headwater").setLevel(logging.ERROR)
    try:
        _tell(given)
    except HeadwaterError as error:
        print(f"bytes: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _tell(given: argparse.Namespace) -> None:
    scale = QUICK if given.quick else Scale(rounds=given.rounds)
    seeds = range(given.seeds or (1 if given.json else 3))
    wanted = cases(scale, dense=given.dense)
    if given.codec:
        wanted = [Case(given.codec, given.downlink, False if given.no_feedback else None, given.dense, scale)]
    if given.live:
        for case in wanted:
            print(json.dumps(asyncio.run(live(case, 0))))
        return
    rows = [measure(case, seeds) for case in wanted]
    print("\n".join(json.dumps(row.told()) for row in rows) if given.json else table(rows))
    if given.plot:
        others = [measure(replace(row.case, dense=not given.dense), seeds) for row in rows]
        digits_, dense = (others, rows) if given.dense else (rows, others)
        plot({"digits": digits_, "no dead inputs": dense}, given.plot)


if __name__ == "__main__":
    sys.exit(main())
