"""What the testbed of containers is given before it starts: to each its own, and twice is once."""

import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from headwater.device.sources.prepared import ARRAYS, load_prepared
from headwater.schemas.config import load
from headwater.schemas.run import RunDescription
from headwater.schemas.settings import CloudSettings, DashboardSettings, DeviceSettings, GatewaySettings
from headwater.schemas.sources import PreparedSource
from headwater.testbed.containers.places import FIRST_DEVICES, PERSONS, SITES, seats, volumes
from headwater.testbed.containers.setup import set_up
from headwater.trust.certificates import read_certificates

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEATS = 6


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for person in range(1, PERSONS + 1):
        arrays = {name: np.full((2, 1) if name.endswith("x") else 2, person) for name in ARRAYS}
        np.savez(folder / f"person-{person}.npz", **arrays)
    return folder


@pytest.fixture
def places(tmp_path: Path, recordings: Path) -> Path:
    set_up(tmp_path / "places", recordings, SEATS, NOW)
    return tmp_path / "places"


def files(places: Path) -> dict[str, bytes]:
    return {str(file.relative_to(places)): file.read_bytes() for file in places.rglob("*") if file.is_file()}


def test_each_volume_is_named_by_both_sides() -> None:
    named = re.findall(r"^  ([\w-]+):$", COMPOSE[COMPOSE.index("\nvolumes:\n") :], re.MULTILINE)
    mounted = re.findall(r"- ([\w-]+):/places/\1$", COMPOSE, re.MULTILINE)
    assert set(mounted) == set(volumes())
    assert set(named) == {*volumes(), "prometheus"}


def test_devices_that_come_by_themselves_have_a_person_each() -> None:
    assert f"scale: {FIRST_DEVICES}\n" in COMPOSE
    first = [seat.person for seat in seats(FIRST_DEVICES)]
    assert sorted(first) == list(range(1, len(SITES) * FIRST_DEVICES + 1))


def test_seats_have_names_of_their_own(places: Path) -> None:
    for seat in seats(SEATS):
        place = places / seat.identity.folder
        (certificate,) = read_certificates((place / "node.pem").read_bytes(), "node.pem")
        assert certificate.subject.rfc4514_string() == f"CN={place.name}"
        own = load_prepared(PreparedSource(kind="prepared", name="watch", parts=("own",), folder=place))
        assert own.train_x[0, 0] == seat.person


def test_no_key_leaves_its_place(places: Path) -> None:
    """But for the authority's folder, from which the places were filled, and which no service mounts."""
    found = [(name, content) for name, content in files(places).items() if name.endswith(".key")]
    outside = [content for name, content in found if not name.startswith("authority/")]
    assert len(set(outside)) == len(outside)
    modes = {name: stat.S_IMODE((places / name).stat().st_mode) for name, _ in found}
    assert {name for name, mode in modes.items() if mode != 0o600} == {"emqx/node.key"}
    assert COMPOSE.count("authority:/") == 1


def test_twice_is_once(places: Path, recordings: Path) -> None:
    before = files(places)
    assert set_up(places, recordings, SEATS, NOW + timedelta(days=1)) == 0
    after = files(places)
    assert set(after) == set(before)
    # Lists of what was revoked are signed anew, and salts are fresh.
    changed = {Path(name).name for name in after if after[name] != before[name]}
    assert changed <= {"crl.pem", "revoked.pem", "viewers.users"}


def test_more_seats_are_added_to_those_there_are(places: Path, recordings: Path) -> None:
    before = files(places)
    assert set_up(places, recordings, SEATS + 1, NOW) == len(SITES)
    kept = {name: content for name, content in files(places).items() if name.endswith((".key", "node.pem"))}
    assert all(kept[name] == before[name] for name in before if name in kept)


def test_a_place_that_was_emptied_gets_its_name_again(places: Path, recordings: Path) -> None:
    (places / "cloud" / "node.pem").unlink()
    assert set_up(places, recordings, SEATS, NOW) == 1
    assert (places / "cloud" / "node.pem").exists()


def test_settings_are_such_as_services_take() -> None:
    folder = ROOT / "deploy" / "testbed"
    gateway = {"HEADWATER_NODE": "gateway-north"}
    assert load(GatewaySettings, folder / "gateway.toml", environment=gateway).value.fleet == "testbed"
    assert load(DeviceSettings, folder / "device.toml", environment={"HEADWATER_NODE": "north-1"}).value.data
    assert load(CloudSettings, folder / "cloud.toml").value.http
    assert set(load(DashboardSettings, folder / "dashboard.toml").value.brokers) == {"cloud", *SITES}
    assert load(RunDescription, folder / "run.toml").value.data == "watch"
