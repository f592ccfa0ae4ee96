"""Law: a token lets one node ask for one certificate, once, for a while; what its issuer keeps of it opens nothing.

Both ends show that they know the token without showing it, as SCRAM does (RFC 5802, section 3): kept are
`H(client key)` and the server's key, both derived from the secret. Of the first no proof can be made, and each proof is
of the very request, or the very answer, that it comes with.

Only the standard library is needed here.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from headwater.schemas.base import Frozen, HexSha256, NodeId, Role
from headwater.trust.hosts import MAX_HOSTS, check_hosts

ID_SIZE_BYTES: Final = 8
SECRET_SIZE_BYTES: Final = 20
"""160 bits from a source of randomness: there is nothing to guess, so no slow hash is needed."""

PROOF_SIZE_BYTES: Final = 32
_PREFIX: Final = "hw1"

TokenWhy = Literal["unknown", "expired", "used", "wrong_proof", "malformed"]


class TokenRefused(ValueError):
    """A token, or what was asked with it, is not taken."""

    def __init__(self, why: TokenWhy, sentence: str) -> None:
        super().__init__(sentence)
        self.why: TokenWhy = why


@dataclass(frozen=True, slots=True)
class Token:
    """What the one who asks has: a name for everyone to see, and a secret."""

    token_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Token({self.token_id}, …)"

    def text(self) -> str:
        """One line of capital letters and digits, for a file or a QR code in its short mode."""
        return f"{_PREFIX}-{self.token_id}-{base64.b32encode(self.secret).decode()}".upper()


class TokenRecord(Frozen):
    """What the issuer keeps of a token. `request` is the SHA-256 of the one that it was used for, "" before."""

    token_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    node: NodeId
    role: Role
    hosts: Annotated[tuple[str, ...], Field(max_length=MAX_HOSTS)] = ()
    valid_until: datetime
    stored_key: HexSha256
    server_key: HexSha256
    request: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


def make_token(
    node: str, role: Role, valid_until: datetime, randomness: bytes, *, hosts: tuple[str, ...] = ()
) -> tuple[Token, TokenRecord]:
    """A token, and what is kept of it.

    Args:
        randomness: 28 bytes that nobody knows.

    Raises:
        Untrusted: too many hosts, or one that is none.
        ValidationError: a name that no node may have, or no role.
    """
    check_hosts(hosts)
    if len(randomness) != ID_SIZE_BYTES + SECRET_SIZE_BYTES:
        raise ValueError(f"randomness: {len(randomness)} bytes; {ID_SIZE_BYTES + SECRET_SIZE_BYTES} are needed")
    token = Token(randomness[:ID_SIZE_BYTES].hex(), randomness[ID_SIZE_BYTES:])
    record = TokenRecord(
        token_id=token.token_id,
        node=node,
        role=role,
        hosts=hosts,
        valid_until=valid_until,
        stored_key=hashlib.sha256(_client_key(token)).hexdigest(),
        server_key=_server_key(token).hex(),
    )
    return token, record


def read_token(text: str) -> Token:
    """Raises TokenRefused for what is no token's text."""
    parts = text.strip().upper().split("-")
    try:
        prefix, token_id, secret = parts
        token = Token(bytes.fromhex(token_id).hex(), base64.b32decode(secret))
    except ValueError:
        raise TokenRefused("malformed", "token: is none; give the line that `headwater pki token` printed") from None
    if prefix != _PREFIX.upper() or len(token_id) != 2 * ID_SIZE_BYTES or len(token.secret) != SECRET_SIZE_BYTES:
        raise TokenRefused("malformed", "token: is cut off, or none; give the line that `headwater pki token` printed")
    return token


def prove(token: Token, request: bytes) -> bytes:
    """That whoever sends this request has the token."""
    key = _client_key(token)
    mask = _signature(hashlib.sha256(key).digest(), b"request", request)
    return bytes(a ^ b for a, b in zip(key, mask, strict=True))


def judge(record: TokenRecord | None, request: bytes, proof: bytes, now: datetime) -> Literal["first", "again"]:
    """Whether a request is granted: for the `first` time, or `again`, which gets the answer that it got.

    An answer may be had again until the token's end, since the first may have been lost; another request never.

    Raises:
        TokenRefused: the sentence may be sent to whoever asked: only who proved the token hears more than that it is
            not taken.
    """
    if record is None or not _is_proven(record, request, proof):
        why: TokenWhy = "unknown" if record is None else "wrong_proof"
        raise TokenRefused(why, "token: unknown here, or its secret is another; make a new one")
    if now > record.valid_until:
        raise TokenRefused("expired", f"token: ended on {record.valid_until:%Y-%m-%d %H:%M} UTC; make a new one")
    if not record.request:
        return "first"
    if hmac.compare_digest(record.request, hashlib.sha256(request).hexdigest()):
        return "again"
    raise TokenRefused("used", f"token: was used already for {record.node}; make a new one")


def used_for(record: TokenRecord, request: bytes) -> TokenRecord:
    """The record of a token that this request has used up."""
    return record.model_copy(update={"request": hashlib.sha256(request).hexdigest()})


def prove_answer(record: TokenRecord, request: bytes, answer: bytes) -> bytes:
    """That whoever answers is the token's issuer."""
    return _signature(bytes.fromhex(record.server_key), b"answer", hashlib.sha256(request).digest() + answer)


def is_answer_proven(token: Token, request: bytes, answer: bytes, proof: bytes) -> bool:
    """Whether the token's issuer gave this answer to this request."""
    expected = _signature(_server_key(token), b"answer", hashlib.sha256(request).digest() + answer)
    return hmac.compare_digest(expected, proof)


def _is_proven(record: TokenRecord, request: bytes, proof: bytes) -> bool:
    if len(proof) != PROOF_SIZE_BYTES:
        return False
    stored = bytes.fromhex(record.stored_key)
    mask = _signature(stored, b"request", request)
    key = bytes(a ^ b for a, b in zip(proof, mask, strict=True))
    return hmac.compare_digest(hashlib.sha256(key).digest(), stored)


def _client_key(token: Token) -> bytes:
    return _signature(token.secret, b"client key", token.token_id.encode())


def _server_key(token: Token) -> bytes:
    return _signature(token.secret, b"server key", token.token_id.encode())


def _signature(key: bytes, domain: bytes, text: bytes) -> bytes:
    return hmac.new(key, b"headwater token 1 " + domain + b"\0" + text, hashlib.sha256).digest()
