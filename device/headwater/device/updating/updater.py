"""Law: the shell of an update: it hears, fetches, judges, unpacks, waits for a quiet moment, and ends the agent.

What it has begun goes on behind a restart or begins anew, as `progress` says. Nothing of a round is lost: a delta that
waits is on disk before the agent ends, and what was being trained goes on from its last checkpoint.
"""

import asyncio
import contextlib
import logging
import os
import platform
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NoReturn

from headwater.device import launcher
from headwater.device.updating import progress as updates
from headwater.device.updating import wheels
from headwater.device.updating.progress import Progress
from headwater.node.releases import Software, is_asked
from headwater.schemas.errors import ConfigError, StartAnew
from headwater.schemas.messages import Release, Rollout
from headwater.schemas.settings import UpdateSettings
from headwater.transport.session import LinkDown

log = logging.getLogger("headwater.device")

LOOK_EVERY_S: Final = 0.05
"""Rounds of a small model on fast links leave no longer pauses."""

QUIET_LOOKS: Final = 2
"""So many looks in a row must find nothing under way."""

QUIET_WITHIN_S: Final = 900.0
"""Behind that it updates in the middle of a round all the same, which goes on where it was."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an updater needs of its agent.

    `is_quiet`: whether nothing is being trained or delivered. `check_self` raises where this version cannot train.
    `tell` publishes the node's status, and raises LinkDown.
    """

    is_quiet: Callable[[], bool]
    check_self: Callable[[], Awaitable[None]]
    tell: Callable[[], Awaitable[None]]


class Updater:
    """A device's side of a release.

    Args:
        software: what the parent says of releases; this device's word on itself stands there.
        is_signed: whether a rollout's release is of the signer that this device follows.

    Raises:
        ConfigError: there is no such folder, or nobody would start the agent anew.
    """

    def __init__(
        self,
        settings: UpdateSettings,
        fleet: str,
        node: str,
        software: Software,
        is_signed: Callable[[Rollout], bool],
        around: Surroundings,
    ) -> None:
        self._versions = settings.versions
        if not os.environ.get(launcher.LAUNCHED):
            raise ConfigError(
                "update: nobody would start this agent anew; start it by the launcher (docs/updates.md), or take "
                "[update] out"
            )
        if not self._versions.is_dir():
            raise ConfigError(
                f"update.versions: {self._versions} is no folder; give the one that the launcher was given"
            )
        self._fleet = fleet
        self._node = node
        self._software = software
        self._is_signed = is_signed
        self._around = around
        self._refused: Rollout | None = None
        self._progress = updates.begin(version("headwater"), launcher.read_record(self._versions))
        software.update = self._progress.status()

    async def run(self) -> NoReturn:
        """Follow the parent's word on releases. Runs until cancelled.

        Raises:
            StartAnew: another version is in place.
        """
        if self._progress.is_on_trial:
            await self._prove()
        await asyncio.to_thread(wheels.clear, self._versions, self._kept())
        while True:
            news = self._software.news.changed()
            event = self._heard()
            if event is not None:
                await self._go(event)
            if self._software.wheel is not None and self._progress.state == "downloading":
                await self._go(updates.Fetched())
            await news

    def _kept(self) -> set[str]:
        links = (launcher.version_in_place(self._versions, link) for link in (launcher.CURRENT, launcher.PREVIOUS))
        return {name for name in links if name is not None} | {self._progress.running}

    # ── a version on trial ──────────────────────────────────────────────────────────────────────────────────────

    async def _prove(self) -> None:
        """This version has reached its parent, hears of releases by which it could be updated again, and can train.
        How long that may take is the launcher's to say."""
        log.info("version %s is on trial", self._progress.running)
        while (release := self._signed()) is None or release.counter < self._progress.taken.counter:
            await self._software.news.wait()
        await self._around.check_self()
        await self._go(updates.Proven())
        log.info("version %s has proven itself", self._progress.running)

    # ── what the parent says ────────────────────────────────────────────────────────────────────────────────────

    def _signed(self) -> Release | None:
        """The release that is asked for, where its signer signed it for this fleet."""
        rollout, release = self._software.rollout, self._software.release
        if rollout is None or release is None or rollout == self._refused:
            return None
        if release.fleet == self._fleet and self._is_signed(rollout):
            return release
        self._refused = rollout
        log.error(
            "release %d, version %s, is not taken: it is not signed for fleet %s by the key of update.signer",
            release.counter,
            release.version,
            self._fleet,
        )
        return None

    def _heard(self) -> updates.Event | None:
        release, rollout = self._signed(), self._software.rollout
        if release is None or rollout is None:
            return None
        return updates.Asked(release) if is_asked(rollout, release, self._node) else updates.Spared()

    # ── what is to be done ──────────────────────────────────────────────────────────────────────────────────────

    async def _go(self, event: updates.Event) -> None:
        """One event, and what follows of itself."""
        following: updates.Event | None = event
        while following is not None:
            before, (self._progress, effects) = self._progress, updates.step(self._progress, following)
            following = None
            for effect in effects:
                if isinstance(effect, updates.Keep):
                    # What anyone is told of it survives a power cut.
                    await self._keep(effect.record)
            if self._progress.status() != before.status():
                log.info("update: %s", _told(self._progress))
                await self._tell()
            for effect in effects:
                following = await self._perform(effect) or following

    async def _tell(self) -> None:
        self._software.update = self._progress.status()
        # The next connection tells it too.
        with contextlib.suppress(LinkDown):
            await self._around.tell()

    async def _perform(self, effect: updates.Effect) -> updates.Event | None:
        match effect:
            case updates.Fetch(wheel):
                self._software.fetch(wheel)
            case updates.Verify(release):
                return await self._judged(release)
            case updates.Unpack(release):
                return await self._unpacked(release)
            case updates.Switch(record):
                return await self._switched(record)
        return None

    async def _judged(self, release: Release) -> updates.Event:
        wheel = self._software.wheel
        if wheel is None:
            # The parent's word is another by now.
            return updates.Spared()
        try:
            await asyncio.to_thread(wheels.check, wheel, release, installed, platform.python_version())
        except wheels.Unsound as error:
            return updates.Unfit(str(error))
        return updates.Sound()

    async def _unpacked(self, release: Release) -> updates.Event:
        wheel = self._software.wheel
        if wheel is None:
            return updates.Spared()
        try:
            # What is neither in place nor to go back to makes room.
            await asyncio.to_thread(wheels.clear, self._versions, self._kept() | {release.version})
            await asyncio.to_thread(wheels.unpack, wheel, release, self._versions)
        except (wheels.Unsound, OSError) as error:
            return updates.Unfit(str(error))
        return await self._quiet(release)

    async def _quiet(self, release: Release) -> updates.Event:
        """Between two rounds; or the parent's word that it is not to be."""
        loop = asyncio.get_running_loop()
        until, quiet = loop.time() + QUIET_WITHIN_S, 0
        while quiet < QUIET_LOOKS and loop.time() < until:
            await asyncio.sleep(LOOK_EVERY_S)
            quiet = quiet + 1 if self._around.is_quiet() else 0
            heard = self._heard()
            if isinstance(heard, updates.Spared) or (isinstance(heard, updates.Asked) and heard.release != release):
                return heard
        return updates.Ready()

    async def _keep(self, record: launcher.Record) -> None:
        try:
            await asyncio.to_thread(launcher.write_record, self._versions, record)
        except OSError as error:
            log.error("what came of release %d is in memory alone: %s", record.counter, error)

    async def _switched(self, record: launcher.Record) -> updates.Event:
        try:
            await asyncio.to_thread(launcher.put_on_trial, self._versions, record)
        except OSError as error:
            return updates.Unfit(f"versions: {error}")
        raise StartAnew(f"version {record.version} is in place of {self._progress.running}")


def installed(package: str) -> str | None:
    """The version of a package of this Python."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _told(progress: Progress) -> str:
    status = progress.status()
    what = f"release {status.counter}, version {status.version}: {status.state}"
    return f"{what} ({status.detail})" if status.detail else what


def updater_of(settings: UpdateSettings, fleet: str, node: str, software: Software, around: Surroundings) -> Updater:
    """As its settings say. Raises ConfigError."""
    try:
        from headwater.trust.releases import is_signed, read_signer
    except ModuleNotFoundError as error:
        raise ConfigError(f"update: {error.name} is missing; pip install 'headwater[update]'") from None
    signer = read_signer(settings.signer, "update.signer")
    return Updater(settings, fleet, node, software, lambda rollout: is_signed(rollout, signer), around)
