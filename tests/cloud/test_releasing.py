"""A release's way from its canaries to everyone: what lets it go on, and what stops it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.cloud.history import History, LeaseLost
from headwater.cloud.history.faults import Conflict
from headwater.cloud.releasing import Announce, Asked, Keep, Policy, Progress, Told, begin, step, word
from headwater.schemas.errors import RunFailed
from headwater.schemas.messages import Release
from headwater.schemas.statuses import FailedUpdate, RolloutStatus
from headwater.schemas.wire import encode, reference
from support.histories import NOW

POLICY = Policy(canaries=("d1",), canary_share=0.1, shares=(0.5,), soak_s=100.0, max_failures=0.25)
FAILURE = FailedUpdate(node="d1", detail="did not prove itself in 3 starts")
FRESH = begin(7, POLICY)
WELL = {"updated": 3, "named": ("d1",)}


def told(progress: Progress, **counts: object) -> Told:
    named = {"counter": progress.counter, "stage": progress.said}
    return Told(RolloutStatus.model_validate(named | counts))


def at(now: float, progress: Progress, **counts: object) -> Progress:
    return step(progress, told(progress, **counts), now)[0]


def wider() -> Progress:
    return at(200.0, at(100.0, FRESH, **WELL), **WELL)


@pytest.mark.parametrize(
    ("policy", "stages", "state"),
    [
        (POLICY, (0.1, 0.5, 1.0), "canary"),
        (Policy(canaries=("d1",), canary_share=0.0), (0.0, 1.0), "canary"),
        (Policy(canary_share=1.0), (1.0,), "wider"),
        (Policy(canary_share=0.0), (1.0,), "wider"),
        (Policy(canary_share=0.0, shares=(0.2, 1.0)), (0.2, 1.0), "canary"),
    ],
)
def test_a_policy_is_a_row_of_stages_and_the_last_is_everyone(
    policy: Policy, stages: tuple[float, ...], state: str
) -> None:
    assert policy.stages == stages
    assert begin(7, policy).state == state


def test_behind_its_time_a_canary_stage_that_is_well_is_followed_by_the_next() -> None:
    soaking = at(100.0, FRESH, **WELL)
    assert (soaking.stage, soaking.well_since) == (0, 100.0)
    assert at(199.9, soaking, **WELL).stage == 0
    after, effects = step(soaking, told(soaking, **WELL), 200.0)
    assert (after.state, after.stage, after.said) == ("wider", 1, 1)
    assert effects == (Keep(), Announce())
    assert word(after, b"r", bytes(64)).share == 0.5
    assert word(after, b"r", bytes(64)).nodes == ("d1",)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"waiting": 1}, "1 wait"),
        ({"under_way": 2}, "2 under way"),
        ({"away": 1}, "1 that had begun are not there"),
        ({"named": ()}, "canaries that are not there, or cannot be updated: d1"),
        ({"updated": 0, "named": ("d1",)}, "the stage asks nobody who is there"),
    ],
)
def test_until_all_canaries_are_well_their_time_does_not_begin(counts: dict[str, object], says: str) -> None:
    soaking = at(100.0, FRESH, **WELL)
    unwell = at(150.0, soaking, **(WELL | counts))
    assert says in unwell.detail
    assert unwell.well_since is None
    assert at(240.0, at(160.0, unwell, **WELL), **WELL).stage == 0, "from the beginning again"


def test_one_canary_that_fails_stops_the_release_and_says_why() -> None:
    after, effects = step(FRESH, told(FRESH, updated=9, failed=1, failures=(FAILURE,)), 100.0)
    assert after.state == "paused"
    assert after.detail == "1 of 10 that tried have failed; d1: did not prove itself in 3 starts"
    assert effects == (Keep(), Announce())
    assert (word(after, b"r", bytes(64)).share, word(after, b"r", bytes(64)).nodes) == (0.0, ())


@pytest.mark.parametrize(("failed", "state"), [(1, "wider"), (2, "wider"), (3, "paused")])
def test_of_a_wider_stage_some_may_fail(failed: int, state: str) -> None:
    progress = wider()
    assert at(300.0, progress, updated=8 - failed, failed=failed, failures=(FAILURE,)).state == state


def test_a_canary_that_fails_while_it_soaks_stops_the_release() -> None:
    soaking = at(100.0, FRESH, **WELL)
    assert at(150.0, soaking, updated=2, failed=1).state == "paused"


def test_what_devices_say_of_an_earlier_stage_or_release_counts_for_nothing() -> None:
    progress = wider()
    for other in ({"stage": 0}, {"counter": 6}):
        assert step(progress, told(progress, **(WELL | other)), 900.0) == (progress, ())


def test_the_last_stage_is_done_when_everyone_has_it_and_stays_open_for_who_comes_later() -> None:
    last = at(400.0, at(300.0, wider(), **WELL), **WELL)
    assert last.is_last
    done = at(500.0, last, **WELL)
    assert done.state == "done"
    assert word(done, b"r", bytes(64)).share == 1.0
    assert at(600.0, done, updated=3, waiting=1).state == "done"
    assert at(600.0, done, updated=3, failed=2).state == "paused"


def test_an_operator_pauses_and_goes_on_and_what_failed_by_then_is_forgiven() -> None:
    paused, effects = step(FRESH, Asked("pause"), 100.0)
    assert (paused.state, paused.detail, effects) == ("paused", "paused by an operator", (Keep(), Announce()))
    assert step(paused, Asked("pause"), 100.0) == (paused, ())
    assert step(paused, told(paused, **WELL), 500.0) == (paused, ())
    failed = at(100.0, FRESH, updated=2, failed=1, failures=(FAILURE,))
    resumed, _ = step(failed, Asked("resume"), 200.0)
    assert (resumed.state, resumed.stage, resumed.forgiven) == ("canary", 0, 1)
    well = {"updated": 2, "failed": 1, "failures": (FAILURE,)}
    assert at(400.0, at(300.0, resumed, **well), **well).stage == 1
    assert at(300.0, resumed, updated=1, failed=2).state == "paused"


counts = st.integers(0, 3)
reports = st.fixed_dictionaries(
    {"waiting": counts, "under_way": counts, "updated": counts, "failed": counts, "away": counts}
)


@given(st.lists(st.tuples(reports, st.floats(0, 200)), max_size=30))
def test_whatever_devices_say_no_stage_is_left_before_its_time(said: list[tuple[dict[str, int], float]]) -> None:
    progress, now, entered = begin(7, replace_policy(canaries=())), 0.0, 0.0
    for report, later in said:
        now += later
        after = at(now, progress, **report)
        assert after.stage - progress.stage in (0, 1)
        if after.stage > progress.stage:
            assert now - entered >= POLICY.soak_s
            assert report["waiting"] + report["under_way"] == 0
            entered = now
        if progress.state == "canary" and report["failed"]:
            assert after.state == "paused"
        progress = after


def replace_policy(**changes: object) -> Policy:
    return POLICY.model_copy(update=changes)


# ── in the history ──────────────────────────────────────────────────────────────────────────────────────────────


def published(history: History, version: str = "2.0", counter: int = 1, wheel: bytes = b"wheel") -> None:
    release = Release(fleet="plant", counter=counter, version=version, wheel=reference(wheel))
    history.releases.publish(release, encode(release), bytes(64), wheel, POLICY, NOW)


def test_a_release_is_kept_as_it_was_signed_and_the_newest_is_the_one(history: History) -> None:
    assert history.releases.current("plant") is None
    assert history.releases.next_counter("plant") == 1
    published(history)
    published(history, "2.1", 2, b"another")
    assert history.releases.next_counter("plant") == 3
    record = history.releases.current("plant")
    assert record is not None
    assert (record.release.version, record.progress) == ("2.1", begin(2, POLICY))
    assert record.encoded == encode(record.release)
    assert history.releases.wheel(record.release) == b"another"
    assert [r.release.counter for r in history.reading.releases("plant").entries] == [2, 1]
    assert history.releases.current("other") is None


def test_how_far_it_is_and_what_an_operator_wishes_come_back_as_they_were(history: History) -> None:
    published(history)
    progress = replace(wider(), counter=1, report=RolloutStatus(counter=1, stage=1, updated=3))
    history.releases.ask("plant", "pause", NOW)
    history.releases.keep("plant", progress, None, NOW)
    record = history.releases.current("plant")
    assert record is not None
    assert (record.progress, record.wish) == (progress, "pause")
    assert record.progress.report == progress.report
    history.releases.keep("plant", progress, "pause", NOW)
    record = history.releases.current("plant")
    assert record is not None
    assert record.wish is None


@pytest.mark.parametrize(
    ("version", "counter", "wheel", "says"),
    [
        ("2.1", 1, b"another", "1 is published already"),
        ("2.0", 2, b"another", "2.0 was published with another wheel"),
    ],
)
def test_a_release_that_contradicts_an_earlier_one_is_refused(
    history: History, version: str, counter: int, wheel: bytes, says: str
) -> None:
    published(history)
    with pytest.raises(RunFailed, match=says):
        published(history, version, counter, wheel)


def test_an_older_version_may_be_published_anew(history: History) -> None:
    published(history)
    published(history, "2.1", 2, b"another")
    published(history, "2.0", 3)
    record = history.releases.current("plant")
    assert record is not None
    assert record.release.version == "2.0"


def test_what_is_asked_of_a_release_that_was_replaced_is_not_asked_of_the_newer_one(history: History) -> None:
    published(history)
    published(history, "2.1", 2, b"another")
    with pytest.raises(Conflict, match="was replaced by release 2"):
        history.releases.ask("plant", "pause", NOW, 1)
    assert [record.wish for record in history.reading.releases("plant").entries] == [None, None]
    assert history.releases.ask("plant", "pause", NOW, 2).wish == "pause"


def test_without_a_release_there_is_nothing_to_pause(history: History) -> None:
    with pytest.raises(RunFailed, match="publish one first"):
        history.releases.ask("plant", "pause", NOW)


def test_who_leads_no_more_changes_nothing_of_a_release(history: History) -> None:
    published(history)
    lease = history.leases.take_lease("plant", "one", history.leases.read_lease("plant"), NOW)
    assert lease is not None
    history.leases.take_lease("plant", "other", history.leases.read_lease("plant"), NOW)
    with pytest.raises(LeaseLost):
        history.led(lease).releases.keep("plant", replace(wider(), counter=1), None, NOW)
    record = history.releases.current("plant")
    assert record is not None
    assert record.progress.stage == 0
