"""An authority in memory, and what it makes of nodes; `NOW` is a day within everyone's certificate."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cryptography import x509

from headwater.node.trusting import Trust, Words
from headwater.trust.authority import Authority, issue, new_authority
from headwater.trust.certificates import Anchors, identify, to_der
from headwater.trust.guard import Guard
from headwater.trust.keys import Key, new_key
from headwater.trust.revocation import revocation_list, with_lists

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


class Pki:
    """One fleet's authority. A node's key is the same each time that it is asked for."""

    def __init__(self, fleet: str = "plant", *, name: str = "plant", days: int = 365) -> None:
        self.fleet = fleet
        self.authority: Authority = new_authority(name, new_key(), NOW - timedelta(days=30))
        self.certificates: dict[str, x509.Certificate] = {}
        self._days = days
        self._keys: dict[str, Key] = {}

    def key(self, node: str) -> Key:
        return self._keys.setdefault(node, new_key())

    def certificate(self, node: str) -> x509.Certificate:
        if node not in self.certificates:
            self.certificates[node] = issue(self.authority, node, self.key(node).public, NOW, days=self._days)
        return self.certificates[node]

    def anchors(self, *revoked: str) -> Anchors:
        anchors = Anchors((self.authority.certificate,))
        serials = [self.certificate(node).serial_number for node in revoked]
        made_at = NOW - timedelta(days=1)
        return with_lists(
            anchors, revocation_list(self.authority.certificate, self.authority.key, serials, made_at), "crl"
        )

    def guard(self, node: str, *, revoked: tuple[str, ...] = ()) -> Guard:
        certificate, anchors = self.certificate(node), self.anchors(*revoked)
        return Guard(self.fleet, node, self.key(node), identify(certificate, anchors), to_der(certificate), anchors)

    def trust(
        self,
        node: str,
        words: Words | None = None,
        *,
        revoked: tuple[str, ...] = (),
        clock: Callable[[], datetime] = lambda: NOW,
    ) -> Trust:
        return Trust(lambda: self.guard(node, revoked=revoked), words=words, clock=clock)
