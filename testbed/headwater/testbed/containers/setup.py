"""Law: what was made once stays; what follows from the code alone, rules and configurations, is written anew each time.

python -m headwater.testbed.containers.setup PLACES --recordings FOLDER --seats N

Run again after a change it adds what is missing, and wakes no node up with another name.
"""

import argparse
import secrets
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from headwater.cloud.api import tokens
from headwater.device.sources.prepared import part_file
from headwater.schemas.errors import HeadwaterError
from headwater.testbed.containers.places import (
    AUTHORITY,
    CLOUD,
    DASHBOARD,
    EMQX,
    FLEET,
    MAX_SEATS,
    PEOPLE,
    POSTGRES,
    SITES,
    VIEWER,
    Identity,
    Seat,
    broker_of,
    emqx_rules,
    fleet_broker,
    identities,
    seats,
)
from headwater.transport.emqx import acl_conf, users_csv
from headwater.transport.fleet_broker import SALT_SIZE_BYTES, VIEWERS, File, files
from headwater.transport.mosquitto import password_file
from headwater.trust.authority import Authority
from headwater.trust.files import PUBLIC, SECRET, write_file
from headwater.trust.folder import Folder

SOURCE: Final = "watch"
OWN_PART: Final = "own"
_FOR_THE_GROUP: Final = 0o640


def set_up(places: Path, recordings: Path, seat_count: int, now: datetime) -> int:
    """Fill all places; returns how many certificates were issued. Raises HeadwaterError."""
    folder = Folder(places / AUTHORITY)
    if not folder.certificate_file.exists():
        folder.create(FLEET, now)
    authority = folder.authority()
    # Before anyone reads it: a list of what was revoked is only believed for a while.
    folder.renew_list(authority, now)
    all_seats = tuple(seats(seat_count))
    named = (*identities(), *(seat.identity for seat in all_seats))
    issued = sum(_identify(places, folder, authority, identity, now) for identity in named)
    for seat in all_seats:
        _give_recordings(places, recordings, seat)
    passwords = _tell_people(places)
    for site in (CLOUD, *SITES):
        _configure_broker(places / broker_of(site), site, passwords)
    _configure_emqx(places / EMQX, passwords)
    _agree_on_password(places / POSTGRES, places / CLOUD)
    _agree_on_tokens(places)
    return issued


def _identify(places: Path, folder: Folder, authority: Authority, identity: Identity, now: datetime) -> bool:
    """Give a place its certificate; whether one had to be issued."""
    place = places / identity.folder
    place.mkdir(mode=0o750, parents=True, exist_ok=True)
    for source, name in ((folder.certificate_file, "ca.pem"), (folder.revoked_file, "revoked.pem")):
        write_file(place / name, source.read_bytes(), PUBLIC)
    if (place / "node.pem").exists():
        return False
    # A place that was emptied comes back under its name, with the key that it had.
    renew = folder.key_of(identity.node).exists()
    folder.issue(authority, identity.node, now, hosts=identity.hosts, renew=renew)
    write_file(place / "node.key", folder.key_of(identity.node).read_bytes(), SECRET)
    # The last, for by it the place is known to be whole.
    write_file(place / "node.pem", folder.certificate_of(identity.node).read_bytes(), PUBLIC)
    return True


def _give_recordings(places: Path, recordings: Path, seat: Seat) -> None:
    own = part_file(places / seat.identity.folder, SOURCE, OWN_PART)
    if not own.exists():
        own.parent.mkdir(mode=0o750, exist_ok=True)
        write_file(own, (recordings / f"person-{seat.person}.npz").read_bytes(), SECRET)


def _configure_broker(place: Path, site: str, passwords: Mapping[str, str]) -> None:
    broker = fleet_broker(site)
    users = password_file(passwords, {user: secrets.token_bytes(SALT_SIZE_BYTES) for user in passwords})
    for name, file in {**files(broker, secrets.token_bytes), VIEWERS: File(users, is_secret=True)}.items():
        write_file(place / name, file.text.encode(), SECRET)


def _configure_emqx(place: Path, passwords: Mapping[str, str]) -> None:
    """EMQX runs as a user of its own, in the group of these files."""
    write_file(place / "acl.conf", acl_conf(emqx_rules()).encode(), _FOR_THE_GROUP)
    write_file(place / "users.csv", users_csv(passwords).encode(), _FOR_THE_GROUP)
    (place / "node.key").chmod(_FOR_THE_GROUP)


def _tell_people(places: Path) -> dict[str, str]:
    """Give each of who watches a password, and what it takes to believe the brokers; returns the passwords."""
    passwords = {}
    for person in PEOPLE:
        place = places / person
        place.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_file(place / "ca.pem", Folder(places / AUTHORITY).certificate_file.read_bytes())
        passwords[person] = _secret(place / "password")
    return passwords


def _agree_on_password(database: Path, cloud: Path) -> None:
    """One password in two places: the server's, and libpq's file at the client's."""
    database.mkdir(mode=0o750, parents=True, exist_ok=True)
    write_file(cloud / "pgpass", f"*:*:headwater:headwater:{_secret(database / 'password')}\n".encode(), SECRET)


def _agree_on_tokens(places: Path) -> None:
    """The cloud knows the hashes of two tokens of its API: the dashboard reads, and people may start and stop runs."""
    known = [
        tokens.of_secret(VIEWER, "operator", _secret(places / CLOUD / "operator-token", tokens.new_secret)),
        tokens.of_secret(DASHBOARD, "viewer", _secret(places / DASHBOARD / "api-token", tokens.new_secret)),
    ]
    file = places / CLOUD / "tokens.toml"
    if not file.exists():
        tokens.write(file, known)


def _secret(file: Path, made: Callable[[], str] = secrets.token_hex) -> str:
    """What a file keeps secret; made where there is none."""
    if not file.exists():
        write_file(file, made().encode(), SECRET)
    return file.read_text(encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make what the testbed of containers needs before it starts.")
    parser.add_argument("places", type=Path, help="The folder in which all volumes are mounted.")
    parser.add_argument("--recordings", type=Path, required=True, help="The folder of person-N.npz.")
    parser.add_argument("--seats", type=int, default=20, help="Devices that a site has room for.")
    given = parser.parse_args()
    if not 1 <= given.seats <= MAX_SEATS:
        print(f"setup: seats: {given.seats}; from 1 to {MAX_SEATS}", file=sys.stderr)
        return 2
    try:
        issued = set_up(given.places, given.recordings, given.seats, datetime.now(UTC))
    except HeadwaterError as error:
        print(f"setup: {error}", file=sys.stderr)
        return error.exit_code
    print(f"setup: ready, with room for {given.seats} devices a site; {issued} new certificates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
