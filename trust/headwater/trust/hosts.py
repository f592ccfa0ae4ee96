"""Law: a host in a certificate is an address, or a name that a host may have; it is looked at when it is promised, for
later it is an error of TLS at every node that comes."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from headwater.schemas.patterns import HOST, IN_WORDS
from headwater.trust.problems import Untrusted

MAX_HOSTS: Final = 32
_NAME: Final = re.compile(HOST)


def check_hosts(hosts: Sequence[str]) -> None:
    """Raises Untrusted for too many, and for one that is none."""
    if len(hosts) > MAX_HOSTS:
        raise Untrusted("malformed", f"hosts: {len(hosts)}; at most {MAX_HOSTS}")
    for host in hosts:
        # One of a whole domain, which TLS takes for the first label.
        if not _NAME.fullmatch(host.removeprefix("*.")) and not _is_address(host):
            raise Untrusted("wrong_name", f"host: {host!r} is neither an address nor a host name; {IN_WORDS[HOST]}")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
