"""Law: each check is one pure function of facts; what it finds at fault it names with the mend.

An `error` keeps the agent from its work, a `warning` may, a `skipped` check could not be made. The exit code of an
error is the one that the agent itself would end with.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from headwater.device.doctor.facts import (
    Clock,
    Disk,
    Enrolment,
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
from headwater.schemas.errors import AccessRefused, BrokerUnreachable, ConfigError, DataError, HeadwaterError
from headwater.schemas.settings import DeviceSettings
from headwater.transport.probing import Road, TlsProblem

Mark = Literal["ok", "warning", "error", "skipped"]
MARKS: Final[dict[Mark, str]] = {"ok": "✓", "warning": "!", "error": "✗", "skipped": "–"}

LEAST_FREE_BYTES: Final = 32 * 2**20
SLOW_SYNC_S: Final = 0.5
"""A worn SD card takes as long to have one small file safe; a good one 0.02 s."""

SOON: Final = timedelta(days=21)
CLOCK_LENIENCE: Final = timedelta(minutes=5)
HOT_C: Final = 80.0
"""From here on a Raspberry Pi slows down."""

LEAST_AVAILABLE_BYTES: Final = 128 * 2**20
"""An agent and its worker take about 125 MB."""

_UNDERVOLTAGE, _CAPPED, _THROTTLED = 1 << 0, 1 << 1, 1 << 2
_EVER: Final = 16
"""The same bits, so much higher: since the board was switched on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`exit_code` counts where it is an error."""

    name: str
    mark: Mark
    found: str
    mend: str = ""
    exit_code: int = HeadwaterError.exit_code


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Everything that was looked at, in the order in which it is to be mended."""
    settings = facts.settings
    return (
        of_settings(settings, facts.secret_trouble),
        of_clock(facts.clock),
        of_software(facts.software),
        of_heat(facts.heat),
        of_memory(facts.memory),
        of_disk(facts.disk, settings),
        of_kept(facts.kept),
        of_worker(facts.running, settings),
        *(of_examples(examples) for examples in facts.examples),
        of_leave(facts.leave, settings),
        *of_enrolment(facts.enrolment),
        *(of_papers(papers, settings, facts.clock.now) for papers in facts.papers),
        *of_road(facts.road, settings, facts.clock.now, facts.enrolment),
        *of_login(facts.login, settings, facts.software),
    )


def exit_code_of(findings: Iterable[Finding]) -> int:
    """0 where nothing keeps the agent from its work, else as the agent would end at the first error."""
    return next((finding.exit_code for finding in findings if finding.mark == "error"), 0)


def of_settings(settings: DeviceSettings, secret_trouble: str) -> Finding:
    if secret_trouble:
        return Finding("settings", "error", *_halves(secret_trouble), ConfigError.exit_code)
    return Finding("settings", "ok", f"{settings.node} of fleet {settings.fleet}, below {settings.parent}")


def of_clock(clock: Clock) -> Finding:
    told = f"{clock.now:%Y-%m-%d %H:%M} UTC"
    if clock.now + CLOCK_LENIENCE < clock.later_than:
        return Finding(
            "clock",
            "error",
            f"it says {told}, but {clock.witness} was written at {clock.later_than:%Y-%m-%d %H:%M}",
            "let the board reach a time server (timedatectl set-ntp true), or give it a clock with a battery; "
            "certificates do not count before their first day",
            AccessRefused.exit_code,
        )
    if clock.is_synchronised is False:
        return Finding(
            "clock",
            "warning",
            f"{told}, and no time server has confirmed it",
            "timedatectl set-ntp true; in a closed network name its server in /etc/systemd/timesyncd.conf",
        )
    return Finding("clock", "ok", told + (", kept by a time server" if clock.is_synchronised else ""))


def of_software(software: Software) -> Finding:
    told = f"Headwater {software.version}, Python {software.python}, {software.board or software.machine}"
    if software.word_bits < 64:
        return Finding(
            "software",
            "error",
            f"{told}: a 32-bit system, for which there is no onnxruntime",
            "flash the 64-bit Raspberry Pi OS; every board from the Pi 3 and the Zero 2 W on runs it",
        )
    return Finding("software", "ok", told)


def of_heat(heat: Heat) -> Finding:
    told = "no sensor" if heat.temperature_c is None else f"{heat.temperature_c:.0f} °C"
    bits = heat.throttled or 0
    if (bits | bits >> _EVER) & _UNDERVOLTAGE:
        when = "now" if bits & _UNDERVOLTAGE else "since it was switched on"
        return Finding(
            "power and heat",
            "warning",
            f"{told}; too little voltage {when}",
            "use the board's own power supply, and a short cable: this corrupts SD cards",
        )
    if (heat.temperature_c or 0.0) >= HOT_C or bits & (_CAPPED | _THROTTLED):
        return Finding(
            "power and heat",
            "warning",
            f"{told}: the board slows down",
            "give it a heat sink or air, or train only when it is cool: conditions.max_temperature_c",
        )
    return Finding("power and heat", "skipped" if told == "no sensor" else "ok", told)


def of_memory(memory: Memory) -> Finding:
    told = f"{_size(memory.available_bytes)} of {_size(memory.total_bytes)} available"
    if memory.available_bytes < LEAST_AVAILABLE_BYTES:
        return Finding(
            "memory",
            "warning",
            told,
            f"agent and worker want {_size(LEAST_AVAILABLE_BYTES)}: stop what is not needed, or add swap (zram)",
        )
    if memory.is_limitable is False:
        return Finding(
            "memory",
            "warning",
            f"{told}; this kernel bounds no service's memory",
            "put cgroup_enable=memory at the end of the line in /boot/firmware/cmdline.txt, and reboot",
        )
    return Finding("memory", "ok", told)


def of_disk(disk: Disk, settings: DeviceSettings) -> Finding:
    if disk.trouble:
        return Finding(
            "disk",
            "error",
            f"{disk.folder}: {disk.trouble}",
            "make it writable for the agent's user; a file system that turned read-only is a card that is dying: "
            "copy it and replace it",
        )
    told = f"{disk.folder}: {_size(disk.free_bytes)} of {_size(disk.size_bytes)} free"
    if disk.free_bytes < LEAST_FREE_BYTES or disk.free_files_share < 0.01:
        return Finding("disk", "error", told, "free some: checkpoints and updates on their way up find no room")
    if disk.errors:
        return Finding(
            "disk",
            "warning",
            f"{told}; its file system has counted {disk.errors} errors",
            "copy the card and replace it",
        )
    if disk.sync_s is not None and disk.sync_s > SLOW_SYNC_S:
        return Finding(
            "disk", "warning", f"{told}; one small file took {disk.sync_s:.1f} s", "a worn or slow card: replace it"
        )
    if disk.free_bytes < settings.kept_size_bytes:
        return Finding(
            "disk",
            "warning",
            f"{told}; less than kept_size_bytes, {_size(settings.kept_size_bytes)}",
            "free some, or lower kept_size_bytes",
        )
    return Finding("disk", "ok", told)


def of_kept(kept: Kept) -> Finding:
    return Finding("kept", "ok", f"{_size(kept.size_bytes)} of {_size(kept.bound_bytes)} for updates on their way up")


def of_worker(running: Running, settings: DeviceSettings) -> Finding:
    limit = f"worker.memory_limit_mb {settings.worker.memory_limit_mb}"
    if running.start_s is None:
        return Finding(
            "worker",
            "error",
            f"onnxruntime does not start: {running.trouble}",
            f"pip install 'headwater[device]' for this Python; if it ran out of memory, raise {limit}",
        )
    return Finding("worker", "ok", f"onnxruntime starts in {running.start_s:.1f} s, below {limit}")


def of_examples(examples: Examples) -> Finding:
    name = f"data.{examples.key}"
    if examples.trouble:
        return Finding(name, "error", *_halves(examples.trouble), DataError.exit_code)
    told = f"{examples.train} training and {examples.test} test examples ({examples.kind})"
    if examples.is_live and not examples.train:
        return Finding(
            name,
            "warning",
            told,
            f"no sensor has filled a window yet: mosquitto_sub -v -t the topics of {name}.channels",
        )
    if not examples.test:
        return Finding(
            name, "warning", told, "nothing to test on: give a test_fraction, so that rounds are judged here too"
        )
    return Finding(name, "ok", told)


def of_leave(leave: Leave, settings: DeviceSettings) -> Finding:
    if leave.missing:
        rule = f"conditions.{leave.missing[0]}"
        return Finding(
            "conditions", "error", f"no sensor for {rule}", "take the rule out on this device", ConfigError.exit_code
        )
    if leave.trouble:
        return Finding("conditions", "error", *_halves(leave.trouble), ConfigError.exit_code)
    if leave.obstacle is not None:
        wait = settings.conditions.patience_s
        patience = "as long as a plan allows" if wait is None else f"{wait:g} s"
        return Finding("conditions", "warning", f"training would wait now: {leave.obstacle}", f"it waits {patience}")
    return Finding("conditions", "ok", "training may go on now")


def of_enrolment(enrolment: Enrolment) -> Iterator[Finding]:
    """Nothing is said where there is a certificate: its own finding tells of it."""
    if enrolment == "to_come":
        yield Finding(
            "certificate",
            "warning",
            "not there yet; the one-time token is",
            "start the agent, which trades it: systemctl start headwater-device",
        )
    if enrolment == "no_token":
        yield Finding(
            "certificate",
            "error",
            "neither there nor a token for one",
            "headwater pki token for this node, into enrol.token_file",
            AccessRefused.exit_code,
        )


def of_papers(papers: Papers, settings: DeviceSettings, now: datetime) -> Finding:
    renew = "have it issued anew: headwater pki issue"
    if papers.trouble:
        return Finding("certificate", "error", papers.trouble, renew, AccessRefused.exit_code)
    if papers.until is None:
        return Finding("certificate", "skipped", f"{papers.file}: not looked into", "pip install 'headwater[trust]'")
    told = f"{papers.holder}, until {papers.until:%Y-%m-%d}"
    if papers.holder != settings.node:
        return Finding(
            "certificate",
            "error",
            f"{papers.file} is {papers.holder}'s",
            f"use that of {settings.node}, or name the node {papers.holder}",
            AccessRefused.exit_code,
        )
    if papers.until <= now:
        return Finding("certificate", "error", f"{told}: it has ended", renew, AccessRefused.exit_code)
    if papers.until - now < SOON:
        return Finding("certificate", "warning", f"{told}: {(papers.until - now).days} days left", renew)
    return Finding("certificate", "ok", told)


_TLS_MENDS: Final[dict[TlsProblem, str]] = {
    "not_yet_valid": "set this board's clock",
    "expired": "the broker's certificate is to be issued anew (if this board's clock is right)",
    "other_name": "put in broker.host a name that the certificate has, or have it issued for this one",
    "other_authority": "put the fleet's authority in broker.tls.ca",
    "no_tls": "this port speaks no TLS: give the one that does (8883), or take broker.tls out",
    "refused": "see the broker's log; it may want a certificate: broker.tls.certificate and .key",
}


def of_road(road: Road, settings: DeviceSettings, now: datetime, enrolment: Enrolment = "none") -> Iterator[Finding]:
    """The broker's name, its port, its certificate; nothing is said of what lies behind the step that failed."""
    broker, code = settings.broker, BrokerUnreachable.exit_code
    if road.ended == "name":
        yield Finding(
            "broker name", "error", f"{broker.host}: {road.says}", "check broker.host and this board's DNS", code
        )
        return
    if road.ended == "port":
        where = f"{broker.host}:{broker.port} ({', '.join(road.addresses)})"
        mend = "check broker.port, that the broker runs, and the firewalls between"
        yield Finding("broker port", "error", f"{where}: {road.says}", mend, code)
        return
    yield Finding("broker port", "ok", f"{broker.host}:{broker.port} answers in {road.reached_ms or 0:.0f} ms")
    if broker.tls is None:
        where = (
            "" if all(_is_loopback(address) for address in road.addresses) else "; passwords and models travel readable"
        )
        yield Finding("broker TLS", "warning" if where else "ok", f"none{where}", "give broker.tls" if where else "")
    elif road.tls_problem == "files" and enrolment in ("to_come", "no_token"):
        yield Finding("broker TLS", "skipped", "this node has no certificate yet")
    elif road.tls_problem == "files":
        yield Finding("broker TLS", "error", *_halves(road.says), ConfigError.exit_code)
    elif road.ended == "certificate":
        yield Finding(
            "broker TLS", "error", road.says, _TLS_MENDS[road.tls_problem or "refused"], AccessRefused.exit_code
        )
    else:
        yield _of_broker_certificate(road, now)


def _of_broker_certificate(road: Road, now: datetime) -> Finding:
    told = f"{road.tls_version}, certificate of {road.subject or 'no name'}"
    if road.until is None:
        return Finding("broker TLS", "ok", told)
    told += f" until {road.until:%Y-%m-%d}"
    if road.until - now < SOON:
        mend = "the broker's certificate is to be issued anew, or every board loses it"
        return Finding("broker TLS", "warning", f"{told}: {(road.until - now).days} days left", mend)
    return Finding("broker TLS", "ok", told)


def of_login(login: Login | None, settings: DeviceSettings, software: Software) -> Iterator[Finding]:
    if login is None:
        yield Finding("login", "skipped", "not tried")
        return
    if login.fault is not None:
        yield Finding("login", "error", *_halves(str(login.fault)), login.fault.exit_code)
        return
    yield Finding("login", "ok", f"{settings.node} may write and read what is its own")
    yield _of_parent(login, settings)
    yield _of_agent(login, software)


def _of_parent(login: Login, settings: DeviceSettings) -> Finding:
    if login.heard_after_s is not None:
        plan = ", and has a plan open" if login.parent_said == "a_plan" else ""
        return Finding("parent", "ok", f"{settings.parent} is alive{plan}")
    silent = f"no sign of life within {login.listened_s:.0f} s"
    if login.parent_said == "nothing":
        return Finding(
            "parent",
            "warning",
            f"{settings.parent} never spoke here; {silent}",
            "check parent, fleet and that it uses this broker; its ACL may keep its word from this node",
        )
    return Finding(
        "parent", "warning", f"{settings.parent} was here; {silent}", "see whether it runs, and its broker's log"
    )


def _of_agent(login: Login, software: Software) -> Finding:
    agent = login.agent
    if agent is None or agent.state == "offline":
        return Finding(
            "agent", "warning", "not running", "systemctl start headwater-device; journalctl -u headwater-device"
        )
    if agent.software != software.version:
        told = f"version {agent.software} runs, and {software.version} is installed"
        return Finding("agent", "warning", told, "systemctl restart headwater-device")
    return Finding("agent", "ok", f"running, version {agent.software}")


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _halves(sentence: str) -> tuple[str, str]:
    """What was found, and how it is mended: errors of the house say both."""
    found, _, mend = sentence.partition("; ")
    return found, mend


def _size(size_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GB"
