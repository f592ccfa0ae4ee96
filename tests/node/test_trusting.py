"""What a node with trust settings takes: tables of forgeries, each by who could make it, and what is said of it."""

import asyncio
import base64
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.node.envelope import Unproven, believed, epoch_at, opened, unsigned
from headwater.node.store import MAX_PARENTS, NodeStore
from headwater.node.trusting import KEEP_EVERY_S, Trust
from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Announcement, Delta, RoundKey, Signed
from headwater.schemas.wire import WireError, decode, encode
from headwater.trust.authority import issue
from headwater.trust.certificates import to_der
from headwater.trust.signing import sign, statement
from support.pki import NOW, Pki

KEY = RoundKey(run="r", round=3)
PLANT = Pki()
OTHER_FLEET = Pki("mill")
OTHER_FLEET.authority = PLANT.authority
"""A second fleet below the same authority."""

STRANGER = Pki()
"""Another authority of the same name."""

DELTA = encode(Delta(key=KEY, sender="d1", task="evaluate", weight=1.0, examples=1, devices=1))
WORD = Announcement(parent="gw", closed=KEY)


def text_of(node: str, pki: Pki = PLANT) -> str:
    return base64.b64encode(to_der(pki.certificate(node))).decode()


def delta(pki: Pki = PLANT, sender: str = "d1", signer: str = "d1", **changes: object) -> Signed:
    named: dict[str, object] = {"receiver": "gw", "round_": KEY} | changes
    payload = named.pop("payload", DELTA)
    domain = named.pop("domain", "delta")
    return sign(pki.key(signer), pki.fleet, domain, sender, payload, **named)  # type: ignore[arg-type]


def announcement(pki: Pki = PLANT, sender: str = "gw", signer: str = "gw", **changes: object) -> Signed:
    named: dict[str, object] = {"epoch": 7, "number": 3, "certificate": to_der(pki.certificate(signer))} | changes
    domain = named.pop("domain", "announcement")
    payload = named.pop("payload", encode(WORD))
    return sign(pki.key(signer), pki.fleet, domain, sender, payload, **named)  # type: ignore[arg-type]


def changed(signed: Signed, **changes: object) -> Signed:
    """Someone on the way writes something else into it."""
    return signed.model_copy(update=changes)


# ── deltas, as a parent reads them ──────────────────────────────────────────────────────────────────────────────

UNPROVEN: dict[str, tuple[Signed, str]] = {
    "the delta of another round, its number changed": (
        changed(delta(), key=KEY.model_copy(update={"round": 4})),
        "signature",
    ),
    "the delta of another run, its name changed": (
        changed(delta(), key=KEY.model_copy(update={"run": "s"})),
        "signature",
    ),
    "a retry's": (changed(delta(), key=KEY.model_copy(update={"attempt": 1})), "signature"),
    "another payload under the signature": (changed(delta(), payload=DELTA + b"\0"), "signature"),
    "one for another parent": (delta(receiver="gw2"), "signed for gw2, not for gw"),
    "one for another parent, the name changed": (changed(delta(receiver="gw2"), receiver="gw"), "signature"),
    "one for nobody": (delta(receiver=None), "signed for nobody"),
    "one for no round": (delta(round_=None), "no round"),
    "another device's": (delta(sender="d2", signer="d2"), "of d2, on d1's topic"),
    "another device's, the name changed": (changed(delta(sender="d2", signer="d2"), sender="d1"), "signature"),
    "signed in its name by another device": (delta(signer="d2"), "signature"),
    "signed in its name by its own gateway": (delta(signer="gw"), "signature"),
    "of another fleet below the same authority": (delta(OTHER_FLEET), "signature"),
    "an announcement of its own": (delta(domain="announcement"), "signed as the announcement"),
    "an announcement, called a delta": (changed(delta(domain="announcement"), domain="delta"), "signature"),
    "no signature at all": (changed(delta(), signature=bytes(64)), "signature"),
    "one bit of the signature": (
        changed(delta(), signature=bytes([delta().signature[0] ^ 1]) + delta().signature[1:]),
        "signature",
    ),
}


@pytest.mark.parametrize("name", UNPROVEN)
def test_a_forged_delta_is_not_taken_and_its_alleged_sender_does_not_lose_its_own(name: str) -> None:
    forged, said = UNPROVEN[name]
    with pytest.raises(Unproven, match=said):
        PLANT.trust("gw").proof("d1", text_of("d1")).opened(encode(forged))


def test_the_honest_delta_is_taken() -> None:
    """Without which the table above would hold for a parent that takes nothing."""
    assert PLANT.trust("gw").proof("d1", text_of("d1")).opened(encode(delta())) == DELTA
    assert PLANT.trust("gw").proof("d1", text_of("d1")).opened(PLANT.trust("d1").sealed(KEY, DELTA, "gw")) == DELTA


LATER = NOW + timedelta(days=400)
LONG_AGO = datetime(1970, 1, 1, tzinfo=NOW.tzinfo)


@pytest.mark.parametrize(
    ("certificate", "trust", "said"),
    [
        ("", PLANT.trust("gw"), "d1 has no certificate; give it trust settings"),
        ("no base64!", PLANT.trust("gw"), "is no base64"),
        ("é", PLANT.trust("gw"), "is no base64"),
        (text_of("d1")[:100], PLANT.trust("gw"), "these bytes are none"),
        (text_of("d2"), PLANT.trust("gw"), "certificate of d2: where that of d1 belongs"),
        (text_of("d1", STRANGER), PLANT.trust("gw"), "no authority that is known here"),
        (text_of("d1"), PLANT.trust("gw", revoked=("d1",)), "was revoked"),
        (text_of("d1"), PLANT.trust("gw", clock=lambda: LATER), "ended on 2027-11-26"),
    ],
    ids=["none", "no base64", "not even ASCII", "cut off", "another's", "another authority's", "revoked", "expired"],
)
def test_a_delta_from_a_child_without_a_certificate_that_counts_is_not_taken(
    certificate: str, trust: Trust, said: str
) -> None:
    assert not trust.is_known("d1", certificate)
    with pytest.raises(WireError, match=said) as refused:
        trust.proof("d1", certificate).opened(encode(delta()))
    assert (refused.value.reason, isinstance(refused.value, Unproven)) == ("unauthorised", False)


def test_a_clock_that_woke_up_in_the_past_ends_nothing() -> None:
    """A board without a battery for its clock: the authorities have signed since, so it is later."""
    trust = PLANT.trust("gw", clock=lambda: LONG_AGO)
    assert trust.proof("d1", text_of("d1")).opened(encode(delta())) == DELTA
    assert PLANT.trust("d1", clock=lambda: LONG_AGO).taken(encode(announcement()), "gw") == WORD


def test_a_certificate_that_is_newer_than_all_that_is_known_of_the_time_waits_for_the_clock() -> None:
    behind = PLANT.trust("gw", clock=lambda: NOW - timedelta(days=20))
    newer = issue(PLANT.authority, "d1", PLANT.key("d1").public, NOW + timedelta(days=5))
    with pytest.raises(WireError, match="set the clock that is wrong"):
        behind.proof("d1", base64.b64encode(to_der(newer)).decode()).opened(encode(delta()))


@pytest.mark.parametrize("payload", [DELTA, b"", b"\x8c", encode(WORD)])
def test_what_is_not_signed_is_refused_with_the_mend(payload: bytes) -> None:
    with pytest.raises(WireError, match="give the sender trust settings"):
        PLANT.trust("gw").proof("d1", text_of("d1")).opened(payload)
    with pytest.raises(WireError, match="give the sender trust settings"):
        PLANT.trust("d1").taken(payload, "gw")


# ── announcements, as a child reads them ────────────────────────────────────────────────────────────────────────

FORGED: dict[str, tuple[Signed, str]] = {
    "another word under the signature": (
        changed(announcement(), payload=encode(Announcement(parent="gw"))),
        "signature",
    ),
    "a newer number on an old word": (changed(announcement(), number=99), "signature"),
    "a newer epoch on an old word": (changed(announcement(), epoch=99), "signature"),
    "by a device of the cluster, in the parent's name": (announcement(signer="d2"), "certificate of d2"),
    "by a device, with the parent's certificate": (
        announcement(signer="d2", certificate=to_der(PLANT.certificate("gw"))),
        "signature",
    ),
    "by another gateway": (announcement(sender="gw2", signer="gw2"), "signed as the announcement of gw2"),
    "by another authority's gateway of that name": (announcement(STRANGER), "no authority that is known here"),
    "by the authority's gateway of another fleet": (announcement(OTHER_FLEET), "signature"),
    "without a certificate": (changed(announcement(), certificate=b""), "has no certificate"),
    "with half a certificate": (changed(announcement(), certificate=to_der(PLANT.certificate("gw"))[:99]), "none"),
    "a delta of the parent's": (announcement(domain="delta"), "signed as the delta"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_announcement_is_not_taken_and_hinders_no_later_one(name: str) -> None:
    forged, said = FORGED[name]
    trust = PLANT.trust("d1")
    with pytest.raises(WireError, match=said) as refused:
        trust.taken(encode(forged), "gw")
    assert refused.value.reason == "unauthorised"
    assert trust.taken(encode(announcement(epoch=1, number=1)), "gw") == WORD


@pytest.mark.parametrize(
    ("trust", "said"),
    [
        (PLANT.trust("d1", revoked=("gw",)), "was revoked"),
        (PLANT.trust("d1", clock=lambda: LATER), "ended on"),
    ],
)
def test_a_word_of_a_parent_whose_certificate_does_not_count_is_not_taken(trust: Trust, said: str) -> None:
    with pytest.raises(WireError, match=said):
        trust.taken(encode(announcement()), "gw")


@pytest.mark.parametrize(
    ("word", "is_taken"),
    [
        ((7, 3), True),
        ((7, 4), True),
        ((8, 0), True),
        ((7, 2), False),
        ((6, 99), False),
        ((0, 0), False),
    ],
    ids=["the same again", "the next", "after its restart", "the last", "before its restart", "of none"],
)
def test_an_old_word_is_not_taken_again(word: tuple[int, int], is_taken: bool) -> None:
    trust = PLANT.trust("d1")
    trust.taken(encode(announcement()), "gw")
    again = encode(announcement(epoch=word[0], number=word[1]))
    if is_taken:
        assert trust.taken(again, "gw") == WORD
    else:
        with pytest.raises(WireError, match=r"before 7\.3; if it lost its state, set its clock") as refused:
            trust.taken(again, "gw")
        assert refused.value.reason == "stale"


def test_each_parent_counts_by_itself() -> None:
    trust = PLANT.trust("d1")
    trust.taken(encode(announcement()), "gw")
    elsewhere = Announcement(parent="gw2")
    trust.taken(encode(announcement(sender="gw2", signer="gw2", epoch=1, payload=encode(elsewhere))), "gw2")
    with pytest.raises(WireError, match="before"):
        trust.taken(encode(announcement(epoch=1)), "gw")


# ── reboots ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_rebooted_child_takes_no_word_from_before(tmp_path: Path) -> None:
    store = NodeStore(tmp_path / "d1.db", 10**6)
    trust = PLANT.trust("d1", store)
    trust.taken(encode(announcement()), "gw")
    assert trust.keeps("gw", 0.0)
    await trust.keep("gw")
    assert not trust.keeps("gw", 10 * KEEP_EVERY_S)
    store.close()
    rebooted = PLANT.trust("d1", NodeStore(tmp_path / "d1.db", 10**6))
    with pytest.raises(WireError, match=r"6\.9, before 7\.3"):
        rebooted.taken(encode(announcement(epoch=6, number=9)), "gw")
    assert rebooted.taken(encode(announcement()), "gw") == WORD


async def test_a_disk_is_written_for_a_new_epoch_at_once_and_else_now_and_then(tmp_path: Path) -> None:
    trust, now = PLANT.trust("d1", NodeStore(tmp_path / "d1.db", 10**6)), asyncio.get_running_loop().time()
    trust.taken(encode(announcement()), "gw")
    await trust.keep("gw")
    trust.taken(encode(announcement(number=4)), "gw")
    assert not trust.keeps("gw", now + KEEP_EVERY_S / 2)
    assert trust.keeps("gw", now + 2 * KEEP_EVERY_S)
    trust.taken(encode(announcement(epoch=8, number=0)), "gw")
    assert trust.keeps("gw", now)


def test_words_of_many_parents_are_bounded(tmp_path: Path) -> None:
    store = NodeStore(tmp_path / "d1.db", 10**6)
    for number in range(MAX_PARENTS + 5):
        store.keep_heard(f"gw{number}", number, 1)
    assert set(store.heard()) == {f"gw{number}" for number in range(5, MAX_PARENTS + 5)}


def test_an_epoch_rises_with_each_start_whatever_the_clock_says(tmp_path: Path) -> None:
    store = NodeStore(tmp_path / "gw.db", 10**6)
    first = store.next_epoch(lambda last: epoch_at(NOW, last))
    behind = store.next_epoch(lambda last: epoch_at(LONG_AGO, last))
    ahead = store.next_epoch(lambda last: epoch_at(LATER, last))
    assert first < behind == first + 1 < ahead
    lost = NodeStore(tmp_path / "anew.db", 10**6)
    assert lost.next_epoch(lambda last: epoch_at(LATER + timedelta(seconds=9), last)) > ahead


# ── certificates that change while a node runs ──────────────────────────────────────────────────────────────────


def test_a_list_that_is_put_in_place_counts_from_the_next_look_on() -> None:
    state = {"revoked": (), "stamp": 0}
    trust = Trust(
        lambda: PLANT.guard("gw", revoked=state["revoked"]),  # type: ignore[arg-type]
        stamp=lambda: state["stamp"],
        clock=lambda: NOW,
    )
    assert trust.is_known("d1", text_of("d1"))
    state.update(revoked=("d1",), stamp=1)
    assert trust.is_known("d1", text_of("d1"))
    assert trust.look()
    assert not trust.is_known("d1", text_of("d1"))
    assert trust.is_known("d2", text_of("d2"))
    assert not trust.look()


def test_files_of_no_use_leave_the_old_in_force() -> None:
    stamps = iter(range(100))
    guards = iter([PLANT.guard("gw")])

    def open_guard():  # type: ignore[no-untyped-def]
        try:
            return next(guards)
        except StopIteration:
            raise ConfigError("trust.ca: holds no PEM certificate") from None

    trust = Trust(open_guard, stamp=lambda: next(stamps), clock=lambda: NOW)
    assert not trust.look()
    assert trust.is_known("d1", text_of("d1"))


def test_what_ends_soon_is_said() -> None:
    soon = PLANT.guard("gw").warnings(NOW + timedelta(days=350))
    assert soon == (
        "the certificate of gw ends in 15 days, on 2027-11-26; have it made anew",
        "the list of revoked certificates ends in 14 days, on 2027-11-25; have it made anew",
    )
    assert PLANT.guard("gw").warnings(NOW) == ()
    assert "has ended" in PLANT.guard("gw").warnings(LATER)[0]


# ── nodes that have no trust settings ───────────────────────────────────────────────────────────────────────────


def test_without_trust_settings_a_signed_word_is_believed_and_a_signed_delta_is_not_taken() -> None:
    assert believed(encode(announcement())) == believed(encode(WORD)) == WORD
    assert unsigned(DELTA) == DELTA
    with pytest.raises(WireError, match="this parent has no trust settings"):
        unsigned(encode(delta()))


def test_what_the_journal_has_is_opened_unchecked() -> None:
    assert opened(encode(delta())) == opened(DELTA) == DELTA


# ── the codec ───────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(min_size=1, max_size=2000), st.integers(0, 2**53), st.integers(0, 2**53))
def test_what_was_signed_is_what_is_read(payload: bytes, epoch: int, number: int) -> None:
    signed = PLANT.guard("gw").sign_announcement(epoch, number, payload)
    assert decode(encode(signed), Signed) == signed
    PLANT.guard("d1").check_signature(signed, PLANT.guard("d1").holder(signed.certificate, "gw"))


SEALED = PLANT.trust("d1").sealed(KEY, DELTA, "gw")


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_no_byte_of_a_signed_delta_can_be_another(position: int, flip: int) -> None:
    damaged = SEALED[:position] + bytes([SEALED[position] ^ flip]) + SEALED[position + 1 :]
    with pytest.raises(WireError):
        PLANT.trust("gw").proof("d1", text_of("d1")).opened(damaged)


@given(st.integers(0, len(SEALED) - 1))
def test_no_part_of_a_signed_delta_is_one(end: int) -> None:
    with pytest.raises(WireError):
        PLANT.trust("gw").proof("d1", text_of("d1")).opened(SEALED[:end])


def test_statements_differ_wherever_their_words_do() -> None:
    """No two words share a statement: moving a character from one field to the next makes another."""
    words: list[tuple[str, Callable[[], Signed]]] = [
        ("plant", delta),
        ("plant", lambda: delta(receiver="g", round_=KEY.model_copy(update={"run": "wr"}))),
        ("plan", lambda: delta(sender="td1")),
        ("plant", lambda: delta(round_=KEY.model_copy(update={"step": 1}))),
        ("plant", lambda: delta(epoch=1)),
        ("plant", lambda: delta(number=1)),
        ("plant", lambda: delta(payload=DELTA[:-1])),
    ]
    assert len({statement(make(), fleet) for fleet, make in words}) == len(words)
