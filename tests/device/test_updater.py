"""The shell of an update, on a real folder of versions, with a parent's words handed to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from headwater.device import launcher
from headwater.device.launcher import Record
from headwater.device.updating import updater
from headwater.device.updating.updater import Surroundings, Updater
from headwater.node.releases import Software
from headwater.schemas.errors import ConfigError, StartAnew
from headwater.schemas.messages import Release, Rollout
from headwater.schemas.settings import UpdateSettings
from headwater.schemas.wire import encode
from headwater.transport.objects import chunks
from headwater.transport.session import LinkDown
from support.wheels import release, small

RUNNING = version("headwater")
WHEEL = small(needs=("numpy>=2.0",))
GENUINE, FORGED = bytes(64), b"\x01" * 64


def word(what: Release, signature: bytes = GENUINE, **whom: object) -> Rollout:
    return Rollout.model_validate({"release": encode(what), "signature": signature, "share": 1.0} | whom)


@dataclass
class Device:
    """An updater in the loop, and what it said of itself."""

    versions: Path
    software: Software = field(default_factory=Software)
    is_quiet: bool = True
    is_well: bool = True
    has_link: bool = True
    told: list[str] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        async def check_self() -> None:
            if not self.is_well:
                raise RuntimeError("no worker")

        async def tell() -> None:
            assert self.software.update is not None
            self.told.append(self.software.update.state)
            if not self.has_link:
                raise LinkDown("away")

        around = Surroundings(lambda: self.is_quiet, check_self, tell)
        settings = UpdateSettings(versions=self.versions, signer=Path("none"))
        made = Updater(settings, "plant", "d1", self.software, lambda rollout: rollout.signature == GENUINE, around)
        self.task = asyncio.create_task(made.run())

    async def is_given_a_release(self) -> None:
        """It begins, hears of one, asks for the wheel, and gets it."""
        self.start()
        self.software.hear(word(release(WHEEL)))
        await self.until(lambda: self.state == "downloading")
        self.serve()

    def serve(self, wheel: bytes = WHEEL) -> None:
        for chunk in chunks(wheel):
            self.software.take(chunk)

    async def until(self, what: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not what():
                await asyncio.sleep(0.01)
                assert self.task is not None
                if self.task.done():
                    break
        assert what()

    async def ended(self) -> str:
        assert self.task is not None
        with pytest.raises(StartAnew) as caught:
            await asyncio.wait_for(self.task, 20)
        return str(caught.value)

    @property
    def state(self) -> str:
        assert self.software.update is not None
        return self.software.update.state


@pytest.fixture
async def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Device]:
    monkeypatch.setenv(launcher.LAUNCHED, "1")
    monkeypatch.setattr(updater, "LOOK_EVERY_S", 0.02)
    (tmp_path / RUNNING / "headwater").mkdir(parents=True)
    (tmp_path / "current").symlink_to(RUNNING)
    made = Device(tmp_path)
    yield made
    if made.task is not None:
        made.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, StartAnew, RuntimeError):
            await made.task


async def test_asked_it_goes_through_every_stage_and_ends_for_the_launcher(device: Device) -> None:
    await device.is_given_a_release()
    assert await device.ended() == f"version 2.0 is in place of {RUNNING}"
    assert device.told == ["downloading", "downloaded", "verified", "updating"]
    place = launcher.look(device.versions)
    assert (place.current, place.previous, place.record) == ("2.0", RUNNING, Record(7, "2.0", "updating"))


async def test_a_link_that_is_away_does_not_hold_an_update_up(device: Device) -> None:
    device.has_link = False
    await device.is_given_a_release()
    await device.ended()


async def test_while_something_is_trained_or_delivered_it_waits_at_the_door(device: Device) -> None:
    device.is_quiet = False
    await device.is_given_a_release()
    await device.until(lambda: (device.versions / "2.0").exists())
    await asyncio.sleep(0.3)
    assert device.state == "verified"
    assert launcher.look(device.versions).current == RUNNING
    device.is_quiet = True
    await device.ended()


async def test_it_does_not_wait_for_ever(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updater, "QUIET_WITHIN_S", 0.2)
    device.is_quiet = False
    await device.is_given_a_release()
    await device.ended()


async def test_a_release_that_is_paused_at_the_door_is_not_put_in_place(device: Device) -> None:
    device.is_quiet = False
    await device.is_given_a_release()
    await device.until(lambda: device.state == "verified")
    device.software.hear(word(release(WHEEL), share=0.0, stage=1))
    await device.until(lambda: device.state == "updated")
    device.is_quiet = True
    await asyncio.sleep(0.2)
    assert launcher.look(device.versions).current == RUNNING
    # Going on is to begin with it again.
    device.software.hear(word(release(WHEEL), stage=2))
    await device.until(lambda: device.state == "downloading")
    device.serve()
    await device.ended()


async def test_a_newer_release_takes_the_place_of_one_that_is_under_way(device: Device) -> None:
    newer = small("2.1", needs=())
    device.is_quiet = False
    await device.is_given_a_release()
    await device.until(lambda: device.state == "verified")
    device.software.hear(word(release(newer, "2.1", 8)))
    await device.until(lambda: device.state == "downloading")
    device.is_quiet = True
    device.serve(newer)
    assert "2.1" in await device.ended()
    assert not (device.versions / "2.0").exists()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(word(release(WHEEL), FORGED), id="another signer's"),
        pytest.param(word(release(WHEEL, fleet="other")), id="another fleet's"),
        pytest.param(word(release(WHEEL), share=0.0, nodes=("d2",)), id="for another device"),
    ],
)
async def test_what_is_not_for_it_is_not_even_fetched(device: Device, said: Rollout) -> None:
    device.start()
    device.software.hear(said)
    await asyncio.sleep(0.2)
    device.serve()
    assert (device.state, device.software.wheel) == ("updated", None)


async def test_a_wheel_that_is_refused_is_told_with_its_reason_and_never_tried_again(device: Device) -> None:
    bad = small(needs=("torch>=99",))
    device.start()
    device.software.hear(word(release(bad)))
    await device.until(lambda: device.state == "downloading")
    device.serve(bad)
    await device.until(lambda: device.state == "failed")
    assert device.software.update is not None
    assert "torch" in device.software.update.detail
    await device.until(lambda: launcher.read_record(device.versions) is not None)
    device.software.hear(word(release(bad), stage=1))
    await asyncio.sleep(0.2)
    assert device.state == "failed"
    assert launcher.look(device.versions).current == RUNNING


async def test_on_trial_it_has_proven_itself_when_it_hears_what_would_update_it_and_can_train(device: Device) -> None:
    old = device.versions / "0.0"
    (old / "headwater").mkdir(parents=True)
    launcher.write_record(device.versions, Record(7, RUNNING, "updating"))
    (device.versions / "previous").symlink_to("0.0")
    (device.versions / "0.0.1").mkdir()
    device.start()
    await asyncio.sleep(0.2)
    device.software.hear(word(release(WHEEL, RUNNING, 6)))
    await asyncio.sleep(0.2)
    assert launcher.look(device.versions).is_on_trial, "what is older than itself proves nothing"
    device.software.hear(word(release(WHEEL, RUNNING, 7)))
    await device.until(lambda: device.told == ["updated"])
    assert launcher.read_record(device.versions) == Record(7, RUNNING, "updated")
    await device.until(lambda: not (device.versions / "0.0.1").exists())
    assert old.exists(), "what it may go back to"


async def test_on_trial_a_version_that_cannot_train_ends_without_a_proof(device: Device) -> None:
    device.is_well = False
    launcher.write_record(device.versions, Record(7, RUNNING, "updating"))
    device.start()
    device.software.hear(word(release(WHEEL, RUNNING, 7)))
    assert device.task is not None
    with pytest.raises(RuntimeError, match="no worker"):
        await asyncio.wait_for(device.task, 5)
    assert launcher.look(device.versions).is_on_trial


async def test_a_folder_that_cannot_be_written_fails_the_update_and_not_the_agent(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, record: Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launcher, "put_on_trial", full)
    await device.is_given_a_release()
    await device.until(lambda: device.state == "failed")
    assert launcher.look(device.versions).current == RUNNING


async def test_without_a_launcher_there_is_no_updating(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(launcher.LAUNCHED)
    with pytest.raises(ConfigError, match="start it by the launcher"):
        device.start()


async def test_a_folder_that_is_not_there_is_named(device: Device) -> None:
    device.versions = device.versions / "none"
    with pytest.raises(ConfigError, match=r"update\.versions"):
        device.start()
