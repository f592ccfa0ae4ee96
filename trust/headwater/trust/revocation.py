"""Law: what an authority takes back stands in a list that it signed; a number that is in it never leaves it.

Mosquitto reads the same file (`crlfile`). A list that is past its day still takes back what it names here; the broker
takes nobody then, so it is renewed in time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from headwater.trust.certificates import MAX_AUTHORITIES, Anchors
from headwater.trust.keys import Key
from headwater.trust.problems import Untrusted

LIST_DAYS: Final = 365
_BEGIN: Final = b"-----BEGIN X509 CRL-----"


def revocation_list(
    authority: x509.Certificate, key: Key, serials: Iterable[int], now: datetime, *, before: bytes | None = None
) -> bytes:
    """A PEM list of all that the list `before` names, and these.

    Raises:
        Untrusted: `before` is no list of this authority.
    """
    taken_back: dict[int, datetime] = {}
    number = 1
    if before is not None:
        (old,) = read_lists(before, (authority,), "crl")
        number = _number_of(old) + 1
        taken_back = {entry.serial_number: entry.revocation_date_utc for entry in old}
    for serial in serials:
        taken_back.setdefault(serial, now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now)
        .next_update(now + timedelta(days=LIST_DAYS))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public.key), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, at in sorted(taken_back.items()):
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        )
    return builder.sign(key.key, None).public_bytes(Encoding.PEM)


def read_lists(
    content: bytes, authorities: Sequence[x509.Certificate], what: str
) -> tuple[x509.CertificateRevocationList, ...]:
    """The lists of a PEM file, one or several behind each other.

    Raises:
        Untrusted: it holds none, or one that no known authority signed.
    """
    pieces = content.split(_BEGIN)[1:]
    if not 1 <= len(pieces) <= MAX_AUTHORITIES:
        raise Untrusted(
            "malformed", f"{what}: holds {len(pieces)} PEM lists (CRL); 1 to {MAX_AUTHORITIES} belong there"
        )
    return tuple(_read(_BEGIN + piece, authorities, what) for piece in pieces)


def with_lists(anchors: Anchors, content: bytes, what: str) -> Anchors:
    """The same authorities, with what these lists take back. Raises Untrusted as `read_lists` does."""
    lists = read_lists(content, anchors.authorities, what)
    ends = [end for one in lists if (end := one.next_update_utc) is not None]
    return replace(
        anchors,
        revoked=frozenset((one.issuer.public_bytes(), entry.serial_number) for one in lists for entry in one),
        known_since=max(one.last_update_utc for one in lists),
        lists_end_at=min(ends, default=None),
    )


def _read(piece: bytes, authorities: Sequence[x509.Certificate], what: str) -> x509.CertificateRevocationList:
    try:
        read = x509.load_pem_x509_crl(piece)
    except (ValueError, UnsupportedAlgorithm):
        raise Untrusted("malformed", f"{what}: holds no PEM list of revoked certificates (CRL); give one") from None
    if not any(_has_signed(authority, read) for authority in authorities):
        raise Untrusted("other_authority", f"{what}: no authority that is known here signed this list")
    return read


def _has_signed(authority: x509.Certificate, read: x509.CertificateRevocationList) -> bool:
    if authority.subject != read.issuer:
        return False
    try:
        return read.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, InvalidSignature, UnsupportedAlgorithm):
        return False


def _number_of(read: x509.CertificateRevocationList) -> int:
    try:
        return read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
