"""Law: what a link needs of files is read anew for each connection; what cannot be used is told by field and file."""

import hmac
import ssl

from headwater.schemas.errors import ConfigError
from headwater.schemas.links import BrokerSettings, TlsSettings, read


def check(broker: BrokerSettings) -> None:
    """Raises ConfigError: a connection could not be made, for want of a file."""
    broker.secret()
    tls_context(broker)


def identifier(client: str, broker: BrokerSettings) -> str:
    """The MQTT client identifier of `client`: with a TLS key of its own nobody else can know it.

    A broker ends a connection when another client comes with its identifier, and Mosquitto does not ask who that is.
    The same key makes the same one at each start, so what is left of a node's last connection is still ended.

    Raises:
        ConfigError: the key cannot be read.
    """
    if broker.tls is None or broker.tls.key is None:
        return client
    key = read("broker.tls.key", broker.tls.key)
    return f"{client}.{hmac.digest(key, b'headwater client identifier 1 ' + client.encode(), 'sha256')[:16].hex()}"


def tls_context(broker: BrokerSettings) -> ssl.SSLContext | None:
    """Raises ConfigError: a file cannot be read, or does not hold what it should."""
    tls = broker.tls
    if tls is None:
        return None
    context = _trusting(tls)
    # OpenSSL does not say which of its files it could not read: each is read before.
    if tls.certificate:
        read("broker.tls.certificate", tls.certificate)
        if tls.key:
            read("broker.tls.key", tls.key)
        try:
            context.load_cert_chain(str(tls.certificate), str(tls.key) if tls.key else None)
        except OSError as error:
            raise ConfigError(
                f"broker.tls.certificate: {tls.certificate} and broker.tls.key: {tls.key or 'the same file'} make no "
                f"pair ({getattr(error, 'reason', None) or error}); give a certificate and its own key, in PEM"
            ) from None
    if tls.insecure:
        context.check_hostname = False
    return context


def _trusting(tls: TlsSettings) -> ssl.SSLContext:
    if tls.ca is None:
        return ssl.create_default_context()
    read("broker.tls.ca", tls.ca)
    try:
        return ssl.create_default_context(cafile=str(tls.ca))
    except OSError:
        raise ConfigError(f"broker.tls.ca: {tls.ca} holds no certificate; give that of the authority, in PEM") from None
