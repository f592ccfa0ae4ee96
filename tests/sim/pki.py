"""Law: in a simulated world keys and certificates are of its node's name alone, so that a seed's world stays the same.

All worlds have one authority; what is signed is the same in each process that runs them.
"""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headwater.schemas.settings import TrustSettings
from headwater.trust.authority import Authority, issue, new_authority
from headwater.trust.certificates import to_pem
from headwater.trust.keys import Key

ISSUED_AT: Final = datetime(2025, 12, 1, tzinfo=UTC)


def trust_settings(folder: Path, node: str) -> TrustSettings:
    """What a node of this world signs with, in files of its folder."""
    files = {name: folder / f"{name}.pem" for name in ("ca", "certificate", "key")}
    if not files["ca"].exists():
        for name, content in zip(files, _contents(node), strict=True):
            files[name].write_bytes(content)
    return TrustSettings(**files)


@lru_cache(maxsize=256)
def _contents(node: str) -> tuple[bytes, bytes, bytes]:
    authority, key = _authority(), _key(node)
    with _numbered(node):
        certificate = issue(authority, node, key.public, ISSUED_AT)
    return to_pem(authority.certificate), to_pem(certificate), key.pem()


@lru_cache(maxsize=1)
def _authority() -> Authority:
    with _numbered("the authority"):
        return new_authority("sim", _key("the authority"), ISSUED_AT)


def _key(name: str) -> Key:
    return Key(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"sim {name}".encode()).digest()))


@contextmanager
def _numbered(name: str) -> Iterator[None]:
    """Certificates get a number that follows from the name, and not from chance."""
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") + 1
    with patch.object(x509, "random_serial_number", itertools.count(first).__next__):
        yield
