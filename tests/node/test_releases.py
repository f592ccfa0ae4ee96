"""What goes down the tree of a release, and what comes up: draws, sums, and a wheel on a bad link."""

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.node.releases import Begun, Software, is_asked, sum_up
from headwater.schemas.limits import CHUNK_SIZE_BYTES
from headwater.schemas.messages import Release, Rollout, Want
from headwater.schemas.statuses import FailedUpdate, NodeStatus, RolloutStatus
from headwater.schemas.wire import WireError, encode, reference
from headwater.transport.objects import chunks
from headwater.transport.session import LinkDown

WHEEL = bytes(range(256)) * (CHUNK_SIZE_BYTES // 128)
RELEASE = Release(fleet="plant", counter=7, version="2.0", wheel=reference(WHEEL))
NODES = [f"pump-{i}" for i in range(2000)]


def word(release: Release = RELEASE, **whom: object) -> Rollout:
    return Rollout.model_validate({"release": encode(release), "signature": bytes(64)} | whom)


def asked(share: float, counter: int = 7) -> set[str]:
    release = RELEASE.model_copy(update={"counter": counter})
    return {node for node in NODES if is_asked(word(release, share=share), release, node)}


# ── who is asked ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_share_is_that_share_of_the_fleet_and_everyone_is_everyone() -> None:
    assert asked(0.0) == set()
    assert 150 < len(asked(0.1)) < 250
    assert asked(1.0) == set(NODES)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_wider_stage_asks_everyone_whom_a_narrower_one_asked(one: float, other: float) -> None:
    assert asked(min(one, other)) <= asked(max(one, other))


def test_another_release_begins_with_others() -> None:
    assert len(asked(0.1, 7) & asked(0.1, 8)) < 60


def test_those_that_are_named_are_asked_beside_the_share() -> None:
    named = word(nodes=("pump-1",))
    assert is_asked(named, RELEASE, "pump-1")
    assert not is_asked(named, RELEASE, "pump-2")


# ── what comes up ───────────────────────────────────────────────────────────────────────────────────────────────


def child(node: str, state: str | None, *, counter: int = 7, online: bool = True, detail: str = "") -> NodeStatus:
    update = {"version": "2.0", "state": state, "counter": counter, "detail": detail} if state else None
    return NodeStatus.model_validate(
        {
            "node": node,
            "role": "device",
            "parent": "gw",
            "state": "online" if online else "offline",
            "update": update,
        }
    )


def cluster(node: str, below: RolloutStatus | None, *, online: bool = True) -> NodeStatus:
    return NodeStatus.model_validate(
        {"node": node, "role": "gateway", "parent": "cloud", "state": "online" if online else "offline"}
    ).model_copy(update={"rollout": below})


def summed(*children: NodeStatus, begun: Begun | None = None, **whom: object) -> RolloutStatus:
    members = {status.node: status for status in children}
    return sum_up(word(**({"share": 1.0} | whom)), RELEASE, members, begun or Begun())[0]


def test_devices_are_counted_by_how_far_they_are() -> None:
    status = summed(
        child("a", "updated", counter=6),
        child("b", "downloading"),
        child("c", "updating"),
        child("d", "updated"),
        child("e", "failed", detail="no room"),
        child("f", None),
        child("g", "updated", online=False),
    )
    assert status == RolloutStatus(
        counter=7,
        stage=0,
        waiting=1,
        under_way=2,
        updated=1,
        failed=1,
        failures=(FailedUpdate(node="e", detail="no room"),),
    )


def test_whoever_is_not_asked_is_not_counted_and_whoever_is_named_is_told_by_name() -> None:
    status = summed(child("a", "updated"), child("b", "updated"), share=0.0, nodes=("b", "c"))
    assert (status.updated, status.named) == (1, ("b",))


@pytest.mark.parametrize(("last", "counts"), [("updating", (1, 0)), ("updated", (1, 0)), ("failed", (0, 1))])
def test_whoever_had_begun_and_is_gone_is_away_unless_it_had_failed(last: str, counts: tuple[int, int]) -> None:
    members = {"a": child("a", last)}
    _, begun = sum_up(word(share=1.0), RELEASE, members, Begun())
    gone = summed(child("a", None, online=False), begun=begun)
    assert (gone.away, gone.failed) == counts
    other = RELEASE.model_copy(update={"counter": 8})
    later, _ = sum_up(word(other, share=1.0), other, {"a": child("a", None, online=False)}, begun)
    assert later.away == 0, "of another release it had not begun"


def test_clusters_add_up_and_one_that_has_not_heard_of_this_stage_waits() -> None:
    below = RolloutStatus(counter=7, stage=3, updated=5, failed=1, away=2, named=("x",))
    status = summed(
        cluster("gw1", below),
        cluster("gw2", below.model_copy(update={"stage": 2})),
        cluster("gw3", None),
        cluster("gw4", None, online=False),
        child("a", "updated"),
        stage=3,
    )
    assert (status.updated, status.failed, status.away, status.waiting) == (6, 1, 2, 2)
    assert status.named == ("x",)


def test_a_large_clusters_failures_stay_within_their_bounds() -> None:
    status = summed(*(child(f"d{i}", "failed", detail="x" * 1024) for i in range(500)))
    assert (status.failed, len(status.failures)) == (500, 16)


# ── the wheel ───────────────────────────────────────────────────────────────────────────────────────────────────


async def asking(software: Software, wants: list[Want], *, fails: int = 0) -> "asyncio.Task[None]":
    left = fails

    async def want(message: Want) -> None:
        nonlocal left
        wants.append(message)
        left -= 1
        if left >= 0:
            raise LinkDown("away")

    task = asyncio.create_task(software.ask(want))
    await asyncio.sleep(0)
    return task


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_missing_chunks_are_asked_for_until_the_wheel_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.node.releases.ASK_AGAIN_AFTER_S", 0.05)
    software, wants = Software(), []
    software.hear(word(share=1.0))
    task = await asking(software, wants, fails=1)
    software.fetch(RELEASE.wheel)
    pieces = list(chunks(WHEEL))
    await asyncio.sleep(0.02)
    assert [want.missing for want in wants] == [(0, 1)]
    software.take(pieces[1])
    await asyncio.sleep(0.2)
    assert wants[-1].missing == (0,)
    assert software.take(pieces[0])
    assert software.wheel == WHEEL
    asked_so_far = len(wants)
    await asyncio.sleep(0.2)
    assert len(wants) == asked_so_far
    await ended(task)


async def test_what_nobody_fetches_is_not_taken_in() -> None:
    software = Software()
    software.hear(word(share=1.0))
    assert not any(software.take(piece) for piece in chunks(WHEEL))
    software.fetch(RELEASE.wheel)
    assert not any(software.take(piece) for piece in chunks(b"another object"))
    software.fetch(None)
    assert not any(software.take(piece) for piece in chunks(WHEEL))


async def test_another_release_lets_the_last_ones_wheel_go_and_the_same_wheel_stays() -> None:
    software = Software()
    software.hear(word(share=1.0))
    software.fetch(RELEASE.wheel)
    for piece in chunks(WHEEL):
        software.take(piece)
    software.hear(word(RELEASE.model_copy(update={"counter": 8}), share=1.0))
    assert software.wheel == WHEEL
    software.hear(word(RELEASE.model_copy(update={"counter": 9, "wheel": reference(b"other")}), share=1.0))
    assert software.wheel is None


def test_a_rollout_without_a_release_is_refused() -> None:
    with pytest.raises(WireError):
        Software().hear(Rollout(release=b"\x81", signature=bytes(64)))
