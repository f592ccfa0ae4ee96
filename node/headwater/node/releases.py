"""Law: what software a fleet should run goes down the tree as a plan does: a retained word, an object by its hash.

A parent says what it was told and hands on the wheel; it need not be able to judge either, for a device takes nothing
that the fleet's signer did not sign. What goes up are counts, so that a cluster of thousands is told in one status.
Nobody keeps a list of who is asked: each draws it from its own name, the stage's share and the release's counter, so
that a wider stage asks everyone whom a narrower one asked, and another release begins with others.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from headwater.node.news import News
from headwater.schemas.limits import MAX_CANARIES
from headwater.schemas.messages import Chunk, ObjectRef, Release, Rollout, Want
from headwater.schemas.statuses import (
    MAX_FAILURES_TOLD,
    FailedUpdate,
    NodeStatus,
    RolloutStatus,
    UpdateStatus,
)
from headwater.schemas.wire import decode
from headwater.transport.objects import Assembly
from headwater.transport.session import LinkDown

log = logging.getLogger("headwater.node")

ASK_AGAIN_AFTER_S: Final = 2.0
"""Silence after which the missing chunks of a wheel are asked for again; it doubles up to `ASK_AGAIN_AFTER_MAX_S`."""

ASK_AGAIN_AFTER_MAX_S: Final = 60.0


def is_asked(rollout: Rollout, release: Release, node: str) -> bool:
    """Whether a device is asked to run a release in this stage."""
    return node in rollout.nodes or _place(release.counter, node) < rollout.share


def _place(counter: int, node: str) -> float:
    """In [0, 1), evenly over the nodes."""
    return int.from_bytes(hashlib.sha256(f"{counter}/{node}".encode()).digest()[:6], "big") / 2**48


def asks_anyone(rollout: Rollout) -> bool:
    return bool(rollout.nodes) or rollout.share > 0


class Software:
    """What a node hears of releases from the parent that it follows, and what it says of them.

    One a node, whichever parent it follows. `update` is a device's own word on itself, `rollout` a gateway's on its
    cluster; both stand in the node's status.
    """

    def __init__(self) -> None:
        self.news = News()
        self.rollout: Rollout | None = None
        self.release: Release | None = None
        """What the rollout is about, as it was written; whether its signer wrote it is the device's to judge."""
        self.wheel: bytes | None = None
        self.update: UpdateStatus | None = None
        self.below: RolloutStatus | None = None
        self._assembly: Assembly | None = None

    def hear(self, rollout: Rollout) -> None:
        """The parent's word. Raises WireError where there is no release in it."""
        release = decode(rollout.release, Release)
        if self.release is None or release.wheel != self.release.wheel:
            self.fetch(None)
        self.rollout, self.release = rollout, release
        self.news.tell()

    def fetch(self, ref: ObjectRef | None) -> None:
        """Fetch this wheel, which is `wheel` when it is there, or none."""
        if ref is None:
            self._assembly = self.wheel = None
        elif self.wheel is None and self._assembly is None:
            self._assembly = Assembly(ref)
        self.news.tell()

    def take(self, chunk: Chunk) -> bool:
        """Whether this chunk is of the wheel that is being fetched."""
        assembly = self._assembly
        if assembly is None or chunk.object != assembly.ref:
            return False
        wheel = assembly.add(chunk)
        if wheel is not None:
            self.wheel, self._assembly = wheel, None
        self.news.tell()
        return True

    async def ask(self, want: Callable[[Want], Awaitable[None]]) -> NoReturn:
        """Ask for what is missing, again and again while nothing comes. Runs until cancelled."""
        wait_s, missing = ASK_AGAIN_AFTER_S, 0
        while True:
            assembly = self._assembly
            if assembly is None or not assembly.missing:
                wait_s, missing = ASK_AGAIN_AFTER_S, 0
                await self.news.wait()
                continue
            if len(assembly.missing) != missing:
                missing, wait_s = len(assembly.missing), ASK_AGAIN_AFTER_S
            try:
                await want(Want(object=assembly.ref, missing=assembly.missing))
            except LinkDown as error:
                log.info("a wheel waits for the link: %s", error)
            await self._silence(assembly, wait_s)
            wait_s = min(wait_s * 2, ASK_AGAIN_AFTER_MAX_S)

    async def _silence(self, assembly: Assembly, wait_s: float) -> None:
        """Until nothing of it has come for so long, or it is whole."""
        missing = len(assembly.missing) + 1
        while self._assembly is assembly and len(assembly.missing) < missing:
            missing = len(assembly.missing)
            loop = asyncio.get_running_loop()
            until = loop.time() + wait_s
            while self._assembly is assembly and len(assembly.missing) == missing and loop.time() < until:
                await self.news.wait(until - loop.time())


# ── what a parent makes of its children's words ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Begun:
    """The children that had begun with a release when they last spoke, for who goes says nothing of it any more."""

    counter: int = 0
    last: Mapping[str, UpdateStatus] = field(default_factory=dict)


def sum_up(
    rollout: Rollout, release: Release, members: Mapping[str, NodeStatus], begun: Begun
) -> tuple[RolloutStatus, Begun]:
    """How far the devices below a node are. A gateway that did not yet say so for this stage is one that waits.

    Args:
        members: the node's children, as they last said of themselves; who is not there is offline.
        begun: of the sum before.
    """
    last = dict(begun.last) if begun.counter == release.counter else {}
    sums = _Sums()
    for node, status in members.items():
        if status.role == "gateway":
            sums.add_cluster(status, rollout, release)
        elif is_asked(rollout, release, node):
            if status.state == "online" and status.update is not None:
                last.pop(node, None)
                if status.update.counter == release.counter:
                    last[node] = status.update
                sums.add_device(node, last.get(node), node in rollout.nodes)
            elif node in last:
                sums.add_gone(node, last[node])
    known = {node: update for node, update in last.items() if node in members}
    return sums.status(release.counter, rollout.stage), Begun(release.counter, known)


@dataclass(slots=True)
class _Sums:
    waiting: int = 0
    under_way: int = 0
    updated: int = 0
    failed: int = 0
    away: int = 0
    named: list[str] = field(default_factory=list)
    failures: list[FailedUpdate] = field(default_factory=list)

    def add_device(self, node: str, update: UpdateStatus | None, is_named: bool) -> None:
        if update is None:
            self.waiting += 1
        elif update.state == "failed":
            self._add_failed(node, update)
        elif update.state != "updated":
            self.under_way += 1
        else:
            self.updated += 1
            self.named += [node] if is_named else []

    def add_gone(self, node: str, update: UpdateStatus) -> None:
        if update.state == "failed":
            self._add_failed(node, update)
        else:
            self.away += 1

    def _add_failed(self, node: str, update: UpdateStatus) -> None:
        self.failed += 1
        self.failures.append(FailedUpdate(node=node, detail=update.detail))

    def add_cluster(self, status: NodeStatus, rollout: Rollout, release: Release) -> None:
        below = status.rollout
        if status.state != "online":
            return
        if below is None or (below.counter, below.stage) != (release.counter, rollout.stage):
            self.waiting += 1
            return
        self.waiting += below.waiting
        self.under_way += below.under_way
        self.updated += below.updated
        self.failed += below.failed
        self.away += below.away
        self.named += below.named
        self.failures += below.failures

    def status(self, counter: int, stage: int) -> RolloutStatus:
        return RolloutStatus(
            counter=counter,
            stage=stage,
            waiting=self.waiting,
            under_way=self.under_way,
            updated=self.updated,
            failed=self.failed,
            away=self.away,
            named=tuple(sorted(self.named)[:MAX_CANARIES]),
            failures=tuple(self.failures[:MAX_FAILURES_TOLD]),
        )
