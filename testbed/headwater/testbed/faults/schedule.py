"""Law: what will go wrong follows from a seed alone: same seed, same faults, in the same rounds.

A fault begins some moments after a round was committed, so that a schedule keeps pace with any machine; each ends by
itself. Kinds are dealt from a shuffled deck, so that none is left out where there are as many faults as kinds.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from headwater.testbed.faults.proxy import Weather

FAULTS_A_ROUND: Final = 0.4
_LAST_QUIET_ROUNDS: Final = 2
_WITHIN_A_ROUND_S: Final = 0.5

Kind = Literal["kill", "freeze", "cut", "silence", "weather", "fill", "clock"]


@dataclass(frozen=True, slots=True)
class Targets:
    """What can be hit, by name: processes, brokers, a database's server, links, folders that can be full."""

    clouds: tuple[str, ...]
    gateways: tuple[str, ...]
    devices: tuple[str, ...]
    brokers: tuple[str, ...]
    databases: tuple[str, ...]
    links: tuple[str, ...]
    disks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Begins `after_s` behind the commit of `round`, and is over `lasts_s` later; a clock's jump stays.

    kill: SIGKILL, and started again. freeze: SIGSTOP, and goes on as if nothing had been. cut: connections reset and
    refused. silence: nothing passes, nobody is told. weather: the link is this bad. fill: no room on a disk. clock: a
    process's wall clock is `clock_s` off.
    """

    round: int
    after_s: float
    kind: Kind
    target: str
    lasts_s: float
    weather: Weather | None = None
    clock_s: float = 0.0

    def __str__(self) -> str:
        told = {"weather": f": {self.weather}", "clock": f": {self.clock_s:+.0f} s"}.get(self.kind, "")
        return (
            f"{self.kind} {self.target} for {self.lasts_s:.1f} s behind round {self.round} + {self.after_s:.2f} s{told}"
        )


def schedule(seed: int, rounds: int, targets: Targets) -> tuple[Fault, ...]:
    """The faults of a run of so many rounds, in order."""
    rng = random.Random(seed)
    kinds = [kind for kind in _KINDS if kind.among(targets)]
    count = max(len(kinds), round(FAULTS_A_ROUND * rounds))
    last = max(0, rounds - _LAST_QUIET_ROUNDS)
    faults = [_fault(kind, rng, rng.randint(0, last), targets) for kind in _dealt(kinds, count, rng)]
    return tuple(sorted(faults, key=lambda fault: (fault.round, fault.after_s)))


@dataclass(frozen=True, slots=True)
class _Kind:
    """A row of the deck: what is done to whom, and for how long at least and at most."""

    kind: Kind
    among: Callable[[Targets], tuple[str, ...]]
    least_s: float
    most_s: float
    weather: Callable[[random.Random], Weather] | None = None


def _delayed(rng: random.Random) -> Weather:
    return Weather(delay_s=rng.uniform(0.02, 0.3), jitter_s=rng.uniform(0, 0.2))


def _lossy(rng: random.Random) -> Weather:
    return Weather(stall_share=rng.uniform(0.05, 0.4), reset_share=rng.uniform(0, 0.03))


def _slow(rng: random.Random) -> Weather:
    return Weather(rate_bytes_s=rng.uniform(5_000, 50_000))


_KINDS: Final = (
    _Kind("kill", lambda targets: targets.clouds, 0.1, 3.0),
    _Kind("kill", lambda targets: targets.gateways, 0.1, 3.0),
    _Kind("kill", lambda targets: targets.devices, 0.1, 3.0),
    _Kind("kill", lambda targets: targets.brokers, 0.1, 3.0),
    _Kind("kill", lambda targets: targets.databases, 0.1, 5.0),
    _Kind("freeze", lambda targets: (*targets.clouds, *targets.gateways, *targets.devices), 0.5, 8.0),
    _Kind("cut", lambda targets: targets.links, 0.2, 4.0),
    _Kind("silence", lambda targets: targets.links, 0.5, 8.0),
    _Kind("weather", lambda targets: targets.links, 2.0, 10.0, _delayed),
    _Kind("weather", lambda targets: targets.links, 2.0, 10.0, _lossy),
    _Kind("weather", lambda targets: targets.links, 2.0, 10.0, _slow),
    _Kind("fill", lambda targets: targets.disks, 1.0, 6.0),
    _Kind("clock", lambda targets: (*targets.clouds, *targets.gateways, *targets.devices), 0.0, 0.0),
)
_JUMPS_S: Final = (-315_360_000.0, -86_400.0, -3600.0, -5.0, 5.0, 3600.0, 86_400.0, 315_360_000.0)


def _dealt(kinds: Sequence[_Kind], count: int, rng: random.Random) -> list[_Kind]:
    dealt: list[_Kind] = []
    while len(dealt) < count:
        dealt += rng.sample(kinds, len(kinds))
    return dealt[:count]


def _fault(kind: _Kind, rng: random.Random, round_: int, targets: Targets) -> Fault:
    return Fault(
        round=round_,
        after_s=rng.uniform(0, _WITHIN_A_ROUND_S),
        kind=kind.kind,
        target=rng.choice(kind.among(targets)),
        lasts_s=rng.uniform(kind.least_s, kind.most_s),
        weather=kind.weather(rng) if kind.weather else None,
        clock_s=rng.choice(_JUMPS_S) if kind.kind == "clock" else 0.0,
    )
