"""Law: what a file of trust holds is told in words: whose it is, from whom, until when, and whether it still counts."""

from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from headwater.trust.authority import read_request
from headwater.trust.certificates import Anchors, fingerprint, is_authority, name_of, read_certificates, verify
from headwater.trust.problems import Untrusted

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_REQUEST: Final = b"-----BEGIN CERTIFICATE REQUEST-----"
_LIST: Final = b"-----BEGIN X509 CRL-----"


def told(content: bytes, what: str, now: datetime, anchors: Anchors | None = None) -> str:
    """What a PEM file holds, a paragraph for each thing.

    Args:
        anchors: the authorities to judge certificates by; without them it is told what they say of themselves.

    Raises:
        Untrusted: it holds nothing that belongs to trust, or a private key, of which nothing is told.
    """
    if b"PRIVATE KEY" in content:
        raise Untrusted("wrong_kind", f"{what}: is a private key, of which nothing is shown; give the certificate")
    if _CERTIFICATE in content:
        return "\n\n".join(_certificate(one, now, anchors) for one in read_certificates(content, what))
    if _REQUEST in content:
        node, key = read_request(content, what=what)
        return f"a request of {node} for a certificate\nkey: {key.raw.hex()}"
    if _LIST in content:
        return _list(content, what, now)
    raise Untrusted("malformed", f"{what}: holds no PEM certificate, request or list; give such a file")


def _certificate(certificate: x509.Certificate, now: datetime, anchors: Anchors | None) -> str:
    whose = "the authority " if is_authority(certificate) else ""
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    lines = [
        f"certificate of {whose}{name_of(certificate)}",
        f"issued by: {certificate.issuer.rfc4514_string()}",
        f"counts: {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
        f"number: {certificate.serial_number:x}",
        f"key: {_key(certificate)}",
        f"SHA-256: {fingerprint(certificate)}",
    ]
    hosts = _hosts(certificate)
    if hosts:
        lines.insert(3, f"reached as: {', '.join(hosts)}")
    return "\n".join((*lines, f"verdict: {_verdict(certificate, now, anchors)}"))


def _verdict(certificate: x509.Certificate, now: datetime, anchors: Anchors | None) -> str:
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return "does not count now, by its days"
    if anchors is None:
        return "not judged; name the authority's folder"
    if is_authority(certificate):
        return "good" if certificate in anchors.authorities else "not the authority of this folder"
    try:
        verify(certificate, anchors, now, node=name_of(certificate))
    except Untrusted as error:
        return f"does not count ({error.why}): {error}"
    return "good"


def _key(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "of a kind that is not known here"
    return key.public_bytes_raw().hex() if isinstance(key, Ed25519PublicKey) else "not Ed25519, so no node's"


def _hosts(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _list(content: bytes, what: str, now: datetime) -> str:
    try:
        read = x509.load_pem_x509_crl(content)
    except (ValueError, UnsupportedAlgorithm):
        raise Untrusted("malformed", f"{what}: is no list of revoked certificates (CRL)") from None
    end = read.next_update_utc
    lines = [f"list of revoked certificates, of {read.last_update_utc:%Y-%m-%d %H:%M} UTC"]
    if end is not None:
        over = "; that is over, and a broker takes nobody" if end < now else ""
        lines.append(f"to be renewed by: {end:%Y-%m-%d}{over}")
    lines += [f"revoked: {one.serial_number:x} on {one.revocation_date_utc:%Y-%m-%d %H:%M} UTC" for one in read]
    return "\n".join(lines)
