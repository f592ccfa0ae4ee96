"""Law: each service has one frozen description of itself; a secret is shown nowhere.

A password comes from a file or the environment, never from a flag, for flags stand in the process list.
"""

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from headwater.schemas.base import Frozen, Name, NodeId, Positive
from headwater.schemas.links import BrokerSettings as BrokerSettings
from headwater.schemas.links import TlsSettings as TlsSettings
from headwater.schemas.sources import SourceSpec


class LogSettings(Frozen):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class ServingSettings(Frozen):
    """What a device does with its model between rounds: score its live windows and publish what it finds.

    Off unless `enabled`, for a prediction is of private data. `publish` all predictions, or only alerts: windows whose
    reconstruction error is beyond `alert_quantile` of the test part's, or whose label is in `alert_labels`. At most
    `max_per_minute` go out. A new model is refused that scores `max_metric_drop` worse on the device's own test part
    than the one before: in accuracy, or in loss as a share of it.
    """

    enabled: bool = False
    publish: Literal["predictions", "alerts"] = "predictions"
    max_per_minute: Annotated[float, Field(gt=0, le=6000)] = 60.0
    alert_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.99
    alert_labels: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    max_metric_drop: Annotated[float, Field(ge=0)] = 0.05


class DeviceSettings(Frozen):
    """A device agent. `data` gives each data key its source."""

    fleet: NodeId = "fleet"
    node: NodeId
    parent: NodeId = "cloud"
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    data: Annotated[dict[Name, SourceSpec], Field(min_length=1, max_length=64)]
    training_limit_s: Positive = 600.0
    store_size_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    serving: ServingSettings = Field(default_factory=ServingSettings)
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
