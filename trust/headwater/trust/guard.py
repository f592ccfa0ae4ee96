"""Law: a node signs by the key that its certificate names, and believes the authorities that it was given; no others.

What it has been given is read here, once, and is then a value.

A board without a clock wakes up in the past. It is at least as late as its authorities testify to: they signed this
node's certificate, and their lists, at times that are over (`judged_at`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from headwater.schemas.errors import ConfigError
from headwater.schemas.messages import RoundKey, Signed
from headwater.schemas.settings import TrustSettings
from headwater.trust.certificates import (
    Anchors,
    Holder,
    authorities_of,
    check,
    days_left,
    identify,
    read_certificates,
    read_der,
    to_der,
)
from headwater.trust.files import read_file
from headwater.trust.keys import Key, read_key
from headwater.trust.problems import Untrusted
from headwater.trust.revocation import with_lists
from headwater.trust.signing import check_signature, sign

RENEW_WITHIN_DAYS: Final = 30.0
"""A certificate or a list that ends sooner is worth a word in the log."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A node's own key and certificate, and whom it believes."""

    fleet: str
    node: str
    key: Key
    own: Holder
    certificate: bytes
    anchors: Anchors

    def judged_at(self, clock: datetime) -> datetime:
        """The time by which certificates are judged: the clock's, unless it is known to be later."""
        known = self.anchors.known_since
        return max(clock, self.own.not_before, *(() if known is None else (known,)))

    def sign_delta(self, key: RoundKey, receiver: str, payload: bytes) -> Signed:
        """A delta for one parent; its certificate stands in this node's status."""
        return sign(self.key, self.fleet, "delta", self.node, payload, receiver=receiver, round_=key)

    def sign_announcement(self, epoch: int, number: int, payload: bytes) -> Signed:
        """A parent's word to whoever reads it, with all that it takes to check it."""
        return sign(
            self.key,
            self.fleet,
            "announcement",
            self.node,
            payload,
            epoch=epoch,
            number=number,
            certificate=self.certificate,
        )

    def holder(self, certificate: bytes, node: str) -> Holder:
        """Whose certificate this is; `check` says whether it counts now.

        Raises:
            Untrusted: it is not `node`'s, or no authority that is known here signed it.
        """
        holder = identify(read_der(certificate), self.anchors)
        if holder.node != node:
            raise Untrusted("wrong_name", f"certificate of {holder.node}: where that of {node} belongs")
        return holder

    def check(self, holder: Holder, clock: datetime) -> None:
        """Whether a certificate counts now. Raises Untrusted."""
        check(holder, self.anchors, self.judged_at(clock))

    def check_signature(self, signed: Signed, holder: Holder) -> None:
        """Raises Untrusted where the holder did not sign this, in this fleet."""
        check_signature(signed, self.fleet, holder.key)

    def warnings(self, clock: datetime) -> tuple[str, ...]:
        """What will end soon, or has ended, and wants to be made anew."""
        now, said = self.judged_at(clock), []
        ends = {f"the certificate of {self.node}": self.own.not_after}
        if self.anchors.lists_end_at is not None:
            ends["the list of revoked certificates"] = self.anchors.lists_end_at
        for what, end in ends.items():
            left = days_left(end, now)
            if left < RENEW_WITHIN_DAYS:
                when = f"ends in {left:.0f} days" if left >= 0 else "has ended"
                said.append(f"{what} {when}, on {end:%Y-%m-%d}; have it made anew")
        return tuple(said)


def open_guard(settings: TrustSettings, fleet: str, node: str) -> Guard:
    """What the settings name.

    Raises:
        ConfigError: a file cannot be read, or they do not belong together.
    """
    key = read_key(settings.key, "trust.key")
    try:
        anchors = Anchors(authorities_of(read_file(settings.ca, "trust.ca"), f"trust.ca: {settings.ca}"))
        if settings.revoked is not None:
            content = read_file(settings.revoked, "trust.revoked")
            anchors = with_lists(anchors, content, f"trust.revoked: {settings.revoked}")
        certificate = _own(settings)
        own = identify(certificate, anchors)
    except Untrusted as error:
        raise ConfigError(f"trust: {error}") from None
    if own.node != node:
        raise ConfigError(f"trust.certificate: is that of {own.node}, and this node is {node}; give its own")
    if own.key.raw != key.public.raw:
        raise ConfigError(f"trust.key: {settings.key} is not the key of {settings.certificate}; give the two of a pair")
    return Guard(fleet, node, key, own, to_der(certificate), anchors)


def _own(settings: TrustSettings) -> x509.Certificate:
    """The first of the file: those of who signed it may stand behind it."""
    content = read_file(settings.certificate, "trust.certificate")
    return read_certificates(content, f"trust.certificate: {settings.certificate}")[0]
