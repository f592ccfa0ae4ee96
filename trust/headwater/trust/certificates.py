"""Law: a certificate counts where a known authority signed it, now is within its days, and nobody revoked it.

What it says of itself is its one common name: the node's, and its user at the broker. Anything else that X.509 could
say is not read. Times are UTC, and given.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import TypeAdapter, ValidationError

from headwater.schemas.base import NodeId
from headwater.schemas.limits import MAX_CERTIFICATE_SIZE_BYTES, MAX_NAME_LENGTH
from headwater.schemas.patterns import IN_WORDS, NAME
from headwater.trust.keys import PublicKey
from headwater.trust.problems import Untrusted

MAX_AUTHORITIES: Final = 16
"""In one file: an authority, its successor, and those between them and a root."""

_NODE: Final = TypeAdapter(NodeId)
_STUMBLES: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the parser raises over bytes of a stranger's: much of a certificate it reads only when asked for that part."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signed a certificate: the authority's name, encoded, and its days."""

    name: bytes
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a certificate names, once it was found good. `not_after` is its last moment, `serial` its number with
    its `issuer`."""

    node: str
    key: PublicKey
    serial: int
    not_before: datetime
    not_after: datetime
    issuer: Issuer | None = None


@dataclass(frozen=True, slots=True)
class Anchors:
    """The authorities that are believed, and the serial numbers that each has taken back, by the authority's name.

    `known_since` is the latest time that the authorities themselves testify to: their lists were signed then, so it is
    later now, whatever a clock without a battery says.
    """

    authorities: tuple[x509.Certificate, ...]
    revoked: frozenset[tuple[bytes, int]] = frozenset()
    known_since: datetime | None = None
    lists_end_at: datetime | None = None


@contextmanager
def malformed(sentence: str) -> Iterator[None]:
    """Whatever the parser stumbles over inside is Untrusted, with this sentence."""
    try:
        yield
    except Untrusted:
        raise
    except _STUMBLES:
        raise Untrusted("malformed", sentence) from None


def read_certificates(content: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file. Raises Untrusted where there is none, or too many."""
    with malformed(f"{what}: holds no PEM certificate; give one"):
        found = x509.load_pem_x509_certificates(content)
    if len(found) > MAX_AUTHORITIES:
        raise Untrusted("malformed", f"{what}: holds {len(found)} certificates; at most {MAX_AUTHORITIES}")
    return tuple(found)


def authorities_of(content: bytes, what: str) -> tuple[x509.Certificate, ...]:
    """Those of a PEM file, each of whom may issue certificates. Raises Untrusted where one may not."""
    found = read_certificates(content, what)
    for certificate in found:
        if not is_authority(certificate):
            raise Untrusted("wrong_kind", f"{what}: {name_of(certificate)} is no authority; give the CA's certificate")
    return found


def is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, *_STUMBLES):
        return False


def name_of(certificate: x509.Certificate) -> str:
    """Its common name, for people."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else "a certificate without a name"


def to_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def fingerprint(certificate: x509.Certificate) -> str:
    """Its SHA-256, in hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def read_der(der: bytes) -> x509.Certificate:
    """Raises Untrusted for what is no certificate, or a large one."""
    if len(der) > MAX_CERTIFICATE_SIZE_BYTES:
        raise Untrusted("malformed", f"certificate: {len(der)} bytes; at most {MAX_CERTIFICATE_SIZE_BYTES}")
    with malformed("certificate: these bytes are none"):
        return x509.load_der_x509_certificate(der)


def node_of(name: x509.Name, what: str) -> str:
    """The node that a subject names. Raises Untrusted unless it has one common name that a node may have."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1:
        raise Untrusted("wrong_name", f"{what}: has {len(found)} common names; it needs one, the node's name")
    try:
        return _NODE.validate_python(found[0].value, strict=True)
    except ValidationError:
        said = str(found[0].value)[:MAX_NAME_LENGTH]
        raise Untrusted("wrong_name", f"{what}: its common name {said!r} can be no node's; {IN_WORDS[NAME]}") from None


def holder_of(certificate: x509.Certificate) -> Holder:
    """What a certificate says, whoever signed it.

    Raises:
        Untrusted: it names no node, is an authority's, may not be a client's, or its key is of another kind.
    """
    with malformed("certificate: cannot be read in full; have it issued anew"):
        node = node_of(certificate.subject, "certificate")
        key = certificate.public_key()
        uses = _uses(certificate)
        days = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if is_authority(certificate):
        raise Untrusted("wrong_kind", f"certificate of {node}: is an authority's, and no node's")
    if uses is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise Untrusted("wrong_kind", f"certificate of {node}: is not for clients; issue one with that use")
    if not isinstance(key, Ed25519PublicKey):
        raise Untrusted(
            "wrong_kind", f"certificate of {node}: its key is of another kind; a node signs with Ed25519: make it anew"
        )
    return Holder(node, PublicKey(key), certificate.serial_number, *days)


def _uses(certificate: x509.Certificate) -> x509.ExtendedKeyUsage | None:
    """What it may be used for; None where it does not say."""
    try:
        return certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None


def identify(certificate: x509.Certificate, anchors: Anchors) -> Holder:
    """Who holds this certificate, where a known authority signed it; whether it counts now, `check` says.

    Raises:
        Untrusted: the sentence says what is wrong with it.
    """
    holder = holder_of(certificate)
    issuer = _issuer_of(certificate, anchors.authorities)
    if issuer is None:
        raise Untrusted("other_authority", f"certificate of {holder.node}: no authority that is known here signed it")
    days = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    return replace(holder, issuer=Issuer(issuer.subject.public_bytes(), *days))


def check(holder: Holder, anchors: Anchors, now: datetime) -> None:
    """Whether an identified holder's certificate counts now: of what was good this is all that may change.

    Raises:
        Untrusted: it is expired, not yet valid, or revoked, or its authority is.
    """
    issuer, what = holder.issuer, f"certificate of {holder.node}"
    if issuer is None:
        raise ValueError("issuer: unknown; identify the holder first")
    check_days(issuer.not_before, issuer.not_after, now, f"authority behind the {what}")
    check_days(holder.not_before, holder.not_after, now, what)
    if (issuer.name, holder.serial) in anchors.revoked:
        raise Untrusted("revoked", f"{what}: was revoked; issue another if the node is to be trusted again")


def verify(certificate: x509.Certificate, anchors: Anchors, now: datetime, *, node: str) -> Holder:
    """As `identify` and `check`, for the certificate that `node` should have. Raises Untrusted."""
    holder = identify(certificate, anchors)
    if holder.node != node:
        raise Untrusted("wrong_name", f"certificate of {holder.node}: where that of {node} belongs")
    check(holder, anchors, now)
    return holder


def check_days(not_before: datetime, not_after: datetime, now: datetime, what: str) -> None:
    """Raises Untrusted outside of these."""
    if now < not_before:
        raise Untrusted(
            "not_yet_valid",
            f"{what}: counts from {not_before:%Y-%m-%d %H:%M} UTC on, and here it is {now:%Y-%m-%d %H:%M}; "
            "set the clock that is wrong",
        )
    if now > not_after:
        raise Untrusted("expired", f"{what}: ended on {not_after:%Y-%m-%d %H:%M} UTC; issue another")


def _issuer_of(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> x509.Certificate | None:
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, *_STUMBLES):
            continue
        return authority
    return None


def days_left(not_after: datetime, now: datetime) -> float:
    return (not_after - now) / timedelta(days=1)
