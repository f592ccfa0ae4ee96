"""Law: a link to a broker is described in one place, whatever it is for; its secret is shown nowhere."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from headwater.schemas.base import Frozen, Positive
from headwater.schemas.errors import ConfigError

Port = Annotated[int, Field(ge=1, le=65_535)]


class TlsSettings(Frozen):
    """Certificates for the broker's link. `insecure` accepts any host name, for tests only."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False


class BrokerSettings(Frozen):
    """How to reach a broker. The user must be named like the node where the broker has rules."""

    host: str = "127.0.0.1"
    port: Port = 1883
    user: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    tls: TlsSettings | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"
    keepalive_s: Annotated[float, Field(ge=1, le=65_535)] = 30.0
    connect_timeout_s: Positive = 30.0
    max_retry_wait_s: Positive = 30.0

    def secret(self) -> str | None:
        """The password.

        Raises:
            ConfigError: the password file cannot be read, or is empty.
        """
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else None
        try:
            text = read("broker.password_file", self.password_file).decode().strip()
        except UnicodeDecodeError:
            # Without the error's own words: they hold bytes of the password.
            raise ConfigError(f"broker.password_file: {self.password_file} is no UTF-8 text; write it anew") from None
        if not text:
            raise ConfigError(
                f"broker.password_file: {self.password_file} is empty; put the password in its first line"
            )
        return text


def read(field: str, path: Path) -> bytes:
    """The file that a setting names. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{field}: {path}: {error.strerror}; give a readable file") from None
