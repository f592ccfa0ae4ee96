"""Law: certificates are made by commands that overwrite nothing, and print what goes into a node's file."""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from headwater.schemas.errors import ConfigError

if TYPE_CHECKING:
    from headwater.trust.authority import Authority
    from headwater.trust.certificates import Anchors
    from headwater.trust.folder import Folder

app = typer.Typer(
    help="Certificates: an authority of the fleet's own, and what each node needs of it.",
    no_args_is_help=True,
    add_completion=False,
)

PASSPHRASE: Final = "HEADWATER_PKI_PASSPHRASE"
Place = Annotated[Path, typer.Option("--folder", help="The authority's folder.")]
Passphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help=f"File with the passphrase of the authority's key; or {PASSPHRASE}."),
]
Hosts = Annotated[list[str], typer.Option("--host", help="Host name or address that it is reached by; repeat.")]
Days = Annotated[int, typer.Option(min=1, max=36_500, help="For how many days it counts.")]
Renew = Annotated[bool, typer.Option("--renew", help="Another for the same key; without it a node gets one.")]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="The node's name, which is its user at the broker too.")]


@app.command("init")
def init(
    folder: Place = Path("pki"),
    name: Annotated[str, typer.Option(help="The authority's name, for people.")] = "Headwater fleet",
    passphrase_file: Passphrase = None,
) -> None:
    """Make an authority: a certificate, its key, and an empty list of what it revoked.

    Example: headwater pki init --folder pki
    """
    with _in(folder) as place:
        place.create(name, _now(), passphrase=_passphrase(passphrase_file))
    typer.echo(f"{folder}: an authority. Keep ca.key where no node is; every node and broker gets ca.pem and crl.pem.")


@app.command("issue")
def issue(
    node: NodeName,
    folder: Place = Path("pki"),
    host: Hosts = [],  # noqa: B006
    days: Days = 730,
    renew: Renew = False,
    passphrase_file: Passphrase = None,
) -> None:
    """Make a key and a certificate for a node, or for a broker, whose --host names it needs.

    Example: headwater pki issue pump-7
    """
    with _in(folder) as place:
        place.issue(_authority(place, passphrase_file), node, _now(), hosts=host, days=days, renew=renew)
    typer.echo(_settings(place, node, place.key_of(node)))


@app.command("request")
def request(
    node: NodeName,
    key: Annotated[Path, typer.Option(help="Where its key is, or is to be made.")],
    output: Annotated[Path, typer.Option(help="The request's file.")],
) -> None:
    """On the node itself: make its key, which stays here, and a request that an authority can sign.

    Example: headwater pki request pump-7 --key pump-7.key --output pump-7.csr
    """
    from headwater.trust.authority import make_request
    from headwater.trust.files import write_file
    from headwater.trust.keys import new_key, read_key, write_key

    with _sentences():
        is_new = not key.exists()
        own = new_key() if is_new else read_key(key, "key")
        content = make_request(node, own)
        if is_new:
            write_key(key, own)
        write_file(output, content)
    typer.echo(f"{output}: have it signed: headwater pki sign {output.name}")


@app.command("sign")
def sign(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="A request (CSR) in PEM.")],
    folder: Place = Path("pki"),
    node: Annotated[str | None, typer.Option(help="Whom it must be from.")] = None,
    host: Hosts = [],  # noqa: B006
    days: Days = 730,
    renew: Renew = False,
    passphrase_file: Passphrase = None,
) -> None:
    """Sign a node's request. Of it only the name and the key are taken over.

    Example: headwater pki sign pump-7.csr --node pump-7
    """
    from headwater.trust.authority import read_request
    from headwater.trust.files import read_file

    with _in(folder) as place:
        content = read_file(request, "request")
        asks, _ = read_request(content, node=node, what=f"request: {request}")
        place.sign(_authority(place, passphrase_file), content, _now(), node=asks, hosts=host, days=days, renew=renew)
    typer.echo(_settings(place, asks, Path(f"{asks}.key")))


@app.command("revoke")
def revoke(node: NodeName, folder: Place = Path("pki"), passphrase_file: Passphrase = None) -> None:
    """Take back every certificate of a node. Its name is free for another board then.

    Example: headwater pki revoke pump-7
    """
    with _in(folder) as place:
        revoked = place.revoke(_authority(place, passphrase_file), node, _now())
    typer.echo(f"{node}: {len(revoked)} revoked. Bring {place.revoked_file} to every broker and node.")


@app.command("refresh")
def refresh(folder: Place = Path("pki"), passphrase_file: Passphrase = None) -> None:
    """Sign the list of revoked certificates anew, for another year: with a list past its day a broker takes nobody.

    Example: headwater pki refresh
    """
    with _in(folder) as place:
        place.renew_list(_authority(place, passphrase_file), _now())
    typer.echo(f"{place.revoked_file}: signed anew. Bring it to every broker and node.")


@app.command("show")
def show(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A certificate, request or list in PEM.")] = None,
    folder: Place = Path("pki"),
) -> None:
    """Say in words what a file holds and whether it counts; without one, all that the authority issued.

    Example: headwater pki show pki/issued/pump-7.pem
    """
    from headwater.trust.files import read_file
    from headwater.trust.telling import told

    with _sentences():
        place = _folder(folder)
        if file is None:
            _list(place)
            return
        anchors = _anchors(place) if place.certificate_file.exists() else None
        typer.echo(told(read_file(file, "file"), str(file), _now(), anchors))


def _list(place: "Folder") -> None:
    revoked = {serial for _, serial in _anchors(place).revoked}
    for one in place.issued():
        state = "revoked" if one.serial in revoked else "ended" if one.not_after < _now() else "good"
        typer.echo(f"{one.node:<32} {state:<8} until {one.not_after:%Y-%m-%d}  {one.serial:x}")


def _anchors(place: "Folder") -> "Anchors":
    from headwater.trust.certificates import Anchors
    from headwater.trust.revocation import with_lists

    anchors = Anchors((place.certificate(),))
    if not place.revoked_file.exists():
        return anchors
    return with_lists(anchors, place.revoked_file.read_bytes(), str(place.revoked_file))


def _settings(place: "Folder", node: str, key: Path) -> str:
    """What goes into the node's file, and into a broker's."""
    files = {"ca": place.certificate_file, "certificate": place.certificate_of(node), "key": key}
    lines = [f'{name} = "{file}"' for name, file in files.items()]
    return "\n".join(
        (
            f"# {node}: bring these files to its machine, the key for its user alone, and put their places there.",
            "[trust]",
            *lines,
            f'revoked = "{place.revoked_file}"',
            "",
            "[broker.tls]",
            *lines,
        )
    )


def _folder(path: Path) -> "Folder":
    from headwater.trust.folder import Folder

    return Folder(path)


@contextlib.contextmanager
def _in(path: Path) -> Iterator["Folder"]:
    with _sentences():
        yield _folder(path)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    from headwater.trust.problems import Untrusted

    try:
        yield
    except Untrusted as error:
        raise ConfigError(str(error)) from None


def _authority(place: "Folder", passphrase_file: Path | None) -> "Authority":
    return place.authority(_passphrase(passphrase_file))


def _passphrase(file: Path | None) -> str | None:
    """From a file or the environment; a flag would stand in the process list."""
    if file is None:
        return os.environ.get(PASSPHRASE)
    from headwater.trust.files import read_file

    text = read_file(file, "passphrase-file").decode(errors="replace").strip()
    if not text:
        raise ConfigError(f"passphrase-file: {file} is empty; put the passphrase in its first line")
    return text


def _now() -> datetime:
    return datetime.now(UTC)
