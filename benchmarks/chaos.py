"""Law: everything fails by a schedule that one seed gives, and nothing that was acknowledged is lost or counts twice.

Two coordinators (one stands by), gateways on a Mosquitto of their own, devices, PostgreSQL or SQLite; all of it real.
SIGKILL for processes and brokers, processes frozen, links cut, silent, late, lossy and slow, disks full, clocks that
jump. Exit code 1 where a promise was broken.

    python benchmarks/chaos.py --rounds 200 --seed 1
    python benchmarks/chaos.py --rounds 200 --seed 1 --json       one line, {rounds, acknowledged, lost, twice, …}
"""

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from headwater.node.service import INTERRUPTED
from headwater.schemas.errors import HeadwaterError
from headwater.testbed.faults.chaos import Memory, Outcome, Scene, chaos
from headwater.testbed.postgres import Postgres, database

_BARS: Final = "▁▂▃▄▅▆▇█"
_PLOT_WIDTH: Final = 60
_MB: Final = 2**20


@contextlib.contextmanager
def history(kind: str, folder: Path) -> Iterator[tuple[str, Postgres | None]]:
    """The URL of an empty database, and its server where it has one."""
    if kind == "sqlite":
        folder.mkdir(parents=True, exist_ok=True)
        yield f"sqlite:///{(folder / 'history.db').resolve()}", None
        return
    with Postgres() as server, database(server, "chaos") as url:
        yield url, server


def as_json(outcome: Outcome, seed: int) -> dict[str, Any]:
    verdict = outcome.verdict
    memory_mb = {role: [figure // _MB for figure in figures] for role, figures in _figures(outcome.memory).items()}
    return {
        "rounds": verdict.rounds,
        "acknowledged": verdict.acknowledged,
        "lost": len(verdict.lost),
        "twice": len(verdict.twice),
        "longest_stall_s": round(outcome.stall.longest_s, 2),
        "model_error": outcome.replayed.final_error,
        "seed": seed,
        "acknowledged_by_cloud": verdict.by_cloud,
        "worst_version_error": outcome.replayed.worst_error,
        "faults": len(outcome.faults),
        "ended_by_themselves": len(outcome.ended),
        "elapsed_s": round(outcome.elapsed_s, 1),
        "stalled_behind_round": outcome.stall.behind_round,
        "stalled_by": list(outcome.stall.faults),
        "memory_mb": memory_mb,
    }


def told(outcome: Outcome) -> str:
    """The outcome for people."""
    verdict, again = outcome.verdict, outcome.replayed
    lines = [
        f"rounds committed      {verdict.rounds} in {outcome.elapsed_s:.0f} s, {len(outcome.faults)} faults",
        f"updates acknowledged  {verdict.acknowledged}, {verdict.by_cloud} of them by the cloud",
        f"lost                  {len(verdict.lost)}",
        *(f"    {breach}" for breach in verdict.lost),
        f"counted twice         {len(verdict.twice)}",
        *(f"    {breach}" for breach in verdict.twice),
        f"longest stall         {outcome.stall.longest_s:.1f} s behind round {outcome.stall.behind_round}, under",
        *(f"    {fault}" for fault in outcome.stall.faults),
        f"model error           {again.final_error:.1e} at the end, {again.worst_error:.1e} at its worst",
        f"ended by themselves   {', '.join(f'{name} ({code})' for name, code in outcome.ended) or 'none'}",
        "",
        f"{'MB':>8} {'first':>6} {'median':>6} {'last':>6} {'most':>6}  over time",
    ]
    for role, figures in _figures(outcome.memory).items():
        sizes = [size_bytes for _, size_bytes in outcome.memory.samples[role]]
        lines.append(f"{role:>8} " + " ".join(f"{figure // _MB:>6}" for figure in figures) + f"  {_plot(sizes)}")
    return "\n".join(lines)


def _figures(memory: Memory) -> dict[str, tuple[int, int, int, int]]:
    """Of each role's largest process: first, median, last and most bytes."""
    figures = {}
    for role, samples in sorted(memory.samples.items()):
        sizes = [size_bytes for _, size_bytes in samples]
        figures[role] = (sizes[0], sorted(sizes)[len(sizes) // 2], sizes[-1], max(sizes))
    return figures


def _plot(sizes: list[int]) -> str:
    """One bar for each stretch of time, its height the largest size in it as a share of the largest of all."""
    stretches = [sizes[len(sizes) * k // _PLOT_WIDTH : len(sizes) * (k + 1) // _PLOT_WIDTH] for k in range(_PLOT_WIDTH)]
    most = max(sizes)
    return "".join(_BARS[round((len(_BARS) - 1) * max(stretch) / most)] for stretch in stretches if stretch)


def main() -> int:
    parser = argparse.ArgumentParser(description="A fleet that fails everywhere, by a seed.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--gateways", type=int, default=3)
    parser.add_argument("--devices", type=int, default=6)
    parser.add_argument("--max-staleness", type=int, default=2, help="rounds by which an update may be late")
    parser.add_argument("--folder", type=Path, help="keeps every log, to be looked at afterwards")
    parser.add_argument("--json", action="store_true", help="one line at the end, and nothing before it on stdout")
    parser.add_argument("--edge-rounds", type=int, default=1)
    parser.add_argument("--buffer", type=int, default=0, help="so many updates make a version; 0: the cohort does")
    options = parser.parse_args()
    # The witnesses' connections break as all do; what is told is how the run goes.
    logging.getLogger("headwater").setLevel(logging.ERROR)
    tell = partial(print, file=sys.stderr, flush=True)
    scene = Scene(
        rounds=options.rounds,
        seed=options.seed,
        gateways=options.gateways,
        devices=options.devices,
        max_staleness=options.max_staleness,
        edge_rounds=options.edge_rounds,
        buffer=options.buffer,
    )
    try:
        with contextlib.ExitStack() as stack:
            folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-chaos-")))
            url, server = stack.enter_context(history(options.database, folder))
            outcome = asyncio.run(chaos(folder, url, scene, tell, server))
    except HeadwaterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    print(json.dumps(as_json(outcome, options.seed)) if options.json else told(outcome))
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
