"""The doctor finds what stands in a device's way, says the mend, and is not fooled by what is well."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headwater.device.doctor import machine
from headwater.device.doctor.examine import as_json, doctor, text
from headwater.device.doctor.facts import (
    Clock,
    Disk,
    Examples,
    Facts,
    Heat,
    Kept,
    Leave,
    Login,
    Memory,
    Papers,
    Running,
    Software,
)
from headwater.device.doctor.findings import Finding, Mark, exit_code_of, judge
from headwater.device.sources import LiveSource
from headwater.device.sources.live.store import Counts, counts_in
from headwater.schemas.errors import AccessRefused
from headwater.schemas.links import BrokerSettings, TlsSettings
from headwater.schemas.settings import ConditionSettings, DeviceSettings, EnrolSettings
from headwater.schemas.sources import Channel, DigitsSource, SensorSource
from headwater.schemas.statuses import NodeStatus
from headwater.testbed.machine import free_port
from headwater.transport.probing import Road, road_to
from support.brokers import broker, certificates, mosquitto

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
GB, MB = 2**30, 2**20
TLS = TlsSettings(ca=Path("ca.pem"))
SETTINGS = DeviceSettings(
    node="pump-7",
    parent="gw1",
    broker=BrokerSettings(host="broker.plant", port=8883, tls=TLS),
    data={"vibration": DigitsSource(kind="digits", devices=1, index=0)},
)
AGENT = NodeStatus(node="pump-7", role="device", parent="gw1", state="online", software="1.2.0")
WELL = Facts(
    settings=SETTINGS,
    secret_trouble="",
    clock=Clock(NOW, True, NOW - timedelta(days=3), "device.toml"),
    software=Software("1.2.0", "3.11.2", "aarch64", 64, "Raspberry Pi 4 Model B"),
    heat=Heat(51.0, 0),
    memory=Memory(4 * GB, 3 * GB, True),
    disk=Disk("/var/lib/headwater", 20 * GB, 28 * GB, 0.9, 0.02, 0),
    kept=Kept(4 * MB, 256 * MB),
    running=Running(1.2),
    examples=(Examples("vibration", "file", 300, 100),),
    leave=Leave(),
    enrolment="none",
    papers=(Papers("pump-7.pem", "pump-7", NOW + timedelta(days=300)),),
    road=Road("through", "", ("10.0.0.2",), 3.0, "", "TLSv1.3", "broker.plant", NOW + timedelta(days=90)),
    login=Login(None, "a_plan", 4.0, 4.0, AGENT),
)
LOGIN = Login(None, "a_plan", 4.0, 4.0, AGENT)
REFUSED = Login(AccessRefused("broker refused user 'pump-7'; check broker.user"))


def found(facts: Facts, name: str) -> Finding:
    (finding,) = (finding for finding in judge(facts) if finding.name == name)
    return finding


def test_a_board_that_is_well_has_nothing_to_mend() -> None:
    findings = judge(WELL)
    assert {finding.mark for finding in findings} == {"ok"}
    assert [finding.mend for finding in findings if finding.mend] == []
    assert exit_code_of(findings) == 0


def case(name: str, mark: Mark, says: str, mend: str, code: int = 0, **changes: Any) -> Any:
    return pytest.param(name, mark, says, mend, code, changes, id=f"{name}: {says}")


@pytest.mark.parametrize(
    ("name", "mark", "says", "mend", "code", "changes"),
    [
        case("settings", "error", "broker.password_file: gone", "give a readable file", 2, secret_trouble="broker.password_file: gone; give a readable file"),
        case("clock", "error", "but device.toml was written at 2026-05-04", "set-ntp", 4, clock=Clock(datetime(1970, 1, 1, tzinfo=UTC), False, NOW, "device.toml")),
        case("clock", "warning", "no time server has confirmed it", "timesyncd.conf", clock=Clock(NOW, False, NOW, "x")),
        case("software", "error", "32-bit system", "64-bit Raspberry Pi OS", 1, software=Software("1.2.0", "3.11.2", "armv7l", 32)),
        case("power and heat", "warning", "too little voltage now", "power supply", heat=Heat(51.0, 0x50005)),
        case("power and heat", "warning", "too little voltage since it was switched on", "power supply", heat=Heat(51.0, 0x10000)),
        case("power and heat", "warning", "84 °C: the board slows down", "heat sink", heat=Heat(84.0, 0)),
        case("power and heat", "warning", "slows down", "heat sink", heat=Heat(79.0, 0x4)),
        case("power and heat", "skipped", "no sensor", "", heat=Heat(None, None)),
        case("memory", "warning", "60 MB of 512 MB", "add swap", memory=Memory(512 * MB, 60 * MB, True)),
        case("memory", "warning", "bounds no service's memory", "cgroup_enable=memory", memory=Memory(GB, GB, False)),
        case("disk", "error", "Read-only file system", "a card that is dying", 1, disk=Disk("/var", trouble="Read-only file system")),
        case("disk", "error", "10 MB of 28.0 GB free", "free some", 1, disk=replace(WELL.disk, free_bytes=10 * MB)),
        case("disk", "error", "20.0 GB of 28.0 GB free", "free some", 1, disk=replace(WELL.disk, free_files_share=0.001)),
        case("disk", "warning", "less than kept_size_bytes", "lower kept_size_bytes", disk=replace(WELL.disk, free_bytes=100 * MB)),
        case("disk", "warning", "counted 3 errors", "replace it", disk=replace(WELL.disk, errors=3)),
        case("disk", "warning", "one small file took 2.0 s", "worn or slow card", disk=replace(WELL.disk, sync_s=2.0)),
        case("worker", "error", "takes more than the 384 MB", "raise worker.memory_limit_mb", 1, running=Running(None, "takes more than the 384 MB")),
        case("data.vibration", "error", "line 2 has 2 cells", "mend the line", 5, examples=(Examples("vibration", "file", trouble="line 2 has 2 cells; mend the line"),)),
        case("data.vibration", "warning", "0 test examples", "test_fraction", examples=(Examples("vibration", "file", 8, 0),)),
        case("data.pump", "warning", "0 training", "mosquitto_sub", examples=(Examples("pump", "mqtt", is_live=True),)),
        case("conditions", "error", "no sensor for conditions.max_temperature_c", "take the rule out", 2, leave=Leave(missing=("max_temperature_c",))),
        case("conditions", "error", "conditions.rule: a:b: no module", "is the package", 2, leave=Leave(trouble="conditions.rule: a:b: no module; is the package installed?")),
        case("conditions", "warning", "training would wait now: not on power", "as long as a plan allows", leave=Leave(obstacle="not on power")),
        case("certificate", "warning", "not there yet", "start the agent", enrolment="to_come", papers=()),
        case("certificate", "error", "neither there nor a token", "pki token", 4, enrolment="no_token", papers=()),
        case("broker TLS", "skipped", "no certificate yet", "", enrolment="to_come", papers=(), road=Road("certificate", "no file", tls_problem="files"), login=None),
        case("certificate", "error", "pump-7.pem is pump-8's", "use that of pump-7", 4, papers=(Papers("pump-7.pem", "pump-8", NOW),)),
        case("certificate", "error", "it has ended", "pki issue", 4, papers=(Papers("p", "pump-7", NOW),)),
        case("certificate", "warning", "9 days left", "pki issue", papers=(Papers("p", "pump-7", NOW + timedelta(days=9)),)),
        case("certificate", "error", "no such file", "pki issue", 4, papers=(Papers("p", trouble="no such file"),)),
        case("certificate", "skipped", "p: not looked into", "headwater[trust]", papers=(Papers("p"),)),
        case("broker name", "error", "broker.plant: Name or service not known", "DNS", 3, road=Road("name", "Name or service not known"), login=None),
        case("broker port", "error", "broker.plant:8883 (10.0.0.2): Connection refused", "firewalls", 3, road=Road("port", "Connection refused", ("10.0.0.2",)), login=None),
        case("broker TLS", "error", "ca: gone.pem: No such file", "give a readable file", 2, road=Road("certificate", "broker.tls.ca: gone.pem: No such file; give a readable file", tls_problem="files"), login=None),
        case("broker TLS", "error", "certificate has expired", "issued anew", 4, road=Road("certificate", "certificate has expired", tls_problem="expired"), login=None),
        case("broker TLS", "error", "not yet valid", "set this board's clock", 4, road=Road("certificate", "not yet valid", tls_problem="not_yet_valid"), login=None),
        case("broker TLS", "error", "mismatch", "broker.host", 4, road=Road("certificate", "mismatch", tls_problem="other_name"), login=None),
        case("broker TLS", "error", "closed", "see the broker's log", 4, road=Road("certificate", "closed"), login=None),
        case("broker TLS", "warning", "20 days left", "issued anew", road=replace(WELL.road, until=NOW + timedelta(days=20))),
        case("login", "skipped", "not tried", "", 0, login=None),
        case("login", "error", "refused user 'pump-7'", "check broker.user", 4, login=REFUSED),
        case("parent", "warning", "gw1 never spoke here; no sign of life within 37 s", "ACL", login=replace(LOGIN, parent_said="nothing", heard_after_s=None, listened_s=37.0)),
        case("parent", "warning", "gw1 was here", "see whether it runs", login=replace(LOGIN, heard_after_s=None)),
        case("agent", "warning", "not running", "systemctl start", login=replace(LOGIN, agent=None)),
        case("agent", "warning", "not running", "systemctl start", login=replace(LOGIN, agent=AGENT.model_copy(update={"state": "offline"}))),
        case("agent", "warning", "version 1.1.0 runs, and 1.2.0 is installed", "restart", login=replace(LOGIN, agent=AGENT.model_copy(update={"software": "1.1.0"}))),
    ],
)  # fmt: skip
def test_what_is_at_fault_is_found_with_its_mend(
    name: str, mark: Mark, says: str, mend: str, code: int, changes: dict[str, Any]
) -> None:
    facts = replace(WELL, **changes)
    finding = found(facts, name)
    assert finding.mark == mark
    assert says in finding.found
    assert mend in finding.mend
    assert bool(finding.mend) or mark == "skipped"
    assert exit_code_of(judge(facts)) == code


def test_without_tls_only_a_broker_elsewhere_is_warned_of() -> None:
    plain = SETTINGS.model_copy(update={"broker": BrokerSettings(host="broker.plant")})
    here, there = (Road("through", "", (address,), 1.0) for address in ("127.0.0.1", "10.0.0.2"))
    assert found(replace(WELL, settings=plain, road=here), "broker TLS").mark == "ok"
    assert "readable" in found(replace(WELL, settings=plain, road=there), "broker TLS").found


def test_the_first_error_gives_the_exit_code() -> None:
    facts = replace(WELL, login=REFUSED, examples=(Examples("vibration", "file", trouble="gone"),))
    assert exit_code_of(judge(facts)) == 5
    assert exit_code_of(judge(replace(WELL, login=REFUSED))) == 4


def test_the_report_has_a_mend_below_what_is_at_fault() -> None:
    lines = text(judge(replace(WELL, heat=Heat(84.0, 0)))).splitlines()
    line = next(number for number, line in enumerate(lines) if line.startswith("! power and heat"))
    assert lines[line + 1].lstrip().startswith("→ give it a heat sink")
    assert sum(line.lstrip().startswith("→") for line in lines) == 1


# ── this machine ────────────────────────────────────────────────────────────────────────────────────────────────


def test_memory_is_read_as_linux_tells_it() -> None:
    told = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  500 kB\nHugePages_Total: 0\n"
    assert machine.memory(told, "cpuset cpu io memory pids") == Memory(1_024_000, 512_000, True)
    assert machine.memory(told, "cpuset cpu io pids").is_limitable is False
    assert machine.memory(told, "").is_limitable is None


def test_a_clock_that_was_set_back_is_found_by_what_was_written_since(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (1000.0, 1000.0))
    (tmp_path / "new").touch()
    told = machine.clock((tmp_path / "old", tmp_path / "new", tmp_path / "none"), NOW)
    assert told.witness == str(tmp_path / "new")


def test_a_folder_that_is_not_there_yet_is_judged_by_what_it_would_lie_in(tmp_path: Path) -> None:
    told = machine.disk(tmp_path / "not" / "yet")
    assert (told.folder, told.trouble) == (str(tmp_path), "")
    assert told.free_bytes > 0
    assert told.sync_s is not None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_told() -> None:
    assert machine.disk(Path("/proc/self")).trouble


@pytest.mark.parametrize(
    ("there", "enrolment"),
    [((), "no_token"), (("token",), "to_come"), (("ca", "pem", "key"), "done"), (("token", "ca", "pem"), "to_come")],
)
def test_whether_a_board_has_its_certificate_or_a_token_for_it(
    there: tuple[str, ...], enrolment: str, tmp_path: Path
) -> None:
    for name in there:
        (tmp_path / name).touch()
    tls = TlsSettings(ca=tmp_path / "ca", certificate=tmp_path / "pem", key=tmp_path / "key")
    changes = {"broker": BrokerSettings(tls=tls), "enrol": EnrolSettings(token_file=tmp_path / "token")}
    assert machine.enrolment(SETTINGS.model_copy(update=changes)) == enrolment
    assert machine.enrolment(SETTINGS) == "none"


def test_windows_are_counted_beside_an_agent_that_has_the_store_open(tmp_path: Path) -> None:
    spec = SensorSource(kind="mqtt", channels=(Channel(name="x", topic="t"),), window=1, test_fraction=0.25)
    assert counts_in(tmp_path / "none.db") == Counts()
    source = LiveSource("pump", spec, tmp_path / "x.db", clock=lambda: 0.0)
    before = sorted(tmp_path.iterdir())
    assert counts_in(tmp_path / "x.db") == source.counts
    assert sorted(tmp_path.iterdir()) == before
    source.close()


# ── the road to a broker ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_name_that_nobody_knows_ends_the_road() -> None:
    assert (await road_to(BrokerSettings(host="no-such-host.invalid"))).ended == "name"


async def test_a_closed_port_ends_the_road() -> None:
    road = await road_to(BrokerSettings(port=free_port()))
    assert (road.ended, road.says, road.addresses) == ("port", "Connection refused", ("127.0.0.1",))


@pytest.mark.live
async def test_tls_is_told_with_its_certificate_or_why_not(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    (tmp_path / "other").mkdir()
    other = certificates(tmp_path / "other")
    with mosquitto(tls=files) as port, mosquitto() as plain:
        good = await road_to(BrokerSettings(host="localhost", port=port, tls=TlsSettings(ca=files.ca)))
        assert (good.ended, good.subject, good.tls_version) == ("through", "localhost", "TLSv1.3")
        assert good.until is not None
        assert timedelta(days=1) < good.until - datetime.now(UTC) < timedelta(days=2)
        problems = [
            (await road_to(BrokerSettings(host=host, port=at, tls=TlsSettings(ca=ca)))).tls_problem
            for host, at, ca in (
                ("localhost", port, other.ca),
                ("127.1", port, files.ca),
                ("localhost", plain, files.ca),
                ("localhost", port, tmp_path / "none.pem"),
            )
        ]
    assert problems == ["other_authority", "other_name", "no_tls", "files"]


# ── all of it ───────────────────────────────────────────────────────────────────────────────────────────────────

DEVICE = """\
node = "pump-7"
state = "{folder}/state"
heartbeat_s = 0.5
[broker]
port = {port}
connect_timeout_s = 5.0
password = "hush-hush"
user = "pump-7"
[data.digits]
kind = "digits"
devices = 10
index = 0
"""


@pytest.fixture
def device_toml(tmp_path: Path) -> Callable[[int], Path]:
    def written(port: int) -> Path:
        path = tmp_path / "device.toml"
        path.write_text(DEVICE.format(folder=tmp_path, port=port))
        return path

    return written


@pytest.mark.live
def test_a_device_is_examined_on_its_real_broker(device_toml: Callable[[int], Path], tmp_path: Path) -> None:
    with broker("mosquitto") as port:
        findings = doctor(device_toml(port), environment={})
    marks = {finding.name: finding.mark for finding in findings}
    for name in ("settings", "worker", "data.digits", "conditions", "broker port", "login"):
        assert marks[name] == "ok", text(findings)
    assert marks["parent"] == marks["agent"] == "warning"
    assert exit_code_of(findings) == 0
    assert "hush-hush" not in text(findings) + as_json(findings)


def test_the_command_ends_as_the_agent_would(device_toml: Callable[[int], Path]) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "headwater.device", "doctor", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    path = device_toml(free_port())
    done = run("--json", path)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 3
    path.write_text(path.read_text().replace("heartbeat_s", "heart_beat_s"))
    done = run(path)
    assert done.returncode == 2
    assert done.stdout.startswith("✗ settings")
    assert "did you mean heartbeat_s?" in done.stdout
    assert run("--jsn", path).returncode == 2


def test_a_rule_of_the_owners_is_found_and_not_asked() -> None:
    rule = ConditionSettings(rule="no_such_package.module:rule")
    told = machine.leave(SETTINGS.model_copy(update={"conditions": rule}), machine.Sensors(), datetime.now())
    assert "no_such_package" in told.trouble
