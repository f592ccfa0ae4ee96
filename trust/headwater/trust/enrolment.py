"""Law: a node's key is made where it stays; what is asked with a token is granted once, and each end proves itself.

The one who asks shows that it has the token, and by its request that it has the key; the one who answers shows that it
made the token, and answers this request. Who is between them can keep them apart, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509

from headwater.schemas.messages import EnrolmentAnswer, EnrolmentRequest
from headwater.schemas.wire import encode
from headwater.trust import tokens
from headwater.trust.authority import make_request, read_request
from headwater.trust.certificates import Anchors, Holder, authorities_of, holder_of, identify, read_certificates, to_pem
from headwater.trust.keys import Key
from headwater.trust.problems import Untrusted
from headwater.trust.tokens import Token, TokenRecord


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a node got: PEM files, and what its certificate says."""

    certificate: bytes
    authorities: bytes
    holder: Holder


def ask(token: Token, node: str, key: Key) -> EnrolmentRequest:
    """The same each time for the same key: a node that was cut off asks again with it. Raises Untrusted."""
    request = make_request(node, key)
    return EnrolmentRequest(node=node, request=request, proof=tokens.prove(token, request))


def judge(record: TokenRecord | None, asked: EnrolmentRequest, now: datetime) -> Literal["first", "again"]:
    """Whether a request is granted, as `tokens.judge` says; a token for another name is not used up.

    Raises:
        TokenRefused, Untrusted: the sentence may be sent to whoever asked.
    """
    verdict = tokens.judge(record, asked.request, asked.proof, now)
    assert record is not None
    read_request(asked.request, node=record.node)
    return verdict


def granted_before(issued: bytes | None, asked: EnrolmentRequest) -> x509.Certificate:
    """What this very request was answered with: in `issued`, the node's newest certificate in PEM.

    Raises:
        Untrusted: it is not there, or for another key: it was taken back since, or another was issued.
    """
    node, key = read_request(asked.request)
    if issued is not None:
        certificate = read_certificates(issued, "issued")[0]
        holder = holder_of(certificate)
        if (holder.node, holder.key.raw) == (node, key.raw):
            return certificate
    raise Untrusted("stale", f"token: was used already for {node}; make a new one")


def grant(
    record: TokenRecord, asked: EnrolmentRequest, certificate: x509.Certificate, authorities: Sequence[x509.Certificate]
) -> EnrolmentAnswer:
    """The answer that carries a certificate."""
    answer = EnrolmentAnswer(
        certificate=to_pem(certificate), authorities=b"".join(to_pem(authority) for authority in authorities)
    )
    return _proven(record, asked, answer)


def refuse(record: TokenRecord | None, asked: EnrolmentRequest, sentence: str) -> EnrolmentAnswer:
    """The answer that says why not; it proves itself where the token is known."""
    answer = EnrolmentAnswer(refusal=sentence)
    return answer if record is None else _proven(record, asked, answer)


def take(token: Token, asked: EnrolmentRequest, answer: EnrolmentAnswer, key: Key) -> Enrolled:
    """What a node gets out of an answer. Its days are not judged: a new board's clock may not be set yet.

    Raises:
        Untrusted: it was refused; or it is not from who made the token, or no certificate for this node and key.
    """
    proven = tokens.is_answer_proven(token, asked.request, _statement(answer), answer.proof)
    if answer.refusal:
        doubt = "" if proven else " (said without proof)"
        raise Untrusted("refused", f"{answer.refusal}{doubt}")
    if not proven:
        raise Untrusted(
            "wrong_signature", "answer: is not from who made the token; look for a false broker, or another's token"
        )
    authorities = authorities_of(answer.authorities, "answer: authorities")
    (certificate, *_) = read_certificates(answer.certificate, "answer: certificate")
    holder = identify(certificate, Anchors(authorities))
    if (holder.node, holder.key.raw) != (asked.node, key.public.raw):
        raise Untrusted("wrong_name", f"answer: a certificate of {holder.node} for another name or key than was asked")
    return Enrolled(answer.certificate, answer.authorities, holder)


def _proven(record: TokenRecord, asked: EnrolmentRequest, answer: EnrolmentAnswer) -> EnrolmentAnswer:
    return answer.model_copy(update={"proof": tokens.prove_answer(record, asked.request, _statement(answer))})


def _statement(answer: EnrolmentAnswer) -> bytes:
    return encode(answer.model_copy(update={"proof": b""}))
