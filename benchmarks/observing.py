"""Law: what being watched costs a fleet is measured beside the same fleet unwatched, in turn, in one run.

python benchmarks/observing.py             ten devices, two gateways, a cloud; three of each, in turn
python benchmarks/observing.py --rounds 60
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from typing import Any, Final

from round_trip import Case, measure
from tables import aligned, spread

TIMES: Final = 3
ASKED_HZ: Final = 20.0
FIGURES: Final = {"median_round_s": "round s", "cpu_s": "CPU s"}


def watched(rounds: int, times: int) -> dict[str, list[dict[str, Any]]]:
    """By who watches, what each run of it came to."""
    plain = Case(10, 3, "mosquitto", rounds=rounds)
    ways = {
        "nobody": plain,
        "Prometheus, every node every second": replace(plain, metrics=True),
        f"{ASKED_HZ:g} requests a second to the API": replace(plain, asked_hz=ASKED_HZ),
    }
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for turn in range(times):
        # Each way is first once: whoever is first finds the machine as others left it.
        order = [*ways][turn % len(ways) :] + [*ways][: turn % len(ways)]
        for way in order:
            results[way].append(measure(ways[way]))
    return results


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = [("who watches", *(text for title in FIGURES.values() for text in (title, "×")))]
    before = results["nobody"]
    for way, runs in results.items():
        cells = [way]
        for figure in FIGURES:
            of, against = ([run[figure] for run in some] for some in (runs, before))
            ratio = statistics.median(of) / statistics.median(against)
            cells += [spread(of, 4 if figure == "median_round_s" else 1), f"{ratio:.2f}"]
        lines.append(tuple(cells))
    return aligned(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].removeprefix("Law: "))
    parser.add_argument("--rounds", type=int, default=60, help="of each run (60)")
    parser.add_argument("--times", type=int, default=TIMES, help=f"how often each is measured ({TIMES})")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of the table")
    given = parser.parse_args()
    results = watched(given.rounds, given.times)
    print(json.dumps(results) if given.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
