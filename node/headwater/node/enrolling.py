"""Law: a node without a certificate asks for one by its one-time token, once; the key that it is for never leaves.

The key is written before anything is asked. Whoever is cut off asks the same again, and is answered the same; the token
is removed last.
"""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from headwater.schemas.acl import ENROLMENT_PASSWORD, ENROLMENT_USER
from headwater.schemas.errors import AccessRefused, ConfigError
from headwater.schemas.links import BrokerSettings, TlsSettings
from headwater.schemas.messages import EnrolmentAnswer, EnrolmentRequest
from headwater.schemas.settings import EnrolSettings
from headwater.schemas.topics import Topics
from headwater.schemas.wire import WireError, decode, encode
from headwater.transport.asking import ask
from headwater.transport.link import Publication

if TYPE_CHECKING:
    from headwater.trust.tokens import Token

log = logging.getLogger("headwater.node")

ANSWER_TIMEOUT_S: Final = 60.0
MAX_TOKEN_FILE_SIZE_BYTES: Final = 1024


class Files:
    """Where a node's certificate, its key and its authorities are, or will be."""

    def __init__(self, tls: TlsSettings | None, link: str) -> None:
        """Raises ConfigError where one of them has no place."""
        if tls is None or tls.ca is None or tls.certificate is None or tls.key is None:
            raise ConfigError(
                f"enrol: needs [{link}.tls] with ca, certificate and key, which say where to write what it gets"
            )
        self.authorities, self.certificate, self.key = tls.ca, tls.certificate, tls.key

    @property
    def are_there(self) -> bool:
        return self.authorities.exists() and self.certificate.exists() and self.key.exists()


async def enrol_if_new(
    enrol: EnrolSettings | None, fleet: str, node: str, broker: BrokerSettings, link: str = "broker"
) -> bool:
    """Get this node its certificate, where it has none. Returns whether it got one now.

    Args:
        broker: the link that the certificate is for, `link` its name in the settings.

    Raises:
        ConfigError: what is needed is not there, or cannot be written.
        AccessRefused: it was refused.
        BrokerUnreachable: nobody answered.
    """
    if enrol is None:
        return False
    files = Files(broker.tls, link)
    if files.are_there:
        return False
    if find_spec("cryptography") is None:
        raise ConfigError("enrol: needs a library that is not installed; pip install 'headwater[trust]'")
    await _enrol(enrol, fleet, node, files, enrol.host or broker.host)
    return True


async def _enrol(enrol: EnrolSettings, fleet: str, node: str, files: Files, host: str) -> None:
    from headwater.trust import enrolment
    from headwater.trust.files import make_folder, write_file
    from headwater.trust.keys import new_key, read_key, write_key
    from headwater.trust.problems import Untrusted

    token = _token(enrol.token_file)
    for file in (files.key, files.certificate, files.authorities):
        make_folder(file.parent, 0o700)
    if not files.key.exists():
        write_key(files.key, new_key())
    key = read_key(files.key, "enrol: key")
    asked = enrolment.ask(token, node, key)
    answer = await _asked(enrol, fleet, token.token_id, asked, host)
    try:
        got = enrolment.take(token, asked, answer, key)
    except Untrusted as error:
        raise AccessRefused(f"enrol: {error}") from None
    if not files.authorities.exists():
        write_file(files.authorities, got.authorities)
    # The last but for the token: with it the node is enrolled.
    write_file(files.certificate, got.certificate)
    enrol.token_file.unlink(missing_ok=True)
    log.info("enrolled as %s; the certificate counts until %s", node, f"{got.holder.not_after:%Y-%m-%d}")


async def _asked(
    enrol: EnrolSettings, fleet: str, token_id: str, asked: EnrolmentRequest, host: str
) -> EnrolmentAnswer:
    topics = Topics(fleet)
    broker = BrokerSettings(
        host=host,
        port=enrol.port,
        user=ENROLMENT_USER,
        password=SecretStr(ENROLMENT_PASSWORD),
        tls=TlsSettings(ca=enrol.ca) if enrol.tls else None,
    )
    payload = await ask(
        broker,
        client=token_id,
        question=Publication(topics.enrolment(token_id, "request"), encode(asked)),
        answer=topics.enrolment(token_id, "answer"),
        timeout_s=ANSWER_TIMEOUT_S,
    )
    try:
        return decode(payload, EnrolmentAnswer)
    except WireError as error:
        raise AccessRefused(f"enrol: the answer is none ({error}); look for a false broker") from None


def _token(file: Path) -> "Token":
    from headwater.trust.tokens import TokenRefused, read_token

    try:
        with file.open(encoding="utf-8") as opened:
            return read_token(opened.read(MAX_TOKEN_FILE_SIZE_BYTES))
    except OSError as error:
        raise ConfigError(
            f"enrol.token_file: {file}: {error.strerror}, and this node has no certificate; make a token by "
            "`headwater pki token NODE`, and put its line there"
        ) from None
    except (UnicodeDecodeError, TokenRefused):
        raise ConfigError(
            f"enrol.token_file: {file} holds no token; put the line there that `headwater pki token` printed"
        ) from None
