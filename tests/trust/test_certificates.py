"""Certificates as attack stories: who comes with what, and the sentence that sends them away."""

import base64
import warnings
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.trust.authority import (
    NODE_DAYS,
    issue,
    make_request,
    new_authority,
    read_request,
)
from headwater.trust.certificates import Anchors, authorities_of, read_der, to_der, to_pem, verify
from headwater.trust.keys import new_key
from headwater.trust.problems import Untrusted
from headwater.trust.revocation import read_lists, revocation_list, with_lists

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
AUTHORITY = new_authority("plant", new_key(), NOW)
OTHER = new_authority("plant", new_key(), NOW)
"""Of the same name, with another key."""

ANCHORS = Anchors((AUTHORITY.certificate,))
KEY = new_key()
PUMP = issue(AUTHORITY, "pump-1", KEY.public, NOW, hosts=("broker.local", "10.0.0.7", "::1"))


def why(certificate: x509.Certificate, *, anchors: Anchors = ANCHORS, now: datetime = NOW, node: str = "pump-1") -> str:
    with pytest.raises(Untrusted) as refused:
        verify(certificate, anchors, now, node=node)
    return refused.value.why


def test_a_nodes_certificate_names_it_and_its_key() -> None:
    holder = verify(read_der(to_der(PUMP)), ANCHORS, NOW, node="pump-1")
    assert (holder.node, holder.key, holder.serial) == ("pump-1", KEY.public, PUMP.serial_number)
    names = PUMP.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pump-1", "broker.local"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("10.0.0.7"), ip_address("::1")]


def self_signed() -> x509.Certificate:
    return new_authority("pump-1", KEY, NOW).certificate


def forged() -> x509.Certificate:
    """The authority's name as issuer, by a key that is not the authority's."""
    return issue(OTHER, "pump-1", KEY.public, NOW)


def signed_by_a_node() -> x509.Certificate:
    """A device passes its right on to a key that it made."""
    mine = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pump-1")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(PUMP.subject)
        .public_key(mine.public.key)
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(KEY.key, None)
    )


def _by_hand(
    *, names: tuple[str, ...] = ("pump-1",), key: object = KEY.public.key, use: object = None
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]))
        .issuer_name(AUTHORITY.certificate.subject)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if use is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)  # type: ignore[list-item]
    return builder.sign(AUTHORITY.key.key, None)


@pytest.mark.parametrize(
    ("certificate", "expected"),
    [
        (self_signed(), "wrong_kind"),
        (forged(), "other_authority"),
        (signed_by_a_node(), "other_authority"),
        (AUTHORITY.certificate, "wrong_kind"),
        (issue(AUTHORITY, "pump-2", KEY.public, NOW), "wrong_name"),
        (issue(AUTHORITY, "Pump-1", KEY.public, NOW), "wrong_name"),
        (_by_hand(names=("pump-1", "gw1")), "wrong_name"),
        (_by_hand(names=()), "wrong_name"),
        (_by_hand(names=("pump/1",)), "wrong_name"),
        (_by_hand(names=("+",)), "wrong_name"),
        (_by_hand(key=ec.generate_private_key(ec.SECP256R1()).public_key()), "wrong_kind"),
        (_by_hand(use=ExtendedKeyUsageOID.SERVER_AUTH), "wrong_kind"),
    ],
    ids=[
        "self-signed",
        "another authority of the same name",
        "signed by a device",
        "the authority's own",
        "another node's",
        "a name in other letters",
        "two names",
        "no name",
        "a name that spans topics",
        "a wild card as name",
        "a key that cannot sign",
        "for servers only",
    ],
)
def test_a_certificate_that_is_not_this_nodes_is_refused(certificate: x509.Certificate, expected: str) -> None:
    assert why(certificate) == expected


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW - timedelta(hours=2), "not_yet_valid"),
        (NOW + timedelta(days=NODE_DAYS, seconds=1), "expired"),
    ],
)
def test_a_certificate_counts_within_its_days(now: datetime, expected: str) -> None:
    old = new_authority("plant", AUTHORITY.key, NOW - timedelta(days=9)).certificate
    assert why(PUMP, anchors=Anchors((old,)), now=now) == expected


def test_a_certificate_counts_on_its_first_and_last_moment() -> None:
    for now in (PUMP.not_valid_before_utc, PUMP.not_valid_after_utc):
        assert verify(PUMP, ANCHORS, now, node="pump-1").node == "pump-1"


def test_nobody_outlives_the_authority() -> None:
    old = new_authority("plant", new_key(), NOW - timedelta(days=9), days=10)
    given = issue(old, "pump-1", KEY.public, NOW)
    assert given.not_valid_after_utc == old.certificate.not_valid_after_utc
    assert why(given, anchors=Anchors((old.certificate,)), now=NOW + timedelta(days=2)) == "expired"


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -1])
def test_a_truncated_certificate_is_refused(cut: int) -> None:
    with pytest.raises(Untrusted, match="these bytes are none"):
        read_der(to_der(PUMP)[:cut])


def test_an_oversize_certificate_is_not_parsed() -> None:
    with pytest.raises(Untrusted, match="at most 8192"):
        read_der(to_der(PUMP) + bytes(8192))


# ── what was taken back ─────────────────────────────────────────────────────────────────────────────────────────


def revoking(*serials: int, before: bytes | None = None, now: datetime = NOW) -> bytes:
    return revocation_list(AUTHORITY.certificate, AUTHORITY.key, serials, now, before=before)


def test_a_revoked_certificate_is_refused_and_the_next_one_of_that_node_is_not() -> None:
    anchors = with_lists(ANCHORS, revoking(PUMP.serial_number), "crl")
    assert why(PUMP, anchors=anchors) == "revoked"
    assert verify(issue(AUTHORITY, "pump-1", KEY.public, NOW), anchors, NOW, node="pump-1")


def test_what_was_taken_back_stays_so() -> None:
    second = revoking(77, before=revoking(PUMP.serial_number), now=NOW + timedelta(days=1))
    assert why(PUMP, anchors=with_lists(ANCHORS, second, "crl")) == "revoked"
    (read,) = read_lists(second, (AUTHORITY.certificate,), "crl")
    assert read.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    first_entry = read.get_revoked_certificate_by_serial_number(PUMP.serial_number)
    assert first_entry is not None
    assert first_entry.revocation_date_utc == NOW


def test_a_list_past_its_day_still_takes_back_and_says_when_it_ended() -> None:
    anchors = with_lists(ANCHORS, revoking(PUMP.serial_number), "crl")
    assert anchors.lists_end_at == NOW + timedelta(days=365)
    assert why(PUMP, anchors=anchors, now=NOW + timedelta(days=400)) == "revoked"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (revocation_list(OTHER.certificate, OTHER.key, [PUMP.serial_number], NOW), "other_authority"),
        (to_pem(PUMP), "malformed"),
        (b"", "malformed"),
        (revoking(1)[:-60], "malformed"),
    ],
    ids=["another authority's, of the same name", "a certificate", "nothing", "cut off"],
)
def test_a_list_that_is_none_of_ours_is_refused(content: bytes, expected: str) -> None:
    with pytest.raises(Untrusted) as refused:
        with_lists(ANCHORS, content, "crl")
    assert refused.value.why == expected


def test_two_authorities_each_take_back_their_own_alone() -> None:
    """A number is its authority's; the other's certificate of that number is another one."""
    next_one = new_authority("plant 2", new_key(), NOW)
    both = Anchors((AUTHORITY.certificate, next_one.certificate))
    content = revoking(5) + revocation_list(next_one.certificate, next_one.key, [PUMP.serial_number], NOW)
    anchors = with_lists(both, content, "crl")
    assert verify(PUMP, anchors, NOW, node="pump-1")
    assert why(PUMP, anchors=with_lists(both, revoking(PUMP.serial_number), "crl")) == "revoked"


# ── requests, and authorities from elsewhere ────────────────────────────────────────────────────────────────────


def test_a_request_gets_a_certificate_for_its_key_and_nothing_else_that_it_says() -> None:
    given = issue(AUTHORITY, *read_request(make_request("pump-9", KEY), node="pump-9"), NOW, hosts=("10.0.0.9",))
    assert verify(given, ANCHORS, NOW, node="pump-9").key == KEY.public
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pump-9")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("broker.local")]), critical=False)
        .sign(KEY.key, None)
        .public_bytes(Encoding.PEM)
    )
    given = issue(AUTHORITY, *read_request(greedy, node="pump-9"), NOW)
    assert verify(given, ANCHORS, NOW, node="pump-9")
    names = given.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["pump-9"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (make_request("gw1", KEY), "wrong_name"),
        (b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "malformed"),
        (make_request("pump-9", KEY) + bytes(4096), "malformed"),
        (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pump-9")]))
            .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
            .public_bytes(Encoding.PEM),
            "wrong_kind",
        ),
    ],
    ids=["another name than was promised", "no request", "oversize", "a key that cannot sign"],
)
def test_a_request_that_should_not_be_signed_is_not(content: bytes, expected: str) -> None:
    with pytest.raises(Untrusted) as refused:
        read_request(content, node="pump-9")
    assert refused.value.why == expected


def test_a_request_with_another_key_put_in_is_refused() -> None:
    """Someone on the way puts in a key of their own; the signature below is still the node's."""
    der = x509.load_pem_x509_csr(make_request("pump-9", KEY)).public_bytes(Encoding.DER)
    mine = new_key()
    swapped = x509.load_der_x509_csr(der.replace(KEY.public.raw, mine.public.raw)).public_bytes(Encoding.PEM)
    with pytest.raises(Untrusted) as refused:
        read_request(swapped, node="pump-9")
    assert refused.value.why == "wrong_signature"


def test_an_outside_authority_of_another_algorithm_will_do() -> None:
    """All that is asked of it: the node's name as common name, on an Ed25519 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Corporate Issuing CA 7")])
    days = (NOW - timedelta(days=1), NOW + timedelta(days=90))

    def certificate(subject: x509.Name, public: object, is_ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(days[0])
            .not_valid_after(days[1])
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )

    outside = certificate(name, key.public_key(), True)
    node = certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pump-1")]), KEY.public.key, False)
    anchors = Anchors(authorities_of(to_pem(AUTHORITY.certificate) + to_pem(outside), "trust.ca"))
    assert verify(node, anchors, NOW, node="pump-1").key == KEY.public
    assert verify(PUMP, anchors, NOW, node="pump-1").key == KEY.public


def test_a_nodes_certificate_is_no_anchor() -> None:
    with pytest.raises(Untrusted, match=r"trust\.ca: pump-1 is no authority"):
        authorities_of(to_pem(PUMP), "trust.ca")


@pytest.mark.parametrize("node", ["", "a/b", "+", "#", "x" * 65, "ü", "-pump"])
def test_no_certificate_is_issued_for_a_name_that_no_node_may_have(node: str) -> None:
    with pytest.raises(Untrusted):
        issue(AUTHORITY, node, KEY.public, NOW)


@settings(max_examples=300)
@given(st.integers(0, len(to_der(PUMP)) - 1), st.integers(0, 255))
def test_a_certificate_with_any_byte_changed_is_taken_or_refused_and_nothing_else(place: int, value: int) -> None:
    """It comes out of a device's status: whatever it stumbles over must not be the parent's fall."""
    changed = bytearray(to_der(PUMP))
    changed[place] = value
    with suppress(Untrusted), warnings.catch_warnings(action="ignore"):
        verify(read_der(bytes(changed)), ANCHORS, NOW, node="pump-1")


KEY_USE, NAMES = bytes.fromhex("0603551d0f"), bytes.fromhex("0603551d11")
"""The names of two extensions, as they are encoded."""


@pytest.mark.parametrize(
    ("was", "instead"),
    [
        pytest.param(NAMES, KEY_USE, id="an extension twice"),
        pytest.param(b"\x0c\x06pump-1", b"\x00\x06pump-1", id="a name of no kind"),
        pytest.param(b"\x0c\x06pump-1", b"\x03\x06pump-1", id="a name in bits"),
        pytest.param(bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), id="a version that there is not"),
    ],
)
def test_what_only_looks_like_a_certificate_is_malformed(was: bytes, instead: bytes) -> None:
    der = to_der(PUMP)
    assert was in der
    # Of two names the second is the subject.
    head, _, tail = der.rpartition(was)
    with pytest.raises(Untrusted) as refused:
        verify(read_der(head + instead + tail), ANCHORS, NOW, node="pump-1")
    assert refused.value.why == "malformed"


@settings(max_examples=300)
@given(st.data())
def test_a_request_with_any_byte_changed_is_taken_or_refused_and_nothing_else(data: st.DataObject) -> None:
    changed = bytearray(x509.load_pem_x509_csr(make_request("pump-1", KEY)).public_bytes(Encoding.DER))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%s-----END CERTIFICATE REQUEST-----\n"
    with suppress(Untrusted), warnings.catch_warnings(action="ignore"):
        read_request(pem % base64.encodebytes(changed))
