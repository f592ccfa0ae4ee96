"""An authority's folder: what it holds, who may read it, and that nothing in it is lost or overwritten."""

import multiprocessing
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headwater.schemas.errors import ConfigError
from headwater.trust.authority import make_request
from headwater.trust.certificates import Anchors, identify, read_certificates, verify
from headwater.trust.files import read_file, write_file
from headwater.trust.folder import Folder
from headwater.trust.keys import new_key, read_key, read_public_key, write_key
from headwater.trust.problems import Untrusted
from headwater.trust.revocation import with_lists
from headwater.trust.tokens import make_token, used_for

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "pki")
    folder.create("plant", NOW)
    return folder


def anchors(folder: Folder) -> Anchors:
    return with_lists(Anchors((folder.certificate(),)), folder.revoked_file.read_bytes(), "crl")


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_a_folder_issues_what_it_vouches_for(folder: Folder) -> None:
    certificate = folder.issue(folder.authority(), "pump-1", NOW, hosts=("10.0.0.7",))
    (kept,) = read_certificates(folder.certificate_of("pump-1").read_bytes(), "issued")
    assert kept == certificate
    holder = verify(kept, anchors(folder), NOW, node="pump-1")
    assert holder.key == read_key(folder.key_of("pump-1"), "key").public
    assert [one.serial for one in folder.issued()] == [certificate.serial_number]


def test_secrets_are_their_owners_alone(folder: Folder) -> None:
    old = os.umask(0)
    try:
        folder.issue(folder.authority(), "pump-1", NOW)
        _, record = make_token("pump-2", "device", NOW, bytes(28))
        folder.keep_token(record)
    finally:
        os.umask(old)
    for file in (folder.path / "ca.key", folder.key_of("pump-1"), *(folder.path / "tokens").iterdir()):
        assert mode(file) == 0o600, file
    assert mode(folder.path) == 0o700
    assert mode(folder.certificate_file) == 0o644


def test_nothing_is_overwritten(folder: Folder) -> None:
    before = {file: file.read_bytes() for file in folder.path.rglob("*.*") if file.is_file()}
    with pytest.raises(ConfigError, match="holds an authority already"):
        folder.create("plant", NOW)
    folder.issue(folder.authority(), "pump-1", NOW)
    before |= {file: file.read_bytes() for file in (folder.path / "issued").iterdir()}
    with pytest.raises(ConfigError, match="pump-1 has a certificate; renew it"):
        folder.issue(folder.authority(), "pump-1", NOW)
    with pytest.raises(ConfigError, match="pump-1 has a certificate; renew it"):
        folder.sign(folder.authority(), make_request("pump-1", new_key()), NOW)
    assert {file: file.read_bytes() for file in before} == before


def test_a_renewed_certificate_is_for_the_same_key(folder: Folder) -> None:
    first = folder.issue(folder.authority(), "pump-1", NOW)
    second = folder.issue(folder.authority(), "pump-1", NOW + timedelta(days=700), renew=True)
    assert (first.public_key(), first.serial_number) != (second.public_key(), second.serial_number)
    assert first.public_key() == second.public_key()
    assert second.not_valid_after_utc > first.not_valid_after_utc


def test_revoking_a_node_takes_back_all_that_it_has(folder: Folder) -> None:
    authority = folder.authority()
    given = [folder.issue(authority, "pump-1", NOW), folder.issue(authority, "pump-1", NOW, renew=True)]
    folder.issue(authority, "pump-2", NOW)
    revoked = folder.revoke(authority, "pump-1", NOW)
    assert {one.serial for one in revoked} == {one.serial_number for one in given}
    for certificate in given:
        with pytest.raises(Untrusted, match="was revoked"):
            verify(certificate, anchors(folder), NOW, node="pump-1")
    (other,) = read_certificates(folder.certificate_of("pump-2").read_bytes(), "issued")
    assert verify(other, anchors(folder), NOW, node="pump-2")
    with pytest.raises(ConfigError, match="pump-9 has no certificate"):
        folder.revoke(authority, "pump-9", NOW)
    # The name is free for another board.
    assert verify(folder.issue(authority, "pump-1", NOW), anchors(folder), NOW, node="pump-1")


def test_a_sealed_authority_opens_by_its_passphrase(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "pki")
    folder.create("plant", NOW, passphrase="open sesame")
    for wrong, said in ((None, "give its passphrase"), ("open barley", "its passphrase is another one")):
        with pytest.raises(ConfigError, match=said):
            folder.authority(wrong)
    assert identify(folder.issue(folder.authority("open sesame"), "gw1", NOW), anchors(folder)).node == "gw1"


def test_a_token_is_kept_and_found_by_its_name_alone(folder: Folder) -> None:
    token, record = make_token("pump-2", "device", NOW, bytes(range(28)))
    folder.keep_token(record)
    assert folder.token(token.token_id) == record
    folder.keep_token(used_for(record, b"request"))
    assert folder.token(token.token_id) == used_for(record, b"request")
    for name in ("0" * 16, "", "../ca", f"../tokens/{token.token_id}", token.token_id.upper() + "/", "é" * 16):
        assert folder.token(name) is None


def _issue_some(path: Path, start: int) -> None:
    folder = Folder(path)
    for number in range(start, start + 5):
        folder.issue(folder.authority(), f"pump-{number}", NOW)
        folder.revoke(folder.authority(), f"pump-{number}", NOW)


def test_a_command_and_a_service_work_side_by_side(folder: Folder) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_issue_some, args=(folder.path, start)) for start in (0, 5, 10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    issued = folder.issued()
    assert sorted(one.node for one in issued) == sorted(f"pump-{number}" for number in range(15))
    assert {serial for _, serial in anchors(folder).revoked} == {one.serial for one in issued}


def test_keys_of_another_kind_are_named(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "other.key"
    file.write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(ConfigError, match=r"trust\.key: .*other\.key holds a key of another kind; .* Ed25519"):
        read_key(file, "trust.key")
    file.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="holds no PEM key"):
        read_key(file, "trust.key")
    with pytest.raises(ConfigError, match="holds no PEM public key"):
        read_public_key(file, "signer")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "none.key", "trust.key")


def test_a_key_is_what_was_written_and_shows_itself_nowhere(tmp_path: Path) -> None:
    key, file = new_key(), tmp_path / "node.key"
    write_key(file, key)
    assert read_key(file, "trust.key").public == key.public
    assert key.public.has_signed(key.sign(b"word"), b"word")
    assert not key.public.has_signed(key.sign(b"word"), b"another")
    assert key.key.private_bytes_raw().hex() not in repr(key)
    file.write_bytes(key.public.pem())
    assert read_public_key(file, "signer") == key.public


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_file(tmp_path / "nowhere" / "file", b"content")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_file(tmp_path / "taken", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path / "none", "trust.ca")
