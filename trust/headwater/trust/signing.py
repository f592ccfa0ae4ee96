"""Law: a signature is over one encoding of everything that the word means, and over nothing that could be another's.

The statement begins with a context of its own; the fleet's name is in it though it does not travel, and the payload by
its SHA-256. Only the certificate is outside, for it is the key that it names which counts.
"""

import hashlib
from typing import Final

import msgpack

from headwater.schemas.limits import SIGNATURE_SIZE_BYTES
from headwater.schemas.messages import Domain, RoundKey, Signed
from headwater.trust.keys import Key, PublicKey
from headwater.trust.problems import Untrusted

CONTEXT: Final = b"headwater signed 1\0"
"""No other statement of this project, and none of TLS, begins so."""


def sign(
    key: Key,
    fleet: str,
    domain: Domain,
    sender: str,
    payload: bytes,
    *,
    receiver: str | None = None,
    round_: RoundKey | None = None,
    epoch: int = 0,
    number: int = 0,
    certificate: bytes = b"",
) -> Signed:
    """A payload with its sender's signature. The same word is signed in the same bytes each time."""
    unsigned = Signed(
        domain=domain,
        sender=sender,
        receiver=receiver,
        key=round_,
        epoch=epoch,
        number=number,
        certificate=certificate,
        signature=bytes(SIGNATURE_SIZE_BYTES),
        payload=payload,
    )
    return unsigned.model_copy(update={"signature": key.sign(statement(unsigned, fleet))})


def check_signature(signed: Signed, fleet: str, key: PublicKey) -> None:
    """Raises Untrusted where the holder of `key` did not sign exactly this, in this fleet."""
    if not key.has_signed(signed.signature, statement(signed, fleet)):
        raise Untrusted(
            "wrong_signature", f"{signed.domain} of {signed.sender}: its signature is of something or somebody else"
        )


def statement(signed: Signed, fleet: str) -> bytes:
    """What is signed: the context, and a msgpack array of everything that the word means, in the schema's order."""
    key = signed.key
    return CONTEXT + bytes(
        msgpack.packb(
            (
                fleet,
                signed.domain,
                signed.sender,
                signed.receiver,
                None if key is None else (key.run, key.round, key.step, key.attempt),
                signed.epoch,
                signed.number,
                hashlib.sha256(signed.payload).digest(),
            ),
            use_bin_type=True,
        )
    )
