"""Law: a node has one Ed25519 key, which signs what it says and stands behind its TLS; it leaves its machine never.

TLS 1.3 signs behind 64 spaces and a context of its own, and what this room signs begins otherwise (`signing`), so
neither signature can be taken for the other.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from headwater.schemas.errors import ConfigError
from headwater.trust.files import SECRET, read_file, write_file


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half of a key that everyone may have."""

    key: Ed25519PublicKey

    @property
    def raw(self) -> bytes:
        """Its 32 bytes."""
        return self.key.public_bytes_raw()

    def pem(self) -> bytes:
        return self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def has_signed(self, signature: bytes, statement: bytes) -> bool:
        """Whether the holder of the other half signed exactly this."""
        try:
            self.key.verify(signature, statement)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Key:
    """A whole key. Its text form says nothing of it."""

    key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return "Key(…)"

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.key.public_key())

    def sign(self, statement: bytes) -> bytes:
        """64 bytes, the same each time for the same statement."""
        return self.key.sign(statement)

    def pem(self, passphrase: str | None = None) -> bytes:
        """PKCS #8, sealed by a passphrase where one is given."""
        seal: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            seal = serialization.BestAvailableEncryption(passphrase.encode())
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, seal)


def new_key() -> Key:
    """A key from the system's source of randomness."""
    return Key(Ed25519PrivateKey.generate())


def write_key(file: Path, key: Key, passphrase: str | None = None) -> None:
    """Write a key for its owner's eyes alone. Raises ConfigError."""
    write_file(file, key.pem(passphrase), SECRET)


def read_key(file: Path, what: str, passphrase: str | None = None) -> Key:
    """The key in a PEM file.

    Raises:
        ConfigError: it cannot be read, is sealed by another passphrase, or is of another kind.
    """
    secret = passphrase.encode() if passphrase is not None else None
    content = read_file(file, what)
    try:
        key = serialization.load_pem_private_key(content, secret)
    except TypeError:
        mend = "give its passphrase" if secret is None else "take the passphrase out"
        raise ConfigError(f"{what}: {file} {'is' if secret is None else 'is not'} sealed; {mend}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{what}: {file} holds no PEM key, or its passphrase is another one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{what}: {file} holds a key of another kind; a node signs with Ed25519: make it anew as that"
        )
    return Key(key)


def read_public_key(file: Path, what: str) -> PublicKey:
    """The public key in a PEM file. Raises ConfigError where it cannot be read or is of another kind."""
    content = read_file(file, what)
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{what}: {file} holds no PEM public key; give one") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{what}: {file} holds a public key of another kind; only Ed25519 is taken")
    return PublicKey(key)
