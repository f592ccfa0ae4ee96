"""A one-time token: what its holder can prove, what its issuer can, and what neither can with the other's part."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.trust.tokens import (
    Token,
    TokenRecord,
    TokenRefused,
    is_answer_proven,
    judge,
    make_token,
    prove,
    prove_answer,
    read_token,
    used_for,
)

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
REQUEST, ANSWER = b"please sign my key", b"here is your certificate"
TOKEN, RECORD = make_token("pump-1", "device", NOW + timedelta(hours=24), bytes(range(28)), hosts=("10.0.0.7",))


def refusal(record: TokenRecord | None, request: bytes, proof: bytes, now: datetime = NOW) -> str:
    with pytest.raises(TokenRefused) as refused:
        judge(record, request, proof, now)
    return refused.value.why


def test_a_token_is_good_once_and_its_answer_may_be_had_again() -> None:
    assert judge(RECORD, REQUEST, prove(TOKEN, REQUEST), NOW) == "first"
    used = used_for(RECORD, REQUEST)
    assert judge(used, REQUEST, prove(TOKEN, REQUEST), NOW) == "again"
    other = b"please sign another key"
    assert refusal(used, other, prove(TOKEN, other)) == "used"


def test_a_token_ends() -> None:
    assert judge(RECORD, REQUEST, prove(TOKEN, REQUEST), RECORD.valid_until) == "first"
    late = RECORD.valid_until + timedelta(seconds=1)
    assert refusal(RECORD, REQUEST, prove(TOKEN, REQUEST), late) == "expired"
    assert refusal(used_for(RECORD, REQUEST), REQUEST, prove(TOKEN, REQUEST), late) == "expired"


@pytest.mark.parametrize(
    ("record", "request_", "proof", "why"),
    [
        (None, REQUEST, prove(TOKEN, REQUEST), "unknown"),
        (RECORD, REQUEST + b"!", prove(TOKEN, REQUEST), "wrong_proof"),
        (RECORD, REQUEST, prove(Token(TOKEN.token_id, bytes(20)), REQUEST), "wrong_proof"),
        (RECORD, REQUEST, b"", "wrong_proof"),
        (RECORD, REQUEST, bytes(32), "wrong_proof"),
        (RECORD, REQUEST, prove_answer(RECORD, REQUEST, REQUEST), "wrong_proof"),
    ],
    ids=["unknown token", "swapped request", "guessed secret", "no proof", "zeros", "the answer's proof turned round"],
)
def test_a_forged_request_is_refused(record: TokenRecord | None, request_: bytes, proof: bytes, why: str) -> None:
    assert refusal(record, request_, proof) == why


def test_who_proves_nothing_learns_nothing_of_a_token() -> None:
    """Neither that it exists, nor that it was used, nor that it ended."""
    told = set()
    for record in (None, RECORD, used_for(RECORD, REQUEST)):
        for now in (NOW, NOW + timedelta(days=9)):
            with pytest.raises(TokenRefused) as refused:
                judge(record, REQUEST, bytes(32), now)
            told.add(str(refused.value))
    assert len(told) == 1


def test_what_the_issuer_keeps_makes_no_proof() -> None:
    kept = (bytes.fromhex(RECORD.stored_key), bytes.fromhex(RECORD.server_key))
    for guess in (*kept, *(Token(TOKEN.token_id, part) for part in kept)):
        proof = guess if isinstance(guess, bytes) else prove(guess, REQUEST)
        assert refusal(RECORD, REQUEST, proof) == "wrong_proof"
    assert TOKEN.secret.hex() not in RECORD.model_dump_json()


def test_a_false_issuer_cannot_answer() -> None:
    proof = prove_answer(RECORD, REQUEST, ANSWER)
    assert is_answer_proven(TOKEN, REQUEST, ANSWER, proof)
    assert not is_answer_proven(TOKEN, REQUEST, ANSWER + b"!", proof)
    assert not is_answer_proven(TOKEN, REQUEST + b"!", ANSWER, proof)
    _, of_another = make_token("pump-1", "device", NOW, bytes(28))
    assert not is_answer_proven(TOKEN, REQUEST, ANSWER, prove_answer(of_another, REQUEST, ANSWER))
    # What went up proves nothing on the way down.
    assert not is_answer_proven(TOKEN, REQUEST, REQUEST, prove(TOKEN, REQUEST))


@given(st.binary(min_size=28, max_size=28))
def test_a_tokens_text_is_read_as_what_it_was(randomness: bytes) -> None:
    token, record = make_token("pump-1", "device", NOW, randomness)
    assert read_token(f" {token.text().lower()}\n") == token
    assert TokenRecord.model_validate_json(record.model_dump_json()) == record
    # A QR code has a short mode for these characters.
    assert set(token.text()) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")


@given(st.text(max_size=80))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused, match="headwater pki token"):
        read_token(text)


def test_a_token_that_was_cut_off_is_refused() -> None:
    text = TOKEN.text()
    for end in range(len(text)):
        with pytest.raises(TokenRefused):
            read_token(text[:end])


def test_a_token_is_not_shown_by_chance() -> None:
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert str(TOKEN.secret) not in repr(TOKEN)
