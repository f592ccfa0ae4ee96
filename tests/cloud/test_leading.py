"""Who leads: the watcher's decision by itself, and coordinators that share a real database and no clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.cloud.history import History, HistoryAway, Lease, LeaseLost, LeaseRecord, Leases, open_history
from headwater.cloud.history.leases import NEVER_HELD
from headwater.cloud.leading import Leadership, Watch, look
from headwater.cloud.service import serve
from headwater.node.envelope import epoch_at
from headwater.schemas.errors import ConfigError
from headwater.schemas.settings import CloudSettings
from support.histories import NOW

FIRST = epoch_at(NOW, 0)

LEASE_S = 0.6


def held(beat: int, term: int = 1) -> LeaseRecord:
    return LeaseRecord("somebody", term, beat)


@pytest.mark.parametrize(
    ("seen", "since", "record", "now", "sight"),
    [
        (None, 0.0, NEVER_HELD, 0.0, "takeable"),
        (None, 0.0, held(7), 0.0, "silent"),
        (held(7), 0.0, held(7), 9.9, "silent"),
        (held(7), 0.0, held(7), 10.0, "takeable"),
        (held(7), 0.0, held(8), 10.0, "alive"),
        (held(7), 0.0, held(0, term=2), 10.0, "alive"),
        (held(7), 0.0, LeaseRecord("", 1, 7), 0.1, "takeable"),
    ],
)
def test_what_a_watcher_sees(
    seen: LeaseRecord | None, since: float, record: LeaseRecord, now: float, sight: str
) -> None:
    watch, found = look(seen and Watch(seen, since), record, now, 10.0)
    assert found == sight
    assert watch == Watch(record, since if seen == record else now)


@given(
    st.lists(st.tuples(st.floats(0.01, 4.0), st.booleans()), min_size=1, max_size=40),
    st.floats(0.5, 20.0),
)
def test_a_lease_is_takeable_exactly_when_nothing_moved_for_a_whole_lease(
    looks: list[tuple[float, bool]], lease_s: float
) -> None:
    watch, now, beat, still_since = None, 0.0, 0, None
    for after_s, moves in looks:
        now += after_s
        beat += moves
        still_since = now if moves or still_since is None else still_since
        watch, sight = look(watch, held(beat), now, lease_s)
        assert (sight == "takeable") == (now - still_since >= lease_s)


def leadership(history: History, name: str, *, standby: bool = True, lease_s: float = LEASE_S) -> Leadership:
    return Leadership(history.leases, "plant", name, lease_s=lease_s, standby=standby, now=lambda: NOW)


@asynccontextmanager
async def leader(history: History, name: str) -> AsyncIterator[tuple[Leadership, Lease, asyncio.Task[None]]]:
    """One that leads and gives signs of life."""
    leads = leadership(history, name)
    lease = await asyncio.wait_for(leads.gain(), 5)
    beats = asyncio.ensure_future(leads.keep(lease))
    try:
        yield leads, lease, beats
    finally:
        beats.cancel()
        await asyncio.gather(beats, return_exceptions=True)


async def test_the_first_leads_at_once_and_the_second_for_as_long_as_it_lives_does_not(history: History) -> None:
    async with leader(history, "one") as (_, lease, _):
        assert lease.term == FIRST
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(leadership(history, "other").gain(), 3 * LEASE_S)
    assert history.leases.read_lease("plant").holder == "one"


async def test_the_standby_takes_over_behind_a_whole_lease_of_silence_and_not_before(history: History) -> None:
    loop = asyncio.get_running_loop()
    async with leader(history, "one") as (_, old, beats):
        waits = asyncio.ensure_future(leadership(history, "other").gain())
        await asyncio.sleep(LEASE_S)
        beats.cancel()
        silent_since = loop.time()
        new = await asyncio.wait_for(waits, 10)
        # Its last sign of life came up to a third of a lease before it fell silent.
        assert loop.time() - silent_since >= LEASE_S * 2 / 3 - 0.05
        assert new.term == old.term + 1
        with pytest.raises(LeaseLost):
            history.leases.renew_lease(old, NOW)


async def test_who_ends_in_order_is_succeeded_at_once(history: History) -> None:
    first, second = (leadership(history, name, lease_s=60.0) for name in ("one", "other"))
    lease = await first.gain()
    waits = asyncio.ensure_future(second.gain())
    await asyncio.sleep(0.1)
    await first.give_back(lease)
    assert (await asyncio.wait_for(waits, 5)).term == FIRST + 1


async def test_without_standby_the_second_ends_and_names_who_leads(history: History) -> None:
    async with leader(history, "cloud on plant-1, process 7"):
        with pytest.raises(ConfigError, match="cloud on plant-1, process 7 leads fleet 'plant'; end that one"):
            await asyncio.wait_for(leadership(history, "other", standby=False).gain(), 10)


async def test_without_standby_one_that_begins_anew_waits_for_its_own_dead_predecessor(history: History) -> None:
    await leadership(history, "before the crash").gain()
    lease = await asyncio.wait_for(leadership(history, "after it", standby=False).gain(), 10)
    assert lease.term == FIRST + 1


class Away(Leases):
    """A database that is away while `away` says so."""

    away = False

    def renew_lease(self, lease: Lease, now: object) -> None:
        self._look()
        super().renew_lease(lease, NOW)

    def read_lease(self, fleet: str) -> LeaseRecord:
        self._look()
        return super().read_lease(fleet)

    def _look(self) -> None:
        if self.away:
            raise HistoryAway("away")


async def test_a_leader_without_its_database_steps_aside_before_another_can_lead_and_comes_back(
    history: History,
) -> None:
    leases = Away(history._engine, "x")
    leads = Leadership(leases, "plant", "one", lease_s=LEASE_S, standby=True, now=lambda: NOW)
    lease = await leads.gain()
    other = asyncio.ensure_future(leadership(history, "other").gain())
    beats = asyncio.ensure_future(leads.keep(lease))
    await asyncio.sleep(LEASE_S)
    leases.away = True
    with pytest.raises(LeaseLost, match="no sign of life reached the database"):
        await asyncio.wait_for(beats, 5)
    assert not other.done()
    other.cancel()
    again = asyncio.ensure_future(leads.gain())
    await asyncio.sleep(LEASE_S)
    assert not again.done()
    leases.away = False
    # Nobody has taken over meanwhile, so it need not wait for its own silence.
    assert (await asyncio.wait_for(again, LEASE_S)).term == lease.term + 1


async def test_a_lease_taken_meanwhile_is_not_fought_for(history: History) -> None:
    leads = leadership(history, "one")
    lease = await leads.gain()
    async with leader(history, "other"):
        with pytest.raises(LeaseLost, match=f"term {FIRST} of fleet 'plant' is over"):
            await asyncio.wait_for(leads.keep(lease), 5)
        await leads.give_back(lease)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(leads.gain(), 2 * LEASE_S)


async def test_a_full_disk_does_not_end_who_stands_by(tmp_path: object) -> None:
    history = open_history(f"sqlite:///{tmp_path}/history.db")
    leases = Away(history._engine, "x")
    leases.away = True
    waits = asyncio.ensure_future(Leadership(leases, "plant", "one", lease_s=LEASE_S, standby=True).gain())
    await asyncio.sleep(0.5)
    assert not waits.done()
    leases.away = False
    assert (await asyncio.wait_for(waits, 5)).term > FIRST
    history.close()


def test_who_could_not_reach_its_broker_touches_no_history(tmp_path: Path) -> None:
    database = tmp_path / "history.db"
    settings = CloudSettings.model_validate(
        {"database": f"sqlite:///{database}", "broker": {"tls": {"ca": str(tmp_path / "gone.pem")}}}, strict=False
    )
    with pytest.raises(ConfigError, match=r"broker\.tls\.ca: \S+gone\.pem: No such file"):
        asyncio.run(serve(settings))
    assert not database.exists()
