"""Law: each service has one frozen description of itself; a secret is shown nowhere.

A password comes from a file or the environment, never from a flag, for flags stand in the process list.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from headwater.schemas.base import Frozen, Name, NodeId, Positive
from headwater.schemas.errors import ConfigError
from headwater.schemas.sources import SourceSpec

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
            text = self.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"broker.password_file: {error}; give a readable file") from None
        except UnicodeDecodeError:
            # Without the error's own words: they hold bytes of the password.
            raise ConfigError(f"broker.password_file: {self.password_file} is no UTF-8 text; write it anew") from None
        if not text:
            raise ConfigError(
                f"broker.password_file: {self.password_file} is empty; put the password in its first line"
            )
        return text


class LogSettings(Frozen):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class DeviceSettings(Frozen):
    """A device agent. `data` gives each data key its source."""

    fleet: NodeId = "fleet"
    node: NodeId
    parent: NodeId = "cloud"
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    data: Annotated[dict[Name, SourceSpec], Field(min_length=1, max_length=64)]
    training_limit_s: Positive = 600.0
    store_size_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    log: LogSettings = Field(default_factory=LogSettings)


class GatewaySettings(Frozen):
    """A gateway: `uplink` is its parent's broker, `site` that of its cluster. They may be the same."""

    fleet: NodeId = "fleet"
    node: NodeId
    parent: NodeId = "cloud"
    uplink: BrokerSettings = Field(default_factory=BrokerSettings)
    site: BrokerSettings = Field(default_factory=BrokerSettings)
    store_size_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    log: LogSettings = Field(default_factory=LogSettings)


class CloudSettings(Frozen):
    """The coordinator. `database` is an SQLAlchemy URL; a password in it is never shown."""

    fleet: NodeId = "fleet"
    node: NodeId = "cloud"
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    database: SecretStr = SecretStr("sqlite:///headwater.db")
    store_size_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    log: LogSettings = Field(default_factory=LogSettings)
