"""Forged releases, as attack stories: what a device's signer did not sign, byte for byte, is not signed."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Release, Rollout
from headwater.schemas.wire import encode, reference
from headwater.trust.keys import Key, new_key
from headwater.trust.releases import is_signed, read_signer, signed

SIGNER, THIEF = new_key(), new_key()
RELEASE = Release(fleet="plant", counter=7, version="2.0", wheel=reference(b"wheel"))


def rollout(release: Release = RELEASE, key: Key = SIGNER) -> Rollout:
    encoded, signature = signed(release, key)
    return Rollout(release=encoded, signature=signature, share=1.0)


def test_what_the_signer_signed_is_signed_whomever_a_stage_asks() -> None:
    word = rollout()
    assert is_signed(word, SIGNER.public)
    assert is_signed(word.model_copy(update={"share": 0.1, "nodes": ("d1",), "stage": 9}), SIGNER.public)


@pytest.mark.parametrize(
    "word",
    [
        pytest.param(rollout(key=THIEF), id="another key"),
        pytest.param(rollout().model_copy(update={"signature": bytes(64)}), id="no signature"),
        *(
            pytest.param(
                rollout().model_copy(update={"release": encode(RELEASE.model_copy(update=changes))}),
                id=next(iter(changes)),
            )
            for changes in ({"counter": 8}, {"version": "2.1"}, {"fleet": "other"}, {"wheel": reference(b"other")})
        ),
        pytest.param(
            rollout().model_copy(update={"signature": SIGNER.sign(encode(RELEASE))}), id="signed as something else"
        ),
    ],
)
def test_what_it_did_not_is_not(word: Rollout) -> None:
    assert not is_signed(word, SIGNER.public)


def test_the_signer_is_a_public_key_or_a_certificate(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(SIGNER.public.pem())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "releases")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(
        datetime(2027, 1, 1, tzinfo=UTC)
    )
    certificate = builder.public_key(SIGNER.public.key).sign(SIGNER.key, None)
    (tmp_path / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    for file in ("key.pem", "certificate.pem"):
        assert is_signed(rollout(), read_signer(tmp_path / file, "update.signer"))


def test_another_kind_of_key_is_refused_with_the_setting_named(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1()).public_key()
    file = tmp_path / "key.pem"
    file.write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match=r"update\.signer"):
        read_signer(file, "update.signer")
    file.write_bytes(b"-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"update\.signer"):
        read_signer(file, "update.signer")
