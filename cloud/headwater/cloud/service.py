"""Law: the cloud is a history, a link and a coordinator, for as long as it holds its fleet's lease; else it stands by.

Who stands by has no link: the coordinator of a fleet has one name, and whoever leads bears it. Either answers over
HTTP, if it is asked to.
"""

import contextlib
import logging
import os
import platform
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from headwater.cloud.api.service import Api, Standing
from headwater.cloud.clusters import Clusters
from headwater.cloud.coordinator import Coordinator
from headwater.cloud.history import History, LeaseLost, open_history
from headwater.cloud.leading import Leadership
from headwater.cloud.patience import Patience
from headwater.cloud.rolling_out import RollingOut
from headwater.node.announcing import Voice
from headwater.node.envelope import looking_after, trust_of
from headwater.node.herald import Herald
from headwater.node.identity import Identity, new_boot
from headwater.node.listening import listening
from headwater.node.observing import Observer
from headwater.node.parent import Audience, Parent, SiteLink
from headwater.node.service import together
from headwater.node.watching import UNWATCHED, Gauge, Sights, Watch, disk, metrics
from headwater.schemas.settings import CloudSettings, EnrolmentSettings
from headwater.schemas.statuses import RoundStatus, RunStatus
from headwater.schemas.topics import Topics
from headwater.schemas.wire import encode_status
from headwater.transport.files import check
from headwater.transport.objects import ObjectStore
from headwater.transport.session import Connect, Ear, LinkDown, Session, with_ears

log = logging.getLogger("headwater.cloud")


def _where() -> str:
    return f"on {platform.node() or 'an unnamed host'}, process {os.getpid()}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a coordinator reads from where it runs.

    `name` tells people which process leads, `boot` tells one start of it from the next, `now` is UTC time, `chance`
    uniform in [0, 1).
    """

    name: str = field(default_factory=_where)
    boot: str = field(default_factory=new_boot)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    chance: Callable[[], float] = random.random


@dataclass(slots=True)
class Duty:
    """What this process is doing: it leads while it has a side towards its children."""

    parent: Parent | None = None

    def standing(self) -> Standing:
        parent = self.parent
        return Standing(leads=parent is not None, is_connected=parent is not None and parent.session.connected)


@dataclass(slots=True)
class LastWord:
    """What people were last told of a run. Each connection tells it anew: a run that rests says nothing more, and a
    broker may have forgotten it, or never heard it."""

    status: RunStatus | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """Where a coordinator serves: its settings, the way to its broker, its machine, and who hears what it does."""

    settings: CloudSettings
    connect: Connect
    machine: Machine
    duty: Duty
    watch: Watch

    @property
    def identity(self) -> Identity:
        return _identity(self.settings, self.machine)


async def serve(settings: CloudSettings) -> None:
    """Lead the fleet, or stand by, until told to stop.

    Raises:
        HistoryError: the database cannot be opened, or is damaged.
        BrokerUnreachable, AccessRefused: the broker, at the first connection.
        ConfigError: another coordinator leads, and this one may not stand by; or the HTTP API has no port or tokens;
            or a file of the broker's link, or the authority that would enrol nodes is of no use.
    """
    machine, duty = Machine(), Duty()
    with contextlib.ExitStack() as stack:
        # First of all, so that a port in use is told at once, and a missing file before anything is led.
        check(settings.broker)
        identity = _identity(settings, machine)
        watch = Watch(Herald(identity, machine.now), stack.enter_context(metrics(settings.metrics, identity)))
        answering = [stack.enter_context(_api(settings, duty, machine.now))] if settings.http is not None else []
        history = stack.enter_context(contextlib.closing(open_history(settings.database.get_secret_value())))
        connect: Connect = partial(Session, settings.broker)
        if settings.enrolment is not None:
            connect, enrolling = _enrolling(settings.enrolment, settings.fleet, connect, watch.saw)
            answering.append(enrolling)
        coordinating = coordinate(settings, history, connect, machine, duty, watch)
        await together(coordinating, *(answer() for answer in answering))


def _enrolling(
    settings: EnrolmentSettings, fleet: str, connect: Connect, saw: Observer
) -> tuple[Connect, Callable[[], Awaitable[None]]]:
    """The way to the broker, on which requests for certificates are heard too, and what answers them."""
    # A cloud that enrols nobody loads nothing of cryptography.
    from headwater.cloud.enrolling import open_desk

    enrolling = open_desk(settings, fleet, saw)
    return enrolling.beside(connect), enrolling.run


@contextlib.contextmanager
def _api(settings: CloudSettings, duty: Duty, now: Callable[[], datetime]) -> Iterator[Callable[[], Awaitable[None]]]:
    """What answers over HTTP, its port taken already. Raises ConfigError for that and the tokens, and HistoryError."""
    from headwater.cloud.api.app import create_app
    from headwater.cloud.api.server import serve
    from headwater.cloud.api.tokens import TokenBook
    from headwater.node.answering import BACKLOG

    assert settings.http is not None
    book = TokenBook(settings.http.tokens) if settings.http.tokens is not None else None
    with (
        listening(settings.http.host, settings.http.port, "http.port", BACKLOG) as bound,
        # Connections of its own: whoever looks takes none from the coordinator.
        contextlib.closing(open_history(settings.database.get_secret_value())) as history,
    ):
        app = create_app(Api(history, settings.fleet, duty.standing, now, new_boot), book)
        yield partial(serve, app, bound)


def _identity(settings: CloudSettings, machine: Machine) -> Identity:
    return Identity(settings.fleet, settings.node, "cloud", None, machine.boot)


async def coordinate(
    settings: CloudSettings,
    history: History,
    connect: Connect,
    machine: Machine,
    duty: Duty | None = None,
    watch: Watch = UNWATCHED,
) -> None:
    """Lead the fleet, or stand by, whatever carries the messages. Raises what `serve` raises behind the opening."""
    post = Post(settings, connect, machine, duty or Duty(), watch)
    leadership = Leadership(
        history.leases,
        settings.fleet,
        f"{settings.node} {machine.name}"[:256],
        lease_s=settings.lease_s,
        standby=settings.standby,
        now=machine.now,
    )
    trust = trust_of(settings.trust, settings.fleet, settings.node, clock=machine.now)
    while True:
        lease = await leadership.gain()
        try:
            await lead(post, history.led(lease), partial(leadership.keep, lease), Voice(trust, lease.term))
        except LeaseLost as lost:
            log.warning("%s", lost)
        finally:
            post.duty.parent = None
            await leadership.give_back(lease)


async def lead(post: Post, history: History, keep_lease: Callable[[], Awaitable[None]], voice: Voice) -> None:
    """Coordinate the fleet. Raises LeaseLost, with nothing said to the fleet, when another leads it."""
    fleet, machine = post.settings.fleet, post.machine
    store = ObjectStore(post.settings.store_size_bytes)
    clusters = Clusters(fleet, partial(_record, history, fleet, machine))
    last = LastWord()
    parent = _parent(post, history, store, voice, clusters.ear, last)
    coordinator = Coordinator(
        fleet,
        parent,
        history,
        store,
        tell_people=partial(_tell_of_run, parent, Topics(fleet).run, last),
        now=machine.now,
        chance=machine.chance,
        observe=post.watch.saw,
    )
    rolling_out = RollingOut(fleet, parent, history, now=machine.now, chance=machine.chance)
    post.duty.parent = parent
    try:
        telling = post.watch.run(_sights(post.settings, parent), parent.session.publish)
        beside = (coordinator.serve(), rolling_out.run(), keep_lease(), clusters.run(), telling)
        looking = looking_after(voice.trust, parent.say_again)
        await together(parent.run(), *(_or_quietly(parent, service) for service in beside), *looking)
    finally:
        await parent.drain()


def _parent(post: Post, history: History, store: ObjectStore, voice: Voice, ear: Ear, last: LastWord) -> Parent:
    """A leader's side towards its children, whose connection this ear hears on too."""
    settings, identity, trust = post.settings, post.identity, voice.trust
    topics = Topics(settings.fleet)

    async def tell_of_round(status: RoundStatus) -> None:
        await parent.session.publish(topics.round, encode_status(status), retain=True)

    async def be_born() -> None:
        birth = identity.status("online", {}, certificate="" if trust is None else trust.certificate)
        await parent.session.publish(birth.topic, birth.payload, retain=True)
        if last.status is not None:
            await parent.session.publish(topics.run, encode_status(last.status), retain=True)

    parent = Parent(
        SiteLink(with_ears(post.connect, ear), settings.node, identity.status("offline", {}), be_born),
        identity,
        store,
        history.journal,
        Audience(tell_of_round, post.watch.saw),
        voice=voice,
        heartbeat_s=settings.heartbeat_s,
    )
    return parent


async def _tell_of_run(parent: Parent, topic: str, last: LastWord, status: RunStatus) -> None:
    last.status = status
    try:
        await parent.session.publish(topic, encode_status(status), retain=True)
    except LinkDown as error:
        log.debug("a status for people waits for the link: %s", error)


def _sights(settings: CloudSettings, parent: Parent) -> Sights:
    return Sights(
        links={"broker": lambda: parent.session},
        members=lambda: parent.members,
        data=parent.data,
        gauges=_disk(settings.database.get_secret_value()),
    )


def _disk(database: str) -> dict[str, Gauge]:
    """Of a database that is a file here."""
    file = database.removeprefix("sqlite:///")
    return disk(Path(file).parent) if file != database else {}


async def _record(history: History, fleet: str, machine: Machine, statuses: Sequence[RoundStatus]) -> None:
    """Waits for a database that is away; what is said of it the coordinator says."""
    await Patience(_say_nothing, machine.chance).sql(history.clusters.record, fleet, statuses, machine.now())


async def _say_nothing(why: str) -> None:
    """Of an outage that others tell of."""


async def _or_quietly(parent: Parent, service: Awaitable[None]) -> None:
    try:
        await service
    except LeaseLost:
        # The next leader has this node's name, and may have said already that it is online.
        parent.session.leave_quietly()
        raise
