"""Law: an authority names nodes: it signs the key of whoever may bear a name, and nothing that the asker says besides.

X.509 with Ed25519 throughout, which OpenSSL 1.1.1, and so Mosquitto and Python, take in TLS 1.3.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headwater.schemas.limits import MAX_REQUEST_SIZE_BYTES
from headwater.trust.certificates import malformed, node_of
from headwater.trust.hosts import check_hosts
from headwater.trust.keys import Key, PublicKey
from headwater.trust.problems import Untrusted

AUTHORITY_DAYS: Final = 20 * 365
NODE_DAYS: Final = 2 * 365
BACKDATED: Final = timedelta(hours=1)
"""Certificates count from so long ago on, for clocks that are a little behind."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its own certificate, and the key behind it."""

    certificate: x509.Certificate
    key: Key


def new_authority(name: str, key: Key, now: datetime, *, days: int = AUTHORITY_DAYS) -> Authority:
    """An authority that signs itself, and may sign nodes but no further authorities."""
    subject = _subject(name)
    certificate = (
        _builder(subject, subject, key.public, now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public.key), critical=False)
        .sign(key.key, None)
    )
    return Authority(certificate, key)


def issue(
    authority: Authority,
    node: str,
    key: PublicKey,
    now: datetime,
    *,
    hosts: Iterable[str] = (),
    days: int = NODE_DAYS,
) -> x509.Certificate:
    """A certificate for a node, as client and as server.

    Args:
        hosts: host names and addresses under which it is reached, beside its own name: a broker's.

    Raises:
        Untrusted: a name that no node may have, too many hosts, or one that is none.
    """
    subject = _subject(node)
    node_of(subject, "node")
    end = min(now + timedelta(days=days), authority.certificate.not_valid_after_utc)
    return (
        _builder(subject, authority.certificate.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(_hosts(node, hosts)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public.key), critical=False)
        .sign(authority.key.key, None)
    )


def make_request(node: str, key: Key) -> bytes:
    """A PEM request (CSR): a node asks for a certificate for its key. Raises Untrusted for a name of no node."""
    subject = _subject(node)
    node_of(subject, "node")
    return x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key.key, None).public_bytes(Encoding.PEM)


def read_request(content: bytes, *, node: str | None = None, what: str = "request") -> tuple[str, PublicKey]:
    """The node that asks, and its key.

    Args:
        node: who must be asking; None takes whom it names.
        what: names it in a sentence: where it is a file, with the file's name.

    Raises:
        Untrusted: no request, for another name, of another kind of key, or not signed by the key that it is about.
    """
    if len(content) > MAX_REQUEST_SIZE_BYTES:
        raise Untrusted("malformed", f"{what}: {len(content)} bytes; at most {MAX_REQUEST_SIZE_BYTES}")
    with malformed(f"{what}: is no PEM certificate request (CSR); give what `headwater pki request` wrote"):
        request = x509.load_pem_x509_csr(content)
        key, is_signed = request.public_key(), request.is_signature_valid
        asks = node_of(request.subject, what)
    if node is not None and asks != node:
        raise Untrusted("wrong_name", f"{what}: for {asks}, where one for {node} belongs")
    if not isinstance(key, Ed25519PublicKey):
        raise Untrusted("wrong_kind", f"request of {asks}: its key is of another kind; a node signs with Ed25519")
    if not is_signed:
        raise Untrusted("wrong_signature", f"request of {asks}: not signed by the key that it is about")
    return asks, PublicKey(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(end)
    )


def _subject(name: str) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError:
        raise Untrusted("wrong_name", f"name: {name!r} cannot be a common name; use 1 to 64 characters") from None


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _hosts(node: str, hosts: Iterable[str]) -> list[x509.GeneralName]:
    given = tuple(hosts)
    check_hosts(given)
    # A node's name need not be one that a host may have.
    return [_host(host) for host in dict.fromkeys((node, *given))]


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
