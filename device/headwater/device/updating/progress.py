"""Law: an update is a value; an event that does not belong to its state changes nothing.

    updated, failed ── asked ──► downloading ── fetched ──► downloaded ── sound ──► verified ── ready ──► updating
                                      │                          │                     │                   │
                                      └── spared ──► as before ◄─┴─────────────────────┤         proven ──►├──► updated
                                                                 └── unfit ──► failed ◄┴─── went back ◄────┘

The launcher is who goes back. A release is tried once: what failed is not tried again until the signer numbers it anew.
What has not yet put another version in place leaves no trace, so a device that was cut off begins with the same release
again.
"""

from dataclasses import dataclass, replace

from headwater.device.launcher import Record
from headwater.schemas.messages import ObjectRef, Release
from headwater.schemas.statuses import UpdateState, UpdateStatus

# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Asked:
    """The parent asks this device to run a release, which its signer signed."""

    release: Release


@dataclass(frozen=True, slots=True)
class Spared:
    """The parent's word is that this device is not asked, or not any more."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The wheel is there."""


@dataclass(frozen=True, slots=True)
class Sound:
    """The wheel is what it should be, and would run here."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """It is not, or there is no room for it."""

    why: str


@dataclass(frozen=True, slots=True)
class Ready:
    """It is unpacked, and this device is between two rounds."""


@dataclass(frozen=True, slots=True)
class Proven:
    """This version has reached its parent, hears of releases, and can train."""


Event = Asked | Spared | Fetched | Sound | Unfit | Ready | Proven


# ── effects ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch this wheel, or nothing any more."""

    wheel: ObjectRef | None


@dataclass(frozen=True, slots=True)
class Verify:
    release: Release


@dataclass(frozen=True, slots=True)
class Unpack:
    """And wait until the device is between two rounds."""

    release: Release


@dataclass(frozen=True, slots=True)
class Switch:
    """Put it on trial, and end."""

    record: Record


@dataclass(frozen=True, slots=True)
class Keep:
    record: Record


Effect = Fetch | Verify | Unpack | Switch | Keep


# ── the progress ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a device that runs version `running` stands.

    `taken` is the record of the last release that it is done with, or on trial with. `target` is the one under way.
    """

    running: str
    taken: Record
    state: UpdateState
    target: Release | None = None

    @property
    def is_on_trial(self) -> bool:
        return self.state == "updating" and self.target is None

    def status(self) -> UpdateStatus:
        """For people, and for the cloud."""
        if self.target is not None:
            return UpdateStatus(version=self.target.version, state=self.state, counter=self.target.counter)
        taken = self.taken
        return UpdateStatus(version=taken.version, state=self.state, counter=taken.counter, detail=taken.detail[:1024])


def begin(running: str, record: Record | None) -> Progress:
    """Where a process that starts finds itself."""
    if record is None:
        record = Record(0, running, "updated")
    elif record.state == "updating" and record.version != running:
        # Cut off before the other version was in place: as if it had never been asked.
        record = Record(record.counter - 1, running, "updated")
    elif record.state == "updated" and record.version != running:
        # Somebody has put another version here by hand.
        record = Record(record.counter, running, "updated")
    return Progress(running, record, record.state)


def step(progress: Progress, event: Event) -> tuple[Progress, tuple[Effect, ...]]:
    """What becomes of it, and what is to be done."""
    match event, progress.state:
        case Asked(release), _ if _is_news(progress, release):
            return _asked(progress, release)
        case Spared(), "downloading" | "downloaded" | "verified":
            return _as_before(progress), (Fetch(None),)
        case Proven(), "updating" if progress.target is None:
            record = replace(progress.taken, state="updated")
            return Progress(progress.running, record, "updated"), (Keep(record),)
    return _with_target(progress, event)


def _with_target(progress: Progress, event: Event) -> tuple[Progress, tuple[Effect, ...]]:
    release = progress.target
    if release is None:
        return progress, ()
    match event, progress.state:
        case Fetched(), "downloading":
            return replace(progress, state="downloaded"), (Verify(release),)
        case Sound(), "downloaded":
            return replace(progress, state="verified"), (Unpack(release),)
        case Ready(), "verified":
            return replace(progress, state="updating"), (Switch(Record(release.counter, release.version, "updating")),)
        case Unfit(why), "downloaded" | "verified" | "updating":
            record = Record(release.counter, release.version, "failed", why)
            return Progress(progress.running, record, "failed"), (Fetch(None), Keep(record))
    return progress, ()


def _is_news(progress: Progress, release: Release) -> bool:
    """Whether it is above everything that was taken. While a version is on trial, or being put there, nothing is."""
    above = progress.target.counter if progress.target is not None else progress.taken.counter
    return progress.state != "updating" and release.counter > max(above, progress.taken.counter)


def _asked(progress: Progress, release: Release) -> tuple[Progress, tuple[Effect, ...]]:
    if release.version == progress.running:
        record = Record(release.counter, release.version, "updated")
        return Progress(progress.running, record, "updated"), (Fetch(None), Keep(record))
    return replace(progress, state="downloading", target=release), (Fetch(None), Fetch(release.wheel))


def _as_before(progress: Progress) -> Progress:
    return Progress(progress.running, progress.taken, progress.taken.state)
