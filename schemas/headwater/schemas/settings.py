"""Law: each service has one frozen description of itself; a secret is shown nowhere.

A password comes from a file or the environment, never from a flag, for flags stand in the process list.
"""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, SecretStr, model_validator

from headwater.schemas import patterns
from headwater.schemas.base import EntryPoint, Fraction, Frozen, HostName, Name, NodeId, Positive, Weight
from headwater.schemas.links import BrokerSettings as BrokerSettings
from headwater.schemas.links import Port
from headwater.schemas.links import TlsSettings as TlsSettings
from headwater.schemas.sources import SourceSpec


class LogSettings(Frozen):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class MetricsSettings(Frozen):
    """Where a node tells Prometheus its metrics (`/metrics`) and a container's health check whether it is well
    (`/healthz`). Whoever reaches the port may read them: of data they say how many examples, and how well models do.
    """

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    port: Port = 9464


class ServingSettings(Frozen):
    """What a device does with its model between rounds: score its live windows and publish what it finds.

    Off unless `enabled`, for a prediction is of private data. `publish` all predictions, or only alerts: windows whose
    label is in `alert_labels`, or whose error, of a reconstruction or of a forecast, is beyond what `alert_quantile` of
    all errors stay below. Of all on the `fleet`'s test parts, as plans tell them, or of all on this device's `own`: so
    says `alert_level`, and its own stand in while nothing was heard of the fleet's. At most `max_per_minute` go out. A
    new model is refused that scores `max_metric_drop` worse on the device's own test part than the one before: in
    accuracy, or in loss as a share of it.
    """

    enabled: bool = False
    publish: Literal["predictions", "alerts"] = "predictions"
    max_per_minute: Annotated[float, Field(gt=0, le=6000)] = 60.0
    alert_quantile: Annotated[float, Field(gt=0, lt=1)] = 0.99
    alert_level: Literal["fleet", "own"] = "fleet"
    alert_labels: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    max_metric_drop: Annotated[float, Field(ge=0)] = 0.05


class WorkerSettings(Frozen):
    """The process that runs graphs: its memory, its code included, and how long it stays after its last work."""

    memory_limit_mb: Annotated[int, Field(ge=384, le=1_048_576)] = 1024
    idle_s: Positive = 60.0


class ConditionSettings(Frozen):
    """When a device trains: behind its own work, and only while these hold.

    `niceness` and `max_cpu_share` (of one core) say how much it takes. `hours` is a local time window like
    "22:00-06:00". A plan waits for them for `patience_s` and is declined then, so that another device may be asked; 0
    declines at once, and left out it waits for as long as the plan does.

    `rule` is a function of the owner's, `package.module:function`, with the last word: it is called with `run`,
    `round`, `data` and the number of `examples`, and answers True, or False or a sentence, which declines the plan.
    """

    niceness: Annotated[int, Field(ge=0, le=19)] = 10
    max_cpu_share: Fraction = 1.0
    only_while_charging: bool = False
    min_battery_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    max_temperature_c: FiniteFloat | None = None
    hours: Annotated[str, Field(pattern=patterns.HOURS)] | None = None
    patience_s: Weight | None = None
    rule: EntryPoint | None = None


class SharingSettings(Frozen):
    """What a device tells of itself that helps its parent choose; it stands in its retained status.

    `histogram`: how many training examples it has of each label, with Laplace noise of scale 1/`epsilon`. That reveals
    which labels are frequent here, and how they shift as the data grow; of one example whether it is there is hidden
    as well as e^`epsilon` says, each time that it is told anew. A count is told anew when a tenth of the labels
    changed, and these costs add up. `classes` says how many labels there are (0: none), by data key, where the data's
    source does not. `battery`: the level of its battery, where it has one.
    """

    histogram: bool = False
    epsilon: Positive = 1.0
    classes: Annotated[dict[Name, Annotated[int, Field(ge=0)]], Field(max_length=64)] = Field(default_factory=dict)
    battery: bool = True


class FallbackSettings(Frozen):
    """A second parent, for when the first has been silent for `after_s`. Once the first has been heard again for
    `return_after_s` the node goes back to it. `broker` is the second parent's, by default the first one's too.
    """

    parent: NodeId
    broker: BrokerSettings | None = None
    after_s: Positive = 120.0
    return_after_s: Positive = 60.0


class TrustSettings(Frozen):
    """What a node signs with, and whom it believes: PEM files, all but `key` public.

    `ca` holds the authorities' certificates, `revoked` their lists of what they took back (CRL). With this table a node
    signs its deltas and announcements, and takes none that is not signed.
    """

    ca: Path
    certificate: Path
    key: Path
    revoked: Path | None = None


class EnrolSettings(Frozen):
    """How a node without a certificate gets one at its first start: by a one-time token, whose text is in `token_file`.

    It asks at `host` (by default the broker's) and `port`, makes its key itself, and writes what it gets to the files
    of `broker.tls` (a gateway: `uplink.tls`); then the token's file is removed. With `ca` the broker must prove itself
    by that authority; without, the token's own proof is what shows that the answer is right. `tls` false is for a
    broker on this machine.
    """

    token_file: Path
    host: str | None = None
    port: Port = 8884
    ca: Path | None = None
    tls: bool = True


class UpdateSettings(Frozen):
    """How a device's software is updated over the tree: `versions` is the folder that the launcher starts it from,
    `signer` the PEM file of the public key (or its certificate) whose releases are taken, and nobody else's.
    """

    versions: Path
    signer: Path


Heartbeat = Annotated[float, Field(ge=0.05, le=3600)]


class DeviceSettings(Frozen):
    """A device agent. `data` gives each data key its source; `state` is the folder for what outlives a reboot, in which
    finished updates on their way up take `kept_size_bytes` at most.

    Every `heartbeat_s` the node says that it is alive.
    """

    fleet: NodeId = "fleet"
    node: NodeId
    parent: NodeId = "cloud"
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    fallback: FallbackSettings | None = None
    heartbeat_s: Heartbeat = 30.0
    data: Annotated[dict[Name, SourceSpec], Field(min_length=1, max_length=64)]
    state: Path = Path("headwater-state")
    training_limit_s: Positive = 600.0
    kept_size_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    store_size_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    conditions: ConditionSettings = Field(default_factory=ConditionSettings)
    sharing: SharingSettings = Field(default_factory=SharingSettings)
    serving: ServingSettings = Field(default_factory=ServingSettings)
    trust: TrustSettings | None = None
    enrol: EnrolSettings | None = None
    metrics: MetricsSettings | None = None
    update: UpdateSettings | None = None
    log: LogSettings = Field(default_factory=LogSettings)


class GatewaySettings(Frozen):
    """A gateway: `uplink` is its parent's broker, `site` that of its cluster. They may be the same.

    `state` is the folder for what outlives a reboot, `kept_size_bytes` what that may take: updates that were
    acknowledged, and deltas on their way up.
    """

    fleet: NodeId = "fleet"
    node: NodeId
    parent: NodeId = "cloud"
    uplink: BrokerSettings = Field(default_factory=BrokerSettings)
    site: BrokerSettings = Field(default_factory=BrokerSettings)
    fallback: FallbackSettings | None = None
    heartbeat_s: Heartbeat = 30.0
    state: Path = Path("headwater-state")
    kept_size_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024 * 1024
    store_size_bytes: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    trust: TrustSettings | None = None
    enrol: EnrolSettings | None = None
    metrics: MetricsSettings | None = None
    log: LogSettings = Field(default_factory=LogSettings)


class BridgeSettings(Frozen):
    """A bridge from a fleet's topics for people (`broker`) to another system's broker (`target`).

    ThingsBoard takes a gateway's access token as `target.user`. `prefix` is Home Assistant's discovery prefix. `client`
    begins the name of both connections.
    """

    system: Literal["home-assistant", "thingsboard"]
    fleet: NodeId = "fleet"
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    target: BrokerSettings = Field(default_factory=BrokerSettings)
    prefix: Annotated[str, Field(pattern=patterns.TOPIC_PREFIX)] = "homeassistant"
    client: NodeId = "headwater-bridge"
    log: LogSettings = Field(default_factory=LogSettings)


class HttpSettings(Frozen):
    """The cloud's HTTP API. `tokens` is a file made by `headwater token add`; it is read again when it changes.

    Without it whoever is on this machine may read, and nobody may start or stop a run. It speaks plain HTTP: what is to
    reach it from elsewhere belongs behind something that speaks TLS.
    """

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    port: Port = 8080
    tokens: Path | None = None

    @model_validator(mode="after")
    def _who_listens_elsewhere_knows_who_asks(self) -> "HttpSettings":
        if self.tokens is None and not is_loopback(self.host):
            raise ValueError(
                f"tokens: missing, and host {self.host!r} is open to others; make a file by `headwater token add NAME "
                "--role viewer --file tokens.toml` and name it, or listen on 127.0.0.1"
            )
        return self


class EnrolmentSettings(Frozen):
    """Whoever has a one-time token gets its certificate from here. `authority` is the folder that `headwater pki init`
    made; the file's first line opens its key, where that is sealed."""

    authority: Path
    passphrase_file: Path | None = None


def is_loopback(host: str) -> bool:
    """Whether a host, as it is written, can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def name_in(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.rpartition(":")[0] if host.count(":") == 1 else host


class CloudSettings(Frozen):
    """The coordinator. `database` is an SQLAlchemy URL; a password in it is never shown.

    Of several coordinators of a fleet one leads. Another stands by (or ends, without `standby`), and takes over when
    the leader has shown no sign of life in the database for `lease_s`.
    """

    fleet: NodeId = "fleet"
    node: NodeId = "cloud"
    broker: BrokerSettings = Field(default_factory=BrokerSettings)
    database: SecretStr = SecretStr("sqlite:///headwater.db")
    lease_s: Annotated[float, Field(ge=0.5, le=3600)] = 10.0
    standby: bool = True
    heartbeat_s: Heartbeat = 30.0
    store_size_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    http: HttpSettings | None = None
    trust: TrustSettings | None = None
    enrolment: EnrolmentSettings | None = None
    metrics: MetricsSettings | None = None
    log: LogSettings = Field(default_factory=LogSettings)


class AccessSettings(Frozen):
    """Who may look at a dashboard that others than this machine can reach.

    `password_file` holds the password that a browser asks for (any user name); `open` lets everyone look who reaches
    the port, for a network of one's own. With `certificate` and `key` it speaks HTTPS: without, a password or an
    operator's token crosses the network as it is. Where no password is asked for, it answers to IP addresses and to its
    machine's own name; `hosts` are other names by which it is asked for, as a proxy's.
    """

    password_file: Path | None = None
    open: bool = False
    hosts: Annotated[tuple[HostName, ...], Field(max_length=64)] = ()
    certificate: Path | None = None
    key: Path | None = None


class DashboardSettings(Frozen):
    """What people see in a browser: a subscriber of the round topics, with the history over the cloud's HTTP API.

    `brokers` are those that it listens to, by a name for people: the cloud's, and any site's, whose devices are then
    seen between rounds too. Without `api` (its address) there is only what was heard since the start; `api_token_file`
    holds a token of role viewer, where the API wants one. Elsewhere than on loopback it wants `access`.
    """

    fleet: NodeId = "fleet"
    brokers: Annotated[dict[Name, BrokerSettings], Field(min_length=1, max_length=64)] = Field(
        default_factory=lambda: {"cloud": BrokerSettings()}
    )
    api: Annotated[str, Field(pattern=patterns.HTTP_ADDRESS)] | None = None
    api_token_file: Path | None = None
    host: str = "127.0.0.1"
    port: Port = 8090
    access: AccessSettings = Field(default_factory=AccessSettings)
    log: LogSettings = Field(default_factory=LogSettings)
