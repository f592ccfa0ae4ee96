"""What other pages quote of what was measured is what stands where it was measured, in benchmarks/README.md."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MEASURED = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def row(*begin: str) -> list[str]:
    """The cells of the one line of the tables that begins with these."""
    (found,) = (line for line in map(str.split, MEASURED.splitlines()) if line[: len(begin)] == list(begin))
    return found


def said(begin: str, end: str) -> str:
    """What stands once between these words."""
    _, behind = MEASURED.split(begin)
    return behind.split(end, 1)[0]


FLAT = row("10", "1", "mosquitto")
ROUND_S, CPU_S, DEVICE_MB, ACCURACY = float(FLAT[3]), FLAT[7], FLAT[8], float(FLAT[10])
WORKER_MB = said("and a worker of ", " MB (")
INSTALLED_MB = float(row("installed")[1])
CHECK_MS = (int(row("2410")[5]) - int(row("2410")[4])) / 1000
SIGNED = [row(*what.split())[4] for what in ("round s", "CPU s", "up MB", "down MB")]

QUOTES = {
    "a flat round": ("docs/compare.md", f"| 0.006 to 0.010 s | {ROUND_S:.3f} s |"),
    "its CPU": ("docs/compare.md", f"| 2.0 s | {CPU_S} s |"),
    "memory": ("docs/compare.md", f"| {DEVICE_MB} MB, and a worker of {WORKER_MB} MB while there is work |"),
    "installed": ("docs/compare.md", f"| {INSTALLED_MB:.0f} MB, onnxruntime included |"),
    "accuracy": ("docs/compare.md", f"| {ACCURACY:.4f} ² |".replace("0.", ".")),
    "checking a delta": ("docs/security.md", f" bytes a delta and {CHECK_MS:.2f} ms to check it"),
    "signed, CPU": ("docs/security.md", f"ten devices in three tiers take {SIGNED[1]} times the processor time"),
    "signed, bytes": ("docs/security.md", f"{SIGNED[2]} times the bytes up and {SIGNED[3]} times the bytes down"),
    "an agent": ("device/README.md", f"an agent {DEVICE_MB} MB resident and its worker {WORKER_MB} MB"),
}


@pytest.mark.parametrize(("page", "words"), QUOTES.values(), ids=QUOTES)
def test_a_figure_is_the_measured_one(page: str, words: str) -> None:
    assert words in " ".join((ROOT / page).read_text(encoding="utf-8").split())
