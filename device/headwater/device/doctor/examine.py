"""Law: all is looked at, even behind a first fault; the answer is lines for people or JSON, and an exit code.

0 nothing keeps the agent from its work; else as the agent would end: 1 this board, 2 configuration, 3 broker
unreachable, 4 access refused, 5 data.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from headwater.device.doctor import machine
from headwater.device.doctor.facts import Facts, Login
from headwater.device.doctor.findings import MARKS, Finding, judge
from headwater.device.doctor.findings import exit_code_of as exit_code_of
from headwater.device.doctor.network import log_in
from headwater.device.sensors import Sensors
from headwater.schemas.config import load
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import CloudSettings, DeviceSettings, GatewaySettings
from headwater.transport.probing import Road, road_to

MAX_LISTEN_S: Final = 45.0
HEARTBEATS: Final = 1.2
"""So many of them are waited for the parent, whose beat is as a rule this node's."""


def doctor(
    settings_file: Path | None, *, environment: Mapping[str, str], listen_s: float | None = None
) -> tuple[Finding, ...]:
    """Look at everything.

    Args:
        listen_s: at most so long for the parent's sign of life; by default for a little more than a heartbeat.
    """
    try:
        others = (GatewaySettings, CloudSettings)
        settings = load(DeviceSettings, settings_file, environment=environment, others=others).value
    except ConfigError as error:
        return tuple(
            Finding("settings", "error", problem, exit_code=error.exit_code) for problem in str(error).splitlines()
        )
    if listen_s is None:
        listen_s = min(HEARTBEATS * settings.heartbeat_s + 1, MAX_LISTEN_S)
    return judge(asyncio.run(_facts(settings_file, settings, listen_s)))


def text(findings: tuple[Finding, ...]) -> str:
    """A line for each finding, and below it how it is mended."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.mark]} {finding.name:<{width}}  {finding.found}")
        if finding.mend:
            lines.append(f"  {'':<{width}}  → {finding.mend}")
    return "\n".join(lines)


def as_json(findings: tuple[Finding, ...]) -> str:
    rows = [{key: value for key, value in asdict(finding).items() if key != "exit_code"} for finding in findings]
    return json.dumps({"exit_code": exit_code_of(findings), "findings": rows}, indent=1)


async def _facts(settings_file: Path | None, settings: DeviceSettings, listen_s: float) -> Facts:
    enrolment = machine.enrolment(settings)
    secret_trouble = _secret_trouble(settings)
    network = asyncio.ensure_future(_network(settings, listen_s, can_log_in=not secret_trouble))
    sensors = Sensors()
    running = await asyncio.to_thread(machine.running, settings)
    examples = await asyncio.to_thread(machine.examples, settings)
    disk = await asyncio.to_thread(machine.disk, settings.state)
    road, login = await network
    return Facts(
        settings=settings,
        secret_trouble=secret_trouble,
        clock=machine.clock(machine.witnesses(settings_file, settings), datetime.now(UTC)),
        software=machine.software(),
        heat=machine.heat(sensors, datetime.now()),
        memory=machine.this_memory(),
        disk=disk,
        kept=machine.kept(settings),
        running=running,
        examples=examples,
        leave=machine.leave(settings, sensors, datetime.now()),
        enrolment=enrolment,
        papers=machine.papers(_certificates(settings)) if enrolment in ("none", "done") else (),
        road=road,
        login=login,
    )


async def _network(settings: DeviceSettings, listen_s: float, *, can_log_in: bool) -> tuple[Road, Login | None]:
    road = await road_to(settings.broker)
    if road.ended != "through" or not can_log_in:
        return road, None
    return road, await log_in(settings, listen_s)


def _certificates(settings: DeviceSettings) -> tuple[Path, ...]:
    """This node's own: the one for the broker, and the one for what it signs."""
    tls, trust = settings.broker.tls, settings.trust
    files = (tls.certificate if tls else None, trust.certificate if trust else None)
    return tuple(file for file in files if file is not None)


def _secret_trouble(settings: DeviceSettings) -> str:
    try:
        settings.broker.secret()
    except ConfigError as error:
        return str(error)
    return ""
