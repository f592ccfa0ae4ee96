"""What a node is given in files: that they belong together, and how it is said when they do not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import TrustSettings
from headwater.trust.certificates import to_pem
from headwater.trust.folder import Folder
from headwater.trust.guard import open_guard

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "pki")
    folder.create("plant", NOW)
    for node in ("d1", "d2"):
        folder.issue(folder.authority(), node, NOW)
    return folder


def settings(folder: Folder, **changes: Path) -> TrustSettings:
    files = {
        "ca": folder.certificate_file,
        "certificate": folder.certificate_of("d1"),
        "key": folder.key_of("d1"),
        "revoked": folder.revoked_file,
    }
    return TrustSettings(**(files | changes))


def test_the_files_of_a_node_make_its_guard(folder: Folder) -> None:
    guard = open_guard(settings(folder), "plant", "d1")
    assert (guard.node, guard.own.key.raw) == ("d1", guard.key.public.raw)
    assert guard.anchors.lists_end_at == NOW + timedelta(days=365)


def test_a_chain_behind_the_certificate_does_no_harm(folder: Folder) -> None:
    certificate = folder.certificate_of("d1")
    certificate.write_bytes(certificate.read_bytes() + to_pem(folder.certificate()))
    assert open_guard(settings(folder), "plant", "d1").node == "d1"


def test_files_that_do_not_belong_together_are_named(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    other.create("plant", NOW)
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    d2, cases = folder.certificate_of("d2"), []
    cases += [({"certificate": d2}, r"trust\.certificate: is that of d2, and this node is d1; give its own")]
    cases += [({"key": folder.key_of("d2")}, r"trust\.key: .*d2\.key is not the key of .*d1\.pem")]
    cases += [({"ca": other.certificate_file, "revoked": other.revoked_file}, "no authority that is known here")]
    cases += [({"revoked": other.revoked_file}, r"trust\.revoked: .* no authority that is known here signed this list")]
    cases += [({"ca": d2}, r"trust\.ca: .*: d2 is no authority; give the CA's certificate")]
    cases += [({"ca": empty}, r"trust\.ca: .*empty\.pem: holds no PEM certificate; give one")]
    cases += [({"certificate": folder.certificate_file}, "is an authority's, and no node's")]
    cases += [({"key": d2}, r"trust\.key: .*d2\.pem holds no PEM key")]
    for changes, said in cases:
        with pytest.raises(ConfigError, match=said):
            open_guard(settings(folder, **changes), "plant", "d1")
