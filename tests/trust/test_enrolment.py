"""Enrolment by a one-time token, as stories of who tries what; and what each end takes from the other."""

from datetime import UTC, datetime, timedelta

import pytest

from headwater.schemas.messages import EnrolmentAnswer, EnrolmentRequest
from headwater.trust import enrolment
from headwater.trust.authority import Authority, issue, new_authority, read_request
from headwater.trust.certificates import to_pem
from headwater.trust.keys import Key, new_key
from headwater.trust.problems import Untrusted
from headwater.trust.tokens import Token, TokenRecord, TokenRefused, make_token, used_for

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
END = NOW + timedelta(hours=24)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority("plant", new_key(), NOW)


def token_for(node: str, number: int = 1) -> tuple[Token, TokenRecord]:
    return make_token(node, "device", END, bytes([number]) * 28)


def answered(authority: Authority, record: TokenRecord, asked: EnrolmentRequest) -> EnrolmentAnswer:
    certificate = issue(authority, *read_request(asked.request, node=record.node), NOW)
    return enrolment.grant(record, asked, certificate, (authority.certificate,))


def asked_of(node: str = "pump-1", number: int = 1) -> tuple[Token, TokenRecord, Key, EnrolmentRequest]:
    token, record = token_for(node, number)
    key = new_key()
    return token, record, key, enrolment.ask(token, node, key)


def test_a_node_gets_the_certificate_of_its_name_for_its_own_key(authority: Authority) -> None:
    token, record, key, asked = asked_of()
    assert enrolment.judge(record, asked, NOW) == "first"
    got = enrolment.take(token, asked, answered(authority, record, asked), key)
    assert (got.holder.node, got.holder.key.raw) == ("pump-1", key.public.raw)
    assert got.authorities == to_pem(authority.certificate)


def test_the_same_request_comes_from_the_same_key_and_is_answered_again(authority: Authority) -> None:
    token, record, key, asked = asked_of()
    assert enrolment.ask(token, "pump-1", key) == asked
    assert enrolment.judge(used_for(record, asked.request), asked, NOW) == "again"
    issued = to_pem(issue(authority, *read_request(asked.request, node="pump-1"), NOW))
    assert to_pem(enrolment.granted_before(issued, asked)) == issued


# ── at the desk ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_another_request_with_a_used_token_is_refused() -> None:
    token, record, _, asked = asked_of()
    thief = enrolment.ask(token, "pump-1", new_key())
    with pytest.raises(TokenRefused, match="was used already for pump-1"):
        enrolment.judge(used_for(record, asked.request), thief, NOW)


def test_a_token_that_ended_is_refused() -> None:
    _, record, _, asked = asked_of()
    assert enrolment.judge(record, asked, END) == "first"
    with pytest.raises(TokenRefused, match=r"token: ended on 2026-11-27 12:00 UTC; make a new one"):
        enrolment.judge(record, asked, END + timedelta(seconds=1))


def test_a_token_for_another_name_is_refused_and_not_used_up() -> None:
    token, record, _, asked = asked_of()
    with pytest.raises(Untrusted, match="request: for cloud, where one for pump-1 belongs"):
        enrolment.judge(record, enrolment.ask(token, "cloud", new_key()), NOW)
    assert enrolment.judge(record, asked, NOW) == "first"


@pytest.mark.parametrize("story", ["unknown", "guessed", "request swapped", "not a request"])
def test_who_has_no_token_is_refused_and_hears_no_more(story: str) -> None:
    token, record, key, asked = asked_of()
    other, _, _, anothers = asked_of(number=2)
    attempts = {
        "unknown": (None, asked),
        "guessed": (record, enrolment.ask(Token(token.token_id, other.secret), "pump-1", key)),
        "request swapped": (record, asked.model_copy(update={"request": anothers.request})),
        "not a request": (record, asked.model_copy(update={"request": b"nonsense"})),
    }
    with pytest.raises(TokenRefused, match="token: unknown here, or its secret is another"):
        enrolment.judge(*attempts[story], NOW)


def test_a_certificate_that_was_taken_back_or_replaced_is_not_had_again(authority: Authority) -> None:
    _, record, _, asked = asked_of()
    replaced = to_pem(issue(authority, record.node, new_key().public, NOW))
    for issued in (None, replaced):
        with pytest.raises(Untrusted, match="was used already for pump-1; make a new one"):
            enrolment.granted_before(issued, asked)


# ── at the node ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("story", ["no proof", "another's proof", "another authority", "cut", "made a refusal"])
def test_a_false_broker_cannot_answer(authority: Authority, story: str) -> None:
    token, record, key, asked = asked_of()
    right = answered(authority, record, asked)
    _, others, _, _ = asked_of(number=2)
    false = new_authority("plant", new_key(), NOW)
    answers = {
        "no proof": right.model_copy(update={"proof": b""}),
        "another's proof": answered(authority, others, asked),
        "another authority": right.model_copy(update={"authorities": to_pem(false.certificate)}),
        "cut": right.model_copy(update={"certificate": right.certificate[:-30]}),
        "made a refusal": EnrolmentAnswer(refusal="never", proof=right.proof),
    }
    with pytest.raises(
        Untrusted, match="said without proof" if story == "made a refusal" else "look for a false broker"
    ):
        enrolment.take(token, asked, answers[story], key)


def test_an_answer_to_another_request_is_none_to_this(authority: Authority) -> None:
    token, record, key, asked = asked_of()
    with pytest.raises(Untrusted, match="look for a false broker"):
        enrolment.take(token, enrolment.ask(token, "pump-1", new_key()), answered(authority, record, asked), key)


def test_a_refusal_of_the_tokens_maker_is_known_as_such() -> None:
    token, record, key, asked = asked_of()
    with pytest.raises(Untrusted, match=r"^token: ended; make a new one$"):
        enrolment.take(token, asked, enrolment.refuse(record, asked, "token: ended; make a new one"), key)


def test_an_authority_that_errs_is_not_believed(authority: Authority) -> None:
    """Its proof is right, and what it proves is a certificate for somebody else's key, or name."""
    token, record, key, asked = asked_of()
    for node, its in (("pump-1", new_key()), ("pump-2", key)):
        certificate = issue(authority, node, its.public, NOW)
        with pytest.raises(Untrusted, match="for another name or key than was asked"):
            enrolment.take(token, asked, enrolment.grant(record, asked, certificate, (authority.certificate,)), key)


def test_a_board_whose_clock_is_not_set_yet_can_enrol(authority: Authority) -> None:
    """Whether the certificate's days have begun is for whoever has a clock; taking it needs none."""
    token, record, key, asked = asked_of()
    certificate = issue(authority, *read_request(asked.request, node="pump-1"), NOW + timedelta(days=9))
    assert enrolment.take(token, asked, enrolment.grant(record, asked, certificate, (authority.certificate,)), key)
