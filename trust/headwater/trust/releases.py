"""Law: a release is what its signer signed, byte for byte, and its signature is good for nothing else.

The key that signs releases is the one thing by which all devices of a fleet can be given other software. It is no
node's: it lives where releases are made, and no machine of the fleet has it.
"""

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import Release, Rollout
from headwater.schemas.wire import encode
from headwater.trust.files import read_file
from headwater.trust.keys import Key, PublicKey, read_public_key

_DOMAIN: Final = b"headwater release 1\0"


def signed(release: Release, key: Key) -> tuple[bytes, bytes]:
    """The encoded release, and its signature."""
    encoded = encode(release)
    return encoded, key.sign(_DOMAIN + encoded)


def is_signed(rollout: Rollout, signer: PublicKey) -> bool:
    """Whether this signer signed just this release."""
    return signer.has_signed(rollout.signature, _DOMAIN + rollout.release)


def read_signer(file: Path, what: str) -> PublicKey:
    """The public key in a PEM file, or that of the certificate in it.

    Raises:
        ConfigError: it cannot be read, or is of another kind.
    """
    content = read_file(file, what)
    if b"BEGIN CERTIFICATE" not in content:
        return read_public_key(file, what)
    try:
        key = x509.load_pem_x509_certificate(content).public_key()
    except ValueError:
        raise ConfigError(f"{what}: {file} holds no PEM certificate; give one, or a public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{what}: {file} is the certificate of another kind of key; only Ed25519 signs releases")
    return PublicKey(key)
