"""Law: a release is signed here, by a key that no machine of the fleet has, and handed to the history; the cloud rolls
it out when it is awake.

`--database` names the history, as for runs.
"""

import email
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from headwater.cli.answers import AsJson, answer
from headwater.cli.histories import DEFAULT, Database, opened
from headwater.schemas.config import Origin, checked
from headwater.schemas.errors import ConfigError, RunFailed
from headwater.schemas.patterns import VERSION, check_form

if TYPE_CHECKING:
    from headwater.cloud.history import History, ReleaseRecord
    from headwater.cloud.releasing import Policy
    from headwater.trust.keys import Key

app = typer.Typer(help="Update the devices' software over the tree.", no_args_is_help=True, add_completion=False)

KEY_FILE: Final = "release.key"
SIGNER_FILE: Final = "release.pub"

Fleet = Annotated[str, typer.Option(envvar="HEADWATER_FLEET", help="The fleet.")]
KeyFile = Annotated[Path, typer.Option("--key", help="The key that signs releases; see `headwater release keys`.")]
Canaries = Annotated[list[str] | None, typer.Option("--canary", help="A device that has it first; give more than one.")]
CanaryShare = Annotated[float, typer.Option(min=0.0, max=1.0, help="And this share of all others.")]
Shares = Annotated[
    list[float] | None, typer.Option("--stage", help="A share that it spreads to next, before everyone has it.")
]
Soak = Annotated[float, typer.Option("--soak-s", min=0.0, help="How long all of a stage must be well.")]
MaxFailures = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Of those who tried, behind the canaries; more pause it.")
]


@app.command("keys")
def keys(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the two files are written.")] = Path(),
) -> None:
    """Make the pair of keys that a fleet's releases are signed and checked by.

    Example: headwater release keys ~/releases
    """
    from headwater.trust.files import make_folder, write_file
    from headwater.trust.keys import new_key, write_key

    key_file, signer = folder / KEY_FILE, folder / SIGNER_FILE
    for file in (key_file, signer):
        if file.exists():
            raise ConfigError(
                f"{file}: is there already; a fleet whose signer changes takes no update: give another folder"
            )
    make_folder(folder)
    key = new_key()
    write_key(key_file, key)
    write_file(signer, key.public.pem())
    typer.echo(
        f"{key_file}: signs releases; keep it away from the fleet, and a copy of it safe\n"
        f'{signer}: for every device:\n\n[update]\nversions = "/opt/headwater/versions"\n'
        f'signer = "/etc/headwater/{SIGNER_FILE}"'
    )


@app.command("publish")
def publish(
    wheel: Annotated[Path, typer.Argument(metavar="WHEEL", help="A wheel of Headwater.")],
    key: KeyFile,
    database: Database = DEFAULT,
    fleet: Fleet = "fleet",
    canary: Canaries = None,
    canary_share: CanaryShare = 0.1,
    stage: Shares = None,
    soak_s: Soak = 600.0,
    max_failures: MaxFailures = 0.05,
    as_json: AsJson = False,
) -> None:
    """Sign a wheel and roll it out: first to canaries, then to everyone.

    Example: headwater release publish headwater-0.2.0-py3-none-any.whl --key release.key --canary pump-7
    """
    from headwater.trust.keys import read_key

    check_form("--fleet", fleet)
    payload = _payload(wheel)
    version = _version_of(wheel, payload)
    policy = _policy(
        canaries=canary or [],
        canary_share=canary_share,
        shares=sorted(stage or ()),
        soak_s=soak_s,
        max_failures=max_failures,
    )
    signer = read_key(key, "--key")
    with opened(database, creates=True) as history:
        record = _published(history, fleet, version, payload, signer, policy)
    answer(as_json, _told(record), f"{_line(record)}; follow it with: headwater release status")


@app.command("rollback")
def rollback(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version that was published before.")],
    key: KeyFile,
    database: Database = DEFAULT,
    fleet: Fleet = "fleet",
    canary: Canaries = None,
    canary_share: CanaryShare = 1.0,
    soak_s: Soak = 0.0,
    as_json: AsJson = False,
) -> None:
    """Sign an older version as the newest release: to everyone at once, unless canaries are given.

    Example: headwater release rollback 0.1.0 --key release.key
    """
    from headwater.trust.keys import read_key

    policy = _policy(canaries=canary or [], canary_share=0.0 if canary else canary_share, soak_s=soak_s)
    signer = read_key(key, "--key")
    with opened(database) as history:
        published = history.reading.releases(fleet).entries
        older = next((r for r in published if r.release.version == version), None)
        if older is None:
            known = ", ".join(dict.fromkeys(r.release.version for r in published)) or "none"
            raise RunFailed(f"version: {version} was never published; published were: {known}")
        payload = history.releases.wheel(older.release)
        record = _published(history, fleet, version, payload, signer, policy)
    answer(as_json, _told(record), f"{_line(record)}; follow it with: headwater release status")


@app.command("pause")
def pause(database: Database = DEFAULT, fleet: Fleet = "fleet", as_json: AsJson = False) -> None:
    """Ask nobody any more: who has it keeps it."""
    with opened(database) as history:
        record = history.releases.ask(fleet, "pause", datetime.now(UTC))
    answer(as_json, _told(record), f"release {record.release.counter}: to be paused")


@app.command("resume")
def resume(database: Database = DEFAULT, fleet: Fleet = "fleet", as_json: AsJson = False) -> None:
    """Go on with a paused release; failures that are known by now are forgiven."""
    with opened(database) as history:
        record = history.releases.ask(fleet, "resume", datetime.now(UTC))
    answer(as_json, _told(record), f"release {record.release.counter}: to go on")


@app.command("status")
def status(database: Database = DEFAULT, fleet: Fleet = "fleet", as_json: AsJson = False) -> None:
    """Show the fleet's releases, newest first; the first of them is the one that is rolled out."""
    with opened(database) as history:
        records = history.reading.releases(fleet).entries
    lines = [*map(_line, records[:1]), *(_failures(records[0]) if records else ()), *map(_older, records[1:])]
    answer(as_json, [_told(record) for record in records], "\n".join(lines) or "no release yet")


def _policy(**given: Any) -> "Policy":
    """Raises Invalid, which names the flags."""
    from headwater.cloud.releasing import Policy

    return checked(Policy, given, "release", _FLAGS)


_FLAGS: Final[Mapping[tuple[str, ...], Origin]] = {
    (field,): Origin("flag", flag)
    for field, flag in (
        ("canaries", "--canary"),
        ("canary_share", "--canary-share"),
        ("shares", "--stage"),
        ("soak_s", "--soak-s"),
        ("max_failures", "--max-failures"),
    )
}


def _published(
    history: "History", fleet: str, version: str, wheel: bytes, key: "Key", policy: "Policy"
) -> "ReleaseRecord":
    from headwater.schemas.messages import Release
    from headwater.schemas.wire import reference
    from headwater.trust.releases import signed

    counter = history.releases.next_counter(fleet)
    release = Release(fleet=fleet, counter=counter, version=version, wheel=reference(wheel))
    encoded, signature = signed(release, key)
    return history.releases.publish(release, encoded, signature, wheel, policy, datetime.now(UTC))


def _payload(wheel: Path) -> bytes:
    from headwater.schemas.limits import MAX_WHEEL_SIZE_BYTES

    try:
        payload = wheel.read_bytes()
    except OSError as error:
        raise ConfigError(f"{wheel}: {error.strerror}; build one with: python -m build --wheel") from None
    if len(payload) > MAX_WHEEL_SIZE_BYTES:
        raise ConfigError(f"{wheel}: {len(payload)} bytes; at most {MAX_WHEEL_SIZE_BYTES} go over the tree")
    return payload


def _version_of(wheel: Path, payload: bytes) -> str:
    """The version that a wheel's metadata name, for it may have been renamed. Raises ConfigError."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as opened:
            (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
            about = email.message_from_bytes(opened.read(name))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError, OSError):
        raise ConfigError(f"{wheel}: is no wheel; build one with: python -m build --wheel") from None
    if about["Name"] != "headwater" or not about["Version"]:
        raise ConfigError(f"{wheel}: is a wheel of {about['Name']}; give one of headwater")
    version = str(about["Version"])
    check_form(f"{wheel}: Version", version, VERSION)
    return version


def _line(record: "ReleaseRecord") -> str:
    from headwater.node.logs import printable

    progress, release = record.progress, record.release
    stage = f"stage {progress.stage + 1} of {len(progress.policy.stages)}"
    head = f"release {release.counter}, version {release.version}: {progress.state}, {stage}"
    report, detail = progress.report, printable(progress.detail)
    if report is None:
        return head + (f" ({detail})" if detail else "")
    counts = f"{report.updated} updated, {report.under_way} under way, {report.waiting} waiting, {report.failed} failed"
    return f"{head}; {counts}" + (f"\n  {detail}" if detail else "")


def _failures(record: "ReleaseRecord") -> Iterator[str]:
    from headwater.node.logs import printable

    report = record.progress.report
    for failure in report.failures if report is not None else ():
        yield f"  {failure.node}: {printable(failure.detail)}"


def _older(record: "ReleaseRecord") -> str:
    return f"release {record.release.counter}, version {record.release.version}: replaced"


def _told(record: "ReleaseRecord") -> dict[str, Any]:
    """As the API tells of it."""
    from headwater.cloud.api.answers import release_of

    return release_of(record).model_dump(mode="json")
