"""Law: of a token only its hash is kept; which tokens there are is a file, and a change of it holds from the next call.

A file that cannot be read knows nobody: what cannot be checked is not let in.
"""

import hashlib
import hmac
import logging
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from headwater.schemas.base import Frozen, HexSha256, NodeId
from headwater.schemas.config import checked
from headwater.schemas.errors import ConfigError
from headwater.schemas.http import TokenRole
from headwater.trust.files import SECRET, write_file

log = logging.getLogger("headwater.cloud.api")

PREFIX: Final = "hw_"
"""By which people, and scanners of leaked secrets, see what it is."""

SECRET_BYTES: Final = 32
MAX_TOKENS: Final = 1000
MAX_TOKEN_LENGTH: Final = 128


class Token(Frozen):
    """A token by its hash. `name` says whose it is."""

    name: NodeId
    role: TokenRole
    sha256: HexSha256


class _File(Frozen):
    token: Annotated[tuple[Token, ...], Field(max_length=MAX_TOKENS)] = ()


def new_secret() -> str:
    """What its owner is told, once."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def of_secret(name: str, role: TokenRole, secret: str) -> Token:
    """Raises ConfigError where the name is none."""
    return checked(Token, {"name": name, "role": role, "sha256": _hash(secret)}, "token")


def read(file: Path) -> tuple[Token, ...]:
    """The tokens of a file.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"tokens: {file}: {why}; make it by `headwater token add NAME --file {file}`") from None
    return checked(_File, data, str(file)).token


def write(file: Path, tokens: Sequence[Token]) -> None:
    """Put these in the place of what the file held. Raises ConfigError."""
    if len(tokens) > MAX_TOKENS:
        raise ConfigError(f"{file}: {len(tokens)} tokens; at most {MAX_TOKENS}, remove some")
    head = "# Tokens of the cloud's HTTP API, by the hashes of their secrets; written by `headwater token`.\n"
    rows = (f'\n[[token]]\nname = "{t.name}"\nrole = "{t.role}"\nsha256 = "{t.sha256}"\n' for t in tokens)
    write_file(file, (head + "".join(rows)).encode(), SECRET)


def find(tokens: Sequence[Token], secret: str) -> Token | None:
    """Whose secret it is. Every token is compared, in a time that says nothing of how alike they are."""
    presented, found = _hash(secret), None
    for token in tokens:
        if hmac.compare_digest(token.sha256, presented):
            found = token
    return found


def _hash(secret: str) -> str:
    # Not stretched: it has 256 bits of chance.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file as it was when its tokens were read."""

    inode: int
    size_bytes: int
    changed_ns: int


class TokenBook:
    """The tokens of a file, read again whenever that has changed. Raises ConfigError where it cannot be read."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._look()
        self._tokens = read(file)

    def whose(self, secret: str) -> Token | None:
        """The token of this secret, or None where it is nobody's."""
        if len(secret) > MAX_TOKEN_LENGTH:
            return None
        seen = self._look()
        if seen != self._seen:
            self._seen, self._tokens = seen, self._read_again()
        return find(self._tokens, secret)

    def _look(self) -> _Seen | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return _Seen(found.st_ino, found.st_size, found.st_mtime_ns)

    def _read_again(self) -> tuple[Token, ...]:
        try:
            tokens = read(self._file)
        except ConfigError as error:
            log.error("nobody has access until this is mended: %s", error)
            return ()
        log.info("the tokens were read again: there are %d", len(tokens))
        return tokens
