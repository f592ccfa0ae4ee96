"""The commands that make certificates: from nothing to two nodes that take each other's word, and what is refused."""

import stat
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headwater.cli.app import app
from headwater.node.trusting import Trust, open_trust
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Announcement
from headwater.schemas.settings import TrustSettings
from headwater.schemas.wire import WireError


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environment: str) -> Result:
        result = CliRunner().invoke(app, ["pki", *arguments], env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def trust(printed: str, node: str) -> Trust:
    """Of a node whose file holds what was printed."""
    read = tomllib.loads(printed)
    assert read["broker"]["tls"]["certificate"] == read["trust"]["certificate"]
    return open_trust(TrustSettings(**{name: Path(file) for name, file in read["trust"].items()}), "plant", node)


def test_from_nothing_to_two_nodes_that_take_each_others_word(pki: Callable[..., Result]) -> None:
    pki("init", "--name", "plant")
    gateway = trust(pki("issue", "gw1", "--host", "10.0.0.1").output, "gw1")
    # The key of this one never leaves its machine.
    pki("request", "pump-7", "--key", "pump-7.key", "--output", "pump-7.csr")
    pump = trust(pki("sign", "pump-7.csr", "--node", "pump-7").output, "pump-7")
    assert stat.S_IMODE(Path("pump-7.key").stat().st_mode) == 0o600
    word = Announcement(parent="gw1")
    assert pump.taken(gateway.said(word, 1, 1), "gw1") == word
    pki("revoke", "gw1")
    assert pump.look()
    with pytest.raises(WireError, match="was revoked"):
        pump.taken(gateway.said(word, 1, 2), "gw1")


def test_show_says_who_until_when_by_whom_and_whether_it_counts(pki: Callable[..., Result]) -> None:
    pki("init", "--name", "plant")
    pki("issue", "broker", "--host", "broker.local", "--host", "10.0.0.1", "--days", "20")
    certificate = str(Path("pki") / "issued" / "broker.pem")
    said = pki("show", certificate).output
    for part in ("certificate of broker", "issued by: CN=plant", "reached as: broker, broker.local, 10.0.0.1", "good"):
        assert part in said
    assert "list of revoked certificates" in pki("show", "pki/crl.pem").output
    assert "the authority plant" in pki("show", "pki/ca.pem").output
    pki("revoke", "broker")
    assert "does not count (revoked)" in pki("show", f"{certificate}.revoked").output
    assert pki("show").output.split()[:2] == ["broker", "revoked"]
    # Without the authority's folder it is said that nothing was judged.
    assert "not judged" in pki("show", f"{certificate}.revoked", "--folder", "elsewhere").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("init",), "holds an authority already"),
        (("issue", "gw1"), "gw1 has a certificate; renew it"),
        (("issue", "a/b"), "its common name 'a/b' can be no node's; use 1 to 64 letters"),
        (("request", "a b", "--key", "new.key", "--output", "new.csr"), "its common name 'a b' can be no node's"),
        (("issue", "gw2", "--host", "bröker"), "host: 'bröker' is neither an address nor a host name; give"),
        (("issue", "gw2", "--host", "not a host!"), "host: 'not a host!' is neither an address nor a host name; give"),
        (("issue", "gw2", *(("--host", "broker") * 33)), "hosts: 33; at most 32"),
        (("sign", "gw3.csr", "--host", "b a d"), "host: 'b a d' is neither an address nor a host name; give"),
        (("token", "gw2", "--host", "b a d"), "host: 'b a d' is neither an address nor a host name; give"),
        (("issue", "gw2", "--renew"), "cannot be read"),
        (("issue", "gw2", "--folder", "nowhere"), "cannot be read"),
        (("revoke", "gw9"), "gw9 has no certificate"),
        (
            ("sign", "pki/ca.pem"),
            "request: pki/ca.pem: is no PEM certificate request.*; give what `headwater pki request`",
        ),
        (("sign", "gw3.csr", "--node", "gw4"), "for gw3, where one for gw4 belongs"),
        (("show", "pki/ca.key"), "is a private key, of which nothing is shown"),
        (("show", "pki/index.jsonl"), "holds no PEM certificate, request or list"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    pki: Callable[..., Result], arguments: tuple[str, ...], said: str
) -> None:
    pki("init")
    pki("issue", "gw1")
    pki("request", "gw3", "--key", "gw3.key", "--output", "gw3.csr")
    before = _files()
    with pytest.raises(ConfigError, match=said):
        pki(*arguments)
    assert _files() == before


def _files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_sealed_authority_wants_its_passphrase_from_a_file_or_the_environment(pki: Callable[..., Result]) -> None:
    Path("secret").write_text("open sesame\n")
    pki("init", "--passphrase-file", "secret")
    with pytest.raises(ConfigError, match="give its passphrase"):
        pki("issue", "gw1")
    pki("issue", "gw1", "--passphrase-file", "secret")
    pki("issue", "gw2", HEADWATER_PKI_PASSPHRASE="open sesame")
    pki("refresh", HEADWATER_PKI_PASSPHRASE="open sesame")
    Path("secret").write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        pki("issue", "gw3", "--passphrase-file", "secret")


def test_a_renewed_certificate_keeps_its_key(pki: Callable[..., Result]) -> None:
    pki("init")
    pki("issue", "gw1", "--days", "10")
    key = Path("pki/issued/gw1.key").read_bytes()
    pki("issue", "gw1", "--renew")
    assert Path("pki/issued/gw1.key").read_bytes() == key
    pki("request", "d1", "--key", "d1.key", "--output", "d1.csr")
    pki("sign", "d1.csr")
    with pytest.raises(ConfigError, match="d1 has a certificate"):
        pki("sign", "d1.csr")
    pki("sign", "d1.csr", "--renew")
