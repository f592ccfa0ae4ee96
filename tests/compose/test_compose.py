"""The testbed of containers: the images are small and bounded, a fleet learns in them, and a killed cloud goes on.

Each test goes on from where the one before it left the fleet.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.containers import Containers, containers, docker
from support.waiting import eventually

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

RUN = Path(__file__).parent / "run.toml"
ROUNDS = 10
LONG = 60
"""Rounds of a run that is still on when somebody has looked twice."""

DEVICES = 10
MIB = 1024 * 1024
MAX_IMAGE_SIZE_BYTES = {"device": 250_000_000, "gateway": 250_000_000, "cloud": 350_000_000, "broker": 100_000_000}
ONE_SHOT = ("setup", "run")
WAIT_S = 150.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[Containers]:
    with containers(RUN) as testbed:
        testbed.up()
        eventually(lambda: is_led(testbed), WAIT_S)
        yield testbed


def is_led(fleet: Containers) -> bool:
    return "leading fleet" in fleet.compose("logs", "--tail", "5", "cloud").stdout


def runs(fleet: Containers) -> list[list[str]]:
    """Name and state, oldest first."""
    return fleet.sql("SELECT id, state FROM runs ORDER BY queued_at")


def rounds_of(fleet: Containers, run: str) -> list[list[str]]:
    return fleet.sql(
        f"SELECT round, attempt, state, devices FROM rounds WHERE run = '{run}' AND task = 'train' ORDER BY round, attempt"
    )


def finished(fleet: Containers, count: int) -> bool:
    return [state for _, state in runs(fleet)] == ["finished"] * count


def ask_for_run(fleet: Containers, rounds: int = ROUNDS) -> str:
    longer = f"sed 's/^rounds = .*/rounds = {rounds}/' /etc/headwater/run.toml > /tmp/run.toml"
    fleet.inside("cloud", "sh", "-c", f"{longer} && headwater run start /tmp/run.toml --fleet testbed")
    return runs(fleet)[-1][0]


def open_round(fleet: Containers) -> dict[str, Any] | None:
    return next((told for told in fleet.heard("hw/1/testbed/rounds/round", 1) if told["state"] == "open"), None)


def test_a_fleet_learns_in_containers(fleet: Containers) -> None:
    eventually(lambda: finished(fleet, 1), WAIT_S)
    ((run, _),) = runs(fleet)
    assert rounds_of(fleet, run) == [[str(round_), "0", "closed", str(DEVICES)] for round_ in range(1, ROUNDS + 1)]
    ((accuracy,),) = fleet.sql(
        f"SELECT total / weight FROM metrics WHERE run = '{run}' AND version = {ROUNDS - 1} AND split = 'test' AND name = 'correct'"
    )
    assert float(accuracy) > 0.5


def test_people_read_the_same_from_the_topics(fleet: Containers) -> None:
    ((run, _),) = runs(fleet)
    (told,) = fleet.heard("hw/1/testbed/rounds/run")
    assert (told["run"], told["state"], told["round"]) == (run, "finished", ROUNDS)
    (last,) = fleet.heard("hw/1/testbed/rounds/round")
    # Behind the last round the last model is measured.
    newest = fleet.sql(f"SELECT round, task, devices FROM rounds WHERE run = '{run}' ORDER BY round DESC LIMIT 1")
    assert [[str(last["round"]), last["task"], str(last["devices"])]] == newest
    assert {member["node"] for member in last["members"]} == {"gateway-north", "gateway-south"}


def test_a_viewer_hears_nothing_else(fleet: Containers) -> None:
    heard = fleet.inside("broker", "watch", "-v", "-t", "#", "-W", "3", check=False)
    topics = {line.split(" ")[0] for line in heard.splitlines()}
    assert topics
    assert all("/rounds/" in topic or topic.endswith("/status") for topic in topics), topics


def test_images_are_small(fleet: Containers) -> None:
    sizes = {
        name: int(docker("image", "inspect", "--format", "{{.Size}}", f"headwater/{name}"))
        for name in MAX_IMAGE_SIZE_BYTES
    }
    assert {name: size for name, size in sizes.items() if size > MAX_IMAGE_SIZE_BYTES[name]} == {}


def check_is_confined(container: dict[str, Any], user: str, rights: list[str]) -> None:
    name, host = container["Name"], container["HostConfig"]
    assert container["Config"]["User"] == user, name
    assert host["ReadonlyRootfs"], name
    assert host["CapDrop"] == ["ALL"], name
    assert (host["CapAdd"] or []) == rights, name
    assert "no-new-privileges:true" in host["SecurityOpt"], name
    assert 0 < host["Memory"] <= 384 * MIB, name
    assert host["PidsLimit"], name
    assert host["LogConfig"]["Config"]["max-size"], name
    assert not any("docker.sock" in mount.get("Source", "") for mount in container["Mounts"]), name
    assert not container["State"]["OOMKilled"], name


def test_containers_are_confined(fleet: Containers) -> None:
    for container in fleet.inspected():
        check_is_confined(container, "10001:10001", [])


def test_only_this_machine_reaches_the_ports(fleet: Containers) -> None:
    for container in fleet.inspected():
        for published in (container["HostConfig"]["PortBindings"] or {}).values():
            assert {binding["HostIp"] for binding in published} == {"127.0.0.1"}, container["Name"]


def test_a_killed_cloud_goes_on_in_the_same_round(fleet: Containers) -> None:
    (device, *_) = fleet.ids("device-north")
    run = ask_for_run(fleet, LONG)
    eventually(lambda: rounds_of(fleet, run), WAIT_S)
    # With one device asleep its round stays open.
    docker("pause", device)
    try:
        before = eventually(lambda: open_round(fleet), WAIT_S)
        docker("kill", *fleet.ids("cloud"))
        closed = rounds_of(fleet, run)
        assert len(closed) == before["round"] - 1
        fleet.compose("start", "cloud")
        eventually(lambda: is_led(fleet), WAIT_S)
    finally:
        docker("unpause", device)
    eventually(lambda: finished(fleet, 2), WAIT_S)
    assert [name for name, _ in runs(fleet)][-1] == run
    after = rounds_of(fleet, run)
    assert after[: len(closed)] == closed
    assert [round_ for round_, _, state, _ in after if state == "closed"] == [str(i) for i in range(1, LONG + 1)]
    same = after[before["round"] - 1]
    assert same[:3] == [str(before["round"]), str(before["attempt"]), "closed"]


def test_devices_come_by_scale(fleet: Containers) -> None:
    fleet.up("--scale", "device-north=7")
    eventually(lambda: len(fleet.ids("device-north")) == 7)
    eventually(lambda: "connected" in fleet.compose("logs", "--tail", "5", "device-north").stdout)
    run = ask_for_run(fleet)
    eventually(lambda: finished(fleet, 3), WAIT_S)
    assert rounds_of(fleet, run)[-1][3] == "12"


def test_what_was_learned_outlives_down(fleet: Containers) -> None:
    certificate = fleet.inside("cloud", "cat", "node.pem")
    history = runs(fleet), rounds_of(fleet, runs(fleet)[0][0])
    fleet.down()
    fleet.up()
    eventually(lambda: is_led(fleet), WAIT_S)
    assert (runs(fleet), rounds_of(fleet, runs(fleet)[0][0])) == history
    assert fleet.inside("cloud", "cat", "node.pem") == certificate
    run = ask_for_run(fleet)
    eventually(lambda: finished(fleet, 4), WAIT_S)
    assert rounds_of(fleet, run)[-1][3] == str(DEVICES)


def test_a_fleet_learns_in_bad_weather(fleet: Containers) -> None:
    fleet.settings.update(WEATHER_EVERY_S="2", WEATHER_OUTAGE_S="2")
    fleet.compose("--profile", "chaos", "up", "--detach", "chaos-north", "chaos-south")
    eventually(lambda: "is cut" in fleet.compose("logs", "chaos-north").stdout)
    run = ask_for_run(fleet)
    eventually(lambda: finished(fleet, 5), WAIT_S)
    closed = [round_ for round_, _, state, _ in rounds_of(fleet, run) if state == "closed"]
    assert closed == [str(round_) for round_ in range(1, ROUNDS + 1)]


def test_the_weather_is_root_with_one_right_in_a_gateways_network(fleet: Containers) -> None:
    gateways = [*fleet.ids("gateway-north"), *fleet.ids("gateway-south")]
    makers = fleet.inspected("chaos-north", "chaos-south")
    assert {maker["HostConfig"]["NetworkMode"] for maker in makers} == {f"container:{gateway}" for gateway in gateways}
    for maker in makers:
        check_is_confined(maker, "", ["NET_ADMIN"])
        assert maker["Mounts"] == []
