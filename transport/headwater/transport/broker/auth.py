"""Law: a password is stored as a salted scrypt hash, checked off the event loop, and compared in constant time.

scrypt comes with Python, releases the interpreter lock, and at these parameters costs 30 ms and 16 MB, so the
threads that check are few. A fleet that reconnects all at once must not pay that again for each device: what was
once verified is remembered as a keyed digest, under a key that dies with the process.
"""

import asyncio
import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from headwater.schemas.errors import ConfigError

_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
_MAX_MEMORY_BYTES: Final = 64 * 1024 * 1024
_SALT_SIZE_BYTES: Final = 16
_THREADS: Final = 2
_MAX_NAME_LENGTH: Final = 64
_FORBIDDEN_IN_NAMES: Final = frozenset(":/+#")
"""`:` ends the name in the file; the others would change the meaning of a topic filter with `%u`."""


class _Stored(NamedTuple):
    cost: int
    block: int
    parallel: int
    salt: bytes
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> "_Stored":
        scheme, *numbers, salt, digest = text.split("$")
        if scheme != "scrypt" or len(numbers) != 3:
            raise ValueError("the hash is not 'scrypt$N$r$p$salt$hash'")
        cost, block, parallel = map(int, numbers)
        memory_bytes = 128 * cost * block
        if cost < 2 or cost & (cost - 1) or block < 1 or parallel < 1 or memory_bytes > _MAX_MEMORY_BYTES // 2:
            raise ValueError(f"N={cost}, r={block}, p={parallel} are no parameters of scrypt, or cost too much")
        return cls(
            cost, block, parallel, base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
        )


def hash_password(password: str) -> str:
    """`scrypt$<N>$<r>$<p>$<salt>$<hash>`, salt and hash in base64 (RFC 7914), with a fresh salt."""
    salt = os.urandom(_SALT_SIZE_BYTES)
    digest = _scrypt(password, salt, _COST, _BLOCK, _PARALLEL)
    return f"scrypt${_COST}${_BLOCK}${_PARALLEL}${_text(salt)}${_text(digest)}"


def check_password(password: str, stored: str) -> bool:
    """Whether `password` is the one that `stored` was made of.

    Raises:
        ValueError: `stored` is not what `hash_password` writes.
    """
    form = _Stored.parse(stored)
    actual = _scrypt(password, form.salt, form.cost, form.block, form.parallel)
    return hmac.compare_digest(actual, form.digest)


def write_password_file(path: str | Path, passwords: Mapping[str, str]) -> None:
    """Writes `user:hash` lines for `passwords` (user to password), readable by the owner alone.

    Raises:
        ValueError: a user name that cannot stand in the file or in a topic.
    """
    lines = [f"{checked_user(user)}:{hash_password(password)}\n" for user, password in passwords.items()]
    draft = Path(f"{path}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.writelines(lines)
    draft.replace(path)


def read_password_file(path: str | Path) -> dict[str, str]:
    """User to stored hash. Empty lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: the file cannot be read, or a line is not `user:hash`.
    """
    mend = f"write it with `headwater broker password {path} USER`"
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"password_file: cannot read {str(path)!r} ({error.strerror}); {mend}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"password_file: {str(path)!r} is no UTF-8 text; {mend}") from None
    users: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, stored = line.strip().partition(":")
        try:
            users[checked_user(user)] = stored
            _Stored.parse(stored)
        except ValueError as error:
            raise ConfigError(
                f"password_file: {str(path)!r}, line {number}: not 'user:hash' ({error}); take it out, and {mend}"
            ) from None
    return users


class Passwords:
    """The users of one broker. `verify` may be called from one event loop only."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = dict(users)
        self._verified: dict[str, bytes] = {}
        self._key = os.urandom(32)
        self._decoy = hash_password("nobody")
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="broker-password")

    async def verify(self, user: str, password: str) -> bool:
        """Whether `user` has this `password`. An unknown user takes as long as a wrong password."""
        seal = hashlib.blake2b(password.encode(errors="surrogateescape"), key=self._key).digest()
        if hmac.compare_digest(self._verified.get(user, b""), seal):
            return True
        stored = self._users.get(user, self._decoy)
        right = await asyncio.get_running_loop().run_in_executor(self._threads, check_password, password, stored)
        if not right or user not in self._users:
            return False
        self._verified[user] = seal
        return True

    def close(self) -> None:
        """Ends the threads; what waits for them is cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _scrypt(password: str, salt: bytes, cost: int, block: int, parallel: int) -> bytes:
    secret = password.encode(errors="surrogateescape")
    return hashlib.scrypt(secret, salt=salt, n=cost, r=block, p=parallel, maxmem=_MAX_MEMORY_BYTES, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def checked_user(user: str) -> str:
    """Raises ValueError for a name that cannot stand in the file or in a topic."""
    is_one_word = user.isprintable() and user == user.strip()
    if not 0 < len(user) <= _MAX_NAME_LENGTH or not is_one_word or _FORBIDDEN_IN_NAMES & set(user):
        raise ValueError(
            f"user: {user!r} can be none; use 1 to {_MAX_NAME_LENGTH} characters that can be printed, none of them "
            "':', '/', '+' or '#', and no blank at either end"
        )
    return user
