"""Law: an authority's folder overwrites nothing that somebody may hold, and what it once signed stands in its index.

    ca.pem, ca.key    the authority; its key is for the owner's eyes, and may be sealed by a passphrase
    crl.pem           what it took back; Mosquitto's `crlfile`
    index.jsonl       one line for each certificate: its node, number, last day
    issued/NODE.pem   the newest certificate of a node; NODE.key too where its key was made here
    tokens/ID.json    what is kept of one-time tokens

Whoever writes holds the folder's lock, so that a command and a service may work side by side.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from pydantic import ValidationError

from headwater.schemas.errors import ConfigError
from headwater.trust.authority import NODE_DAYS, Authority, issue, new_authority, read_request
from headwater.trust.certificates import authorities_of, to_pem
from headwater.trust.files import SECRET, make_folder, read_file, write_file
from headwater.trust.keys import new_key, read_key, write_key
from headwater.trust.revocation import revocation_list
from headwater.trust.tokens import TokenRecord

LOCK_TIMEOUT_S: Final = 10.0
LOCK_EVERY_S: Final = 0.05
MAX_TOKENS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Issued:
    """A line of the index."""

    node: str
    serial: int
    not_after: datetime

    def line(self) -> str:
        return json.dumps({"node": self.node, "serial": f"{self.serial:x}", "not_after": self.not_after.isoformat()})


class Folder:
    """An authority's folder. Methods block; errors are ConfigError, or Untrusted for what is asked of the authority."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def certificate_file(self) -> Path:
        return self.path / "ca.pem"

    @property
    def revoked_file(self) -> Path:
        return self.path / "crl.pem"

    def certificate_of(self, node: str) -> Path:
        return self.path / "issued" / f"{node}.pem"

    def key_of(self, node: str) -> Path:
        return self.path / "issued" / f"{node}.key"

    # ── the authority ───────────────────────────────────────────────────────────────────────────────────────────

    def create(self, name: str, now: datetime, *, passphrase: str | None = None) -> None:
        """Make a new authority here. Raises ConfigError where one is already."""
        make_folder(self.path, 0o700)
        with self.locked():
            if self.certificate_file.exists() or (self.path / "ca.key").exists():
                raise ConfigError(
                    f"{self.path}: holds an authority already; give another folder, or move that one away"
                )
            authority = new_authority(name, new_key(), now)
            for folder in ("issued", "tokens"):
                make_folder(self.path / folder, 0o700)
            write_key(self.path / "ca.key", authority.key, passphrase)
            write_file(self.revoked_file, revocation_list(authority.certificate, authority.key, (), now))
            # The last, for by it the folder is known to be whole.
            write_file(self.certificate_file, to_pem(authority.certificate))

    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        content = read_file(self.certificate_file, "authority")
        return authorities_of(content, f"authority: {self.certificate_file}")[0]

    def authority(self, passphrase: str | None = None) -> Authority:
        return Authority(self.certificate(), read_key(self.path / "ca.key", "authority", passphrase))

    # ── certificates ────────────────────────────────────────────────────────────────────────────────────────────

    def issue(
        self,
        authority: Authority,
        node: str,
        now: datetime,
        *,
        hosts: Iterable[str] = (),
        days: int = NODE_DAYS,
        renew: bool = False,
    ) -> x509.Certificate:
        """A key and a certificate for a node.

        Args:
            renew: a node that has a certificate gets another for the same key.

        Raises:
            ConfigError: the node has one, and `renew` is off; or it is to be renewed, and its key is not here.
        """
        with self.locked():
            key_file = self.key_of(node)
            if renew:
                key = read_key(key_file, "renew")
            else:
                self._check_is_new(node)
                key = new_key()
            certificate = issue(authority, node, key.public, now, hosts=hosts, days=days)
            if not renew:
                write_key(key_file, key)
            self._record(node, certificate)
        return certificate

    def sign(
        self,
        authority: Authority,
        request: bytes,
        now: datetime,
        *,
        node: str | None = None,
        hosts: Iterable[str] = (),
        days: int = NODE_DAYS,
        renew: bool = False,
    ) -> x509.Certificate:
        """A certificate for who asks by a request (CSR); `node` is who must be asking, `renew` as in `issue`."""
        asks, key = read_request(request, node=node)
        with self.locked():
            if not renew:
                self._check_is_new(asks)
            certificate = issue(authority, asks, key, now, hosts=hosts, days=days)
            self._record(asks, certificate)
        return certificate

    def issued(self) -> tuple[Issued, ...]:
        """All that was ever issued, oldest first."""
        file = self.path / "index.jsonl"
        if not file.exists():
            return ()
        return tuple(_issued(line, file) for line in file.read_text(encoding="utf-8").splitlines() if line)

    def revoke(self, authority: Authority, node: str, now: datetime) -> tuple[Issued, ...]:
        """Take back every certificate that a node has; those that ended need it no more.

        Raises:
            ConfigError: it has none.
        """
        with self.locked():
            found = tuple(one for one in self.issued() if one.node == node and one.not_after >= now)
            if not found:
                raise ConfigError(f"node: {node} has no certificate of this authority that counts; see issued/")
            self._renew_list(authority, now, tuple(one.serial for one in found))
            for file in (self.certificate_of(node), self.key_of(node)):
                if file.exists():
                    file.replace(file.with_name(f"{file.name}.revoked"))
        return found

    def renew_list(self, authority: Authority, now: datetime) -> None:
        """Sign the list of what was taken back anew, before it is past its day."""
        with self.locked():
            self._renew_list(authority, now, ())

    # ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────────

    def keep_token(self, record: TokenRecord) -> None:
        """Write what is kept of a token. Raises ConfigError where there are too many."""
        folder = self.path / "tokens"
        make_folder(folder, 0o700)
        file = folder / f"{record.token_id}.json"
        if not file.exists() and sum(1 for _ in folder.glob("*.json")) >= MAX_TOKENS:
            raise ConfigError(f"{folder}: holds {MAX_TOKENS} tokens; remove old ones")
        write_file(file, record.model_dump_json(indent=2).encode(), SECRET)

    def token(self, token_id: str) -> TokenRecord | None:
        """What is kept of a token; None where it is unknown."""
        file = self.path / "tokens" / f"{token_id}.json"
        # An id comes from afar: what is no id names no file.
        if len(token_id) != 16 or not set(token_id) <= set("0123456789abcdef") or not file.exists():
            return None
        try:
            return TokenRecord.model_validate_json(read_file(file, "token"))
        except ValidationError:
            raise ConfigError(f"{file}: is no record of a token; remove it, and make another token") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes here meanwhile. Not to be nested. Raises ConfigError when another does not let go."""
        try:
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, SECRET)
        except OSError as error:
            raise ConfigError(
                f"{self.path}: {error.strerror}; give an authority's folder that may be written"
            ) from None
        try:
            end = time.monotonic() + LOCK_TIMEOUT_S
            while not _try_lock(lock):
                if time.monotonic() > end:
                    raise ConfigError(f"{self.path}: another process has been writing for {LOCK_TIMEOUT_S:g} s; end it")
                time.sleep(LOCK_EVERY_S)
            yield
        finally:
            os.close(lock)

    # ── within the lock ─────────────────────────────────────────────────────────────────────────────────────────

    def _check_is_new(self, node: str) -> None:
        if self.certificate_of(node).exists() or self.key_of(node).exists():
            raise ConfigError(f"node: {node} has a certificate; renew it (--renew), or revoke it first")

    def _record(self, node: str, certificate: x509.Certificate) -> None:
        issued = Issued(node, certificate.serial_number, certificate.not_valid_after_utc)
        # Before anyone has it: what is not in the index cannot be taken back.
        with (self.path / "index.jsonl").open("a", encoding="utf-8") as index:
            index.write(issued.line() + "\n")
            index.flush()
            os.fsync(index.fileno())
        write_file(self.certificate_of(node), to_pem(certificate))

    def _renew_list(self, authority: Authority, now: datetime, serials: tuple[int, ...]) -> None:
        before = read_file(self.revoked_file, "crl") if self.revoked_file.exists() else None
        write_file(
            self.revoked_file, revocation_list(authority.certificate, authority.key, serials, now, before=before)
        )


def _issued(line: str, file: Path) -> Issued:
    try:
        fields = json.loads(line)
        return Issued(fields["node"], int(fields["serial"], 16), datetime.fromisoformat(fields["not_after"]))
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{file}: has a line that is none of its own; restore it from a copy") from None


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
