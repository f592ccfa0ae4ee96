"""Updates over the tree in real processes: a canary first, a bad release stopped there, and the way back.

The wheels are of this repository, in other versions; the launcher starts each device from its own folder of versions.
"""

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from paho.mqtt import publish

from headwater.cloud.history import History, ReleaseRecord, open_history
from headwater.cloud.releasing import Policy
from headwater.device import launcher
from headwater.schemas.messages import Release, Rollout
from headwater.schemas.run import RunDescription
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode, reference
from headwater.testbed.processes import Processes, Started
from headwater.testbed.toml import to_toml
from headwater.transport.broker import BrokerConfig, spawn
from headwater.trust.files import write_file
from headwater.trust.keys import Key, new_key
from headwater.trust.releases import signed
from support.waiting import eventually
from support.wheels import as_version, built

# Each device of a test is started several times, and unpacks and compiles whole wheels.
pytestmark = pytest.mark.timeout(300)

DEVICES = ("d0", "d1", "d2")
SOON = Policy(canaries=("d0",), canary_share=0.0, soak_s=1.0)
AT_ONCE = Policy(canary_share=1.0, soak_s=0.0)
PROVE_S = 40.0


@pytest.fixture(scope="module")
def wheels() -> dict[str, bytes]:
    raises = b'raise RuntimeError("a mistake that only shows at the start")\n'
    wheel = built()
    mute = b"""
import sys
import time

time.sleep(1000)
sys.exit(0)
"""
    return {
        "1.0.0": as_version(wheel, "1.0.0"),
        "1.1.0": as_version(wheel, "1.1.0"),
        "1.2.0": as_version(wheel, "1.2.0", instead={"headwater/device/service.py": raises}),
        "1.3.0": as_version(wheel, "1.3.0", instead={"headwater/device/__main__.py": mute}),
    }


@dataclass
class Fleet:
    """A cloud, a gateway with two devices, and one device right below the cloud: each started by its launcher."""

    folder: Path
    history: History
    processes: Processes
    cloud: Started
    settings: dict[str, object]
    port: int
    key: Key
    wheels: dict[str, bytes]
    launchers: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def versions(self, device: str) -> Path:
        return self.folder / device / "versions"

    def install(self, device: str, version: str, parent: str) -> None:
        """As the installer does it."""
        versions = self.versions(device)
        versions.mkdir(parents=True)
        with zipfile.ZipFile(BytesIO(self.wheels[version])) as opened:
            opened.extractall(versions / version)
        (versions / "current").symlink_to(version)
        settings = {
            "fleet": "plant",
            "node": device,
            "parent": parent,
            "broker": {"port": self.port},
            "heartbeat_s": 0.5,
            "state": str(self.folder / device / "state"),
            "data": {"digits": {"kind": "digits", "devices": 3, "index": DEVICES.index(device), "alpha": 1.0}},
            # The run is there to be gone on with, not to win.
            "conditions": {"max_cpu_share": 0.1},
            "update": {"versions": str(versions), "signer": str(self.folder / "release.pub")},
        }
        (self.folder / f"{device}.toml").write_text(to_toml(settings), encoding="utf-8")

    def start(self, device: str) -> None:
        """The launcher, from a copy outside of all versions."""
        outside = self.folder / "launcher.py"
        outside.write_bytes(Path(launcher.__file__).read_bytes())
        command = [sys.executable, str(outside), "--prove-s", str(PROVE_S), str(self.versions(device))]
        with (self.folder / f"{device}.log").open("ab") as log:
            self.launchers[device] = subprocess.Popen(
                [*command, "-m", "headwater.device", str(self.folder / f"{device}.toml")],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "HW_STOP_WITH_PARENT": "1"},
            )

    def publish(self, version: str, policy: Policy, *, key: Key | None = None, counter: int | None = None) -> int:
        counter = counter or self.history.releases.next_counter("plant")
        release = Release(fleet="plant", counter=counter, version=version, wheel=reference(self.wheels[version]))
        encoded, signature = signed(release, key or self.key)
        self.history.releases.publish(release, encoded, signature, self.wheels[version], policy, datetime.now(UTC))
        return counter

    def kill_the_cloud(self) -> None:
        self.processes.kill(self.cloud)
        self.cloud = self.processes.start("cloud", self.settings)

    def record(self) -> ReleaseRecord:
        found = self.history.releases.current("plant")
        assert found is not None
        return found

    def until(self, what: Callable[[ReleaseRecord], bool], timeout_s: float = 100.0) -> ReleaseRecord:
        try:
            eventually(lambda: what(self.record()), timeout_s)
        except AssertionError:
            logs = "\n".join((self.folder / f"{device}.log").read_text()[-3000:] for device in DEVICES)
            raise AssertionError(f"{self.record().progress}\n{logs}") from None
        return self.record()

    def runs(self) -> dict[str, str | None]:
        return {device: launcher.version_in_place(self.versions(device)) for device in DEVICES}

    def end(self) -> None:
        for process in self.launchers.values():
            process.terminate()
        for process in self.launchers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


@pytest.fixture
def fleet(tmp_path: Path, wheels: dict[str, bytes]) -> Iterator[Fleet]:
    database = f"sqlite:///{tmp_path / 'history.db'}"
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(spawn(BrokerConfig(port=0))).port
        history = open_history(database)
        stack.callback(history.close)
        processes = stack.enter_context(Processes(tmp_path))
        links = {"fleet": "plant", "heartbeat_s": 0.5}
        settings = {**links, "node": "cloud", "lease_s": 1.0, "database": database, "broker": {"port": port}}
        cloud = processes.start("cloud", settings)
        processes.start("gateway", {**links, "node": "gw", "uplink": {"port": port}, "site": {"port": port}})
        fleet = Fleet(tmp_path, history, processes, cloud, settings, port, new_key(), wheels)
        stack.callback(fleet.end)
        write_file(tmp_path / "release.pub", fleet.key.public.pem())
        for device, parent in zip(DEVICES, ("gw", "gw", "cloud"), strict=True):
            fleet.install(device, "1.0.0", parent)
            fleet.start(device)
        yield fleet


def kept(fleet: Fleet, device: str) -> dict[str, object]:
    return json.loads((fleet.versions(device) / "release.json").read_text())


def test_a_release_reaches_the_canary_first_then_everyone_and_goes_back_while_a_run_goes_on(fleet: Fleet) -> None:
    about = RunDescription.model_validate(
        {
            "name": "digits",
            "data": "digits",
            "rounds": 10_000,
            "model": {"kind": "mlp", "features": 64, "classes": 10, "hidden": (8,)},
            "cohort": {"deadline_s": 20.0, "quorum": 0.3, "min_children": 1},
        }
    )
    fleet.history.enqueue_run("r", "plant", about, None, datetime.now(UTC))
    fleet.publish("1.1.0", SOON)
    fleet.until(lambda record: record.progress.report is not None and record.progress.report.under_way == 1)
    # Whoever leads next goes on with it, in the same stage.
    fleet.kill_the_cloud()
    fleet.until(lambda record: record.progress.state == "wider")
    assert fleet.runs()["d0"] == "1.1.0"
    fleet.until(lambda record: record.progress.state == "done" and fleet.runs() == dict.fromkeys(DEVICES, "1.1.0"))
    report = fleet.record().progress.report
    assert report is not None
    assert (report.updated, report.failed) == (3, 0)
    fleet.publish("1.0.0", AT_ONCE)
    fleet.until(lambda record: record.progress.state == "done" and fleet.runs() == dict.fromkeys(DEVICES, "1.0.0"))
    assert all(process.poll() is None for process in fleet.launchers.values())
    rounds = fleet.history.rounds_of("r")
    assert len(rounds) > 2
    fleet.history.request("r", "stop", datetime.now(UTC))
    fleet.processes.check()


@pytest.mark.parametrize("version", ["1.2.0", "1.3.0"])
def test_a_bad_release_stays_with_the_canary_which_goes_back_by_itself(
    fleet: Fleet, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version == "1.3.0":
        # One that hangs takes all of its time, three times over.
        fleet.launchers["d0"].terminate()
        fleet.launchers["d0"].wait(10)
        monkeypatch.setitem(globals(), "PROVE_S", 3.0)
        fleet.start("d0")
    counter = fleet.publish(version, SOON)
    record = fleet.until(lambda record: record.progress.state == "paused")
    assert fleet.runs() == dict.fromkeys(DEVICES, "1.0.0")
    assert record.progress.stage == 0
    assert "d0: did not prove itself in 3 starts" in record.progress.detail
    assert kept(fleet, "d0")["state"] == "failed"
    assert not (fleet.versions("d1") / version).exists()
    # The next one is none of its faults' heirs.
    monkeypatch.undo()
    assert fleet.publish("1.1.0", SOON) == counter + 1
    if version == "1.2.0":
        fleet.until(lambda record: record.progress.state == "done" and fleet.runs() == dict.fromkeys(DEVICES, "1.1.0"))


def test_what_another_key_signed_and_what_was_signed_long_ago_is_not_taken(fleet: Fleet) -> None:
    fleet.publish("1.1.0", AT_ONCE, key=new_key())
    eventually(lambda: all("is not taken" in (fleet.folder / f"{d}.log").read_text() for d in DEVICES), 60)
    fleet.publish("1.1.0", AT_ONCE)
    fleet.until(lambda record: record.progress.state == "done" and fleet.runs() == dict.fromkeys(DEVICES, "1.1.0"))
    # Whoever holds the broker says again what was signed before.
    old = Release(fleet="plant", counter=1, version="1.0.0", wheel=reference(fleet.wheels["1.0.0"]))
    assert kept(fleet, "d0")["counter"] == 2
    encoded, signature = signed(old, fleet.key)
    word = encode(Rollout(release=encoded, signature=signature, stage=99, share=1.0))
    for parent in ("cloud", "gw"):
        topic = Topics("plant").down(parent, "release")
        publish.single(topic, word, qos=1, retain=True, hostname="127.0.0.1", port=fleet.port)
    with pytest.raises(AssertionError):
        eventually(lambda: fleet.runs() != dict.fromkeys(DEVICES, "1.1.0"), 5.0)
