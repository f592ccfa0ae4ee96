"""Law: a failing world is one number, and one command shows it again.

python tests/sim/run.py --seeds 0:2000                 many worlds, a progress line, the seeds that failed
python tests/sim/run.py --seed 1234 --trace            one of them, event by event
python tests/sim/run.py --seed 7 --planted "a wrong divisor" --trace
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from sim.checkers import judged
from sim.planted import BUGS
from sim.scenario import scenario
from sim.world import Observed, run_world

PROCESSES: Final = 2
AT_ONCE: Final = 10
"""Seeds that a process takes at a time."""

Verdict = tuple[int, dict[str, tuple[str, ...]]]
"""A seed, and what each checker had to say of its world."""


def judge(seeds: Sequence[int]) -> list[Verdict]:
    """The worlds of these seeds, one after the other."""
    return [(seed, judged(run_world(scenario(seed)))) for seed in seeds]


def judge_all(seeds: Sequence[int], processes: int = PROCESSES) -> Iterator[Verdict]:
    """As `judge`, in several processes; verdicts come as they are there."""
    shares = [seeds[at : at + AT_ONCE] for at in range(0, len(seeds), AT_ONCE)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for verdicts in pool.map(judge, shares):
            yield from verdicts


def replay(seed: int) -> str:
    """The one command."""
    return f".venv/bin/python tests/sim/run.py --seed {seed} --trace"


def told(verdict: Verdict) -> str:
    """A world that failed, for people."""
    seed, said = verdict
    lines = [f"seed {seed} failed; see it by: {replay(seed)}"]
    for checker, sentences in said.items():
        lines += [f"  {checker}: {sentence}" for sentence in sentences[:3]]
        lines += [f"  {checker}: and {len(sentences) - 3} more"] if len(sentences) > 3 else []
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.seed is not None:
        return _one(options.seed, options.planted, options.trace)
    first, last = (int(part) for part in options.seeds.split(":"))
    return _many(range(first, last), options.processes)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Simulated fleets with faults, judged.")
    parser.add_argument("--seeds", default="0:500", help="FIRST:LAST, the last left out")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--seed", type=int, help="one world")
    parser.add_argument("--trace", action="store_true", help="with all that happened in it")
    parser.add_argument("--planted", choices=sorted(BUGS), help="with this bug in the code")
    return parser.parse_args(arguments)


def _one(seed: int, planted: str | None, trace: bool) -> int:
    with BUGS[planted].grown() if planted else nullcontext():
        world = run_world(scenario(seed))
    if trace:
        _show(world)
    verdict = (seed, judged(world))
    print(told(verdict) if verdict[1] else f"seed {seed}: all is well")
    return 1 if verdict[1] else 0


def _show(world: Observed) -> None:
    drawn = world.scenario
    for node, parent in drawn.parents.items():
        print(f"{node} below {parent}" + (f", {drawn.slowness[node]:g} times slower" if node in drawn.slowness else ""))
    print(drawn.description.model_dump_json(exclude_defaults=True))
    print(drawn.links, f"persistent brokers: {drawn.persistent}")
    for line in world.trace.lines():
        print(line)


def _many(seeds: range, processes: int) -> int:
    began = perf_counter()
    failed = 0
    for done, verdict in enumerate(judge_all(seeds, processes), 1):
        if verdict[1]:
            failed += 1
            print(f"\r{told(verdict)}", flush=True)
        if done % AT_ONCE == 0 or done == len(seeds):
            each_s = (perf_counter() - began) / done
            print(f"\r{done} of {len(seeds)} worlds, {failed} failed, {each_s:.2f} s each ", end="", flush=True)
    print()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
