"""What a parent takes into its sum: numbers are held against what it can hold and tell, each fault with its reason."""

from dataclasses import replace

import numpy as np
import pytest

from headwater.core.round import Arrived, Round, open_round, step
from headwater.core.select import Chosen
from headwater.node.hosting import (
    MAX_MEMBERS_TOLD,
    MEMBERS_SIZE_BYTES,
    Arrival,
    Contribution,
    Opening,
    check_sums,
    check_tallies,
    checked_tensors,
    fold,
    open_hosted,
    status_of,
)
from headwater.node.uplink import Link, going
from headwater.schemas.learning import Compression, Learning, Pruning, Strategy
from headwater.schemas.limits import (
    MAX_CHILDREN,
    MAX_COUNT,
    MAX_OBJECT_SIZE_BYTES,
    MAX_STATUS_SIZE_BYTES,
    MAX_TALLIED,
    MAX_WEIGHED,
)
from headwater.schemas.manifest import TRAIN_S, Example, Manifest, Parameter, Tally
from headwater.schemas.messages import Counts, Delta, Metric, ObjectRef, Plan, RoundKey
from headwater.schemas.statuses import Times
from headwater.schemas.tensors import TensorError, encode_tensor
from headwater.schemas.wire import WireError, encode, encode_status, reference
from headwater.transport.session import Traffic
from support.deltas import manifest

MANIFEST = Manifest(
    model="m",
    objective="cross_entropy",
    parameters=(Parameter(name="w", shape=(1,)),),
    x=Example(shape=(1,), dtype="float32"),
    y=Example(shape=(), dtype="int64", classes=2),
    metrics=("loss",),
    tallies=(Tally(name="class_examples", length=2), Tally(name="error_sketch", length=3)),
)


def counts(*values: float, name: str = "class_examples", dtype: type = np.float64) -> Counts:
    return Counts(split="test", name=name, values=encode_tensor(np.array(values, dtype)))


def delta(*tallies: Counts, devices: int = 1) -> Delta:
    key = RoundKey(run="r", round=1)
    return Delta(key=key, sender="d1", task="evaluate", weight=2.0, examples=2, devices=devices, tallies=tallies)


def test_what_the_manifest_names_is_taken() -> None:
    check_tallies(delta(counts(1, 1), counts(0, 0, 2, name="error_sketch")), MANIFEST)
    check_tallies(delta(), MANIFEST)
    check_tallies(delta(counts(2.0 * MAX_TALLIED, 0), devices=2), MANIFEST)


@pytest.mark.parametrize(
    ("tallies", "reason", "says"),
    [
        pytest.param(
            [counts(1, 1, name="secrets")], "malformed", "secrets is not in the manifest", id="a strange name"
        ),
        pytest.param([counts(1, 1), counts(1, 1)], "malformed", "one stands twice", id="twice"),
        pytest.param([counts(1, 1, 1)], "wrong_shape", r"float64 \[3\] where float64 \[2\]", id="another length"),
        pytest.param([counts(1, 1, dtype=np.float32)], "wrong_shape", "float32", id="another dtype"),
        pytest.param([counts(1, np.nan)], "not_finite", "class_examples: holds NaN", id="no number"),
        pytest.param([counts(1, -1)], "malformed", "holds -1.0; a count is at least 0", id="less than nothing"),
        pytest.param([counts(1, 1e300)], "malformed", "a device", id="more than anyone has"),
    ],
)
def test_tallies_that_do_not_fit_are_refused(tallies: list[Counts], reason: str, says: str) -> None:
    with pytest.raises((WireError, TensorError), match=says) as caught:
        check_tallies(delta(*tallies), MANIFEST)
    assert caught.value.reason == reason


PRUNING = Pruning(sparsity=0.5, at_round=2)
KEY = RoundKey(run="r", round=1)
PLAN = Plan(key=KEY, task="evaluate", data="d", model=reference(b"m"), bundle=reference(b"b"))


def loss(total: float, weight: float) -> Metric:
    return Metric(split="test", name="loss", total=total, weight=weight)


def said(sender: str = "d1", *metrics: Metric, **numbers: float) -> Delta:
    common = {"key": KEY, "sender": sender, "task": "evaluate", "weight": 2.0, "examples": 2, "devices": 1}
    return Delta.model_validate(common | {"metrics": metrics} | numbers)


def received(examples: int = 0, devices: int = 0) -> Round:
    return replace(open_round(KEY, "ab", quorum=1.0, deadline_s=1.0, now=0.0), examples=examples, devices=devices)


@pytest.mark.parametrize(
    ("delta", "so_far", "says"),
    [
        pytest.param(said(examples=MAX_COUNT), received(examples=1), "examples: ", id="more examples than are counted"),
        pytest.param(said(devices=MAX_COUNT), received(devices=1), "devices: ", id="more devices than are counted"),
        pytest.param(said(weight=1e300), received(), r"weight: 1e\+300", id="a weight whose sum is no number"),
        pytest.param(said("d1", loss(1e308, 2.0)), received(), "loss is 1e", id="a metric whose sum is no number"),
        pytest.param(said("d1", loss(-1e308, 2.0)), received(), "loss is -1e", id="the same below nothing"),
        pytest.param(said("d1", loss(1.0, 1e300)), received(), "loss is 1.0 over 1e", id="a metric's weight"),
        pytest.param(said("d1", loss(1.0, 1e-300)), received(), "over 1e-300", id="a mean that is no number"),
        pytest.param(said("d1", loss(1.0, 0.0)), received(), "over 0.0", id="a total over nothing"),
    ],
)
def test_numbers_that_no_sum_can_hold_are_refused(delta: Delta, so_far: Round, says: str) -> None:
    with pytest.raises(WireError, match=says) as caught:
        check_sums(delta, so_far)
    assert caught.value.reason == "malformed"


def test_a_round_of_the_largest_numbers_that_are_taken_can_be_told_and_sent_on() -> None:
    """What ends the parent that tells of it would end it again when it takes up its journal."""
    most = said("d1", loss(MAX_WEIGHED * MAX_WEIGHED, MAX_WEIGHED), weight=MAX_WEIGHED, examples=MAX_COUNT // 2)
    hosted = open_hosted(PLAN, MANIFEST, Opening(frozenset("ab"), Chosen(None, 2)), Traffic(), 0.0)
    for sender in "ab":
        delta = most.model_copy(update={"sender": sender})
        tensors = checked_tensors(delta, sender, hosted)
        hosted.round, _ = step(hosted.round, Arrived.of(delta), 0.1)
        fold(hosted, Arrival(delta, tensors, encode(delta), False), 1.0, 0.1)
    status = status_of(hosted, "gw", {}, Traffic(), 1.0)
    assert (status.examples, status.metrics) == (MAX_COUNT // 2 * 2, {"test/loss": MAX_WEIGHED})
    said("gw", *hosted.sum.metrics, weight=hosted.sum.weight, examples=hosted.round.examples)


@pytest.mark.parametrize(
    ("count", "length", "told"),
    [
        pytest.param(10, 64, 10, id="a small one"),
        pytest.param(MAX_CHILDREN, 16, MAX_MEMBERS_TOLD, id="the largest"),
        pytest.param(MAX_CHILDREN, 64, 819, id="the largest, of the longest names"),
    ],
)
def test_a_status_of_any_cluster_passes_a_broker(count: int, length: int, told: int) -> None:
    cohort = frozenset(f"{i:06}".rjust(length, "d") for i in range(count))
    hosted = open_hosted(PLAN, MANIFEST, Opening(cohort, Chosen(None, count)), Traffic(), 0.0)
    most = ObjectRef(sha256=bytes(32), size_bytes=MAX_OBJECT_SIZE_BYTES)
    for node in cohort:
        hosted.contributions.append(
            Contribution(
                node, 1.0, MAX_COUNT, MAX_COUNT, 1e-300 / 7, KEY, 1.0, most, loss=-1e-300 / 7, train_s=1e99 / 7
            )
        )
    status = status_of(hosted, "gw", {}, Traffic(), 1.0)
    assert status.cohort == count
    assert [member.node for member in status.members] == sorted(cohort)[:told]
    assert len(encode_status(status)) <= MEMBERS_SIZE_BYTES + 2048 < MAX_STATUS_SIZE_BYTES


def test_a_status_tells_of_each_member_what_its_delta_said() -> None:
    hosted = open_hosted(PLAN, MANIFEST, Opening(frozenset("ab"), Chosen(None, 2)), Traffic(), 10.0)
    spent = Metric(split="train", name=TRAIN_S, total=0.5, weight=1.0)
    loss_told = Metric(split="train", name="loss", total=3.0, weight=2.0)
    told = said("a", spent, loss_told)
    hosted.round, _ = step(hosted.round, Arrived.of(told), 12.0)
    fold(hosted, Arrival(told, checked_tensors(told, "a", hosted), b"payload", False), 1.0, 12.0)
    a, b = status_of(hosted, "gw", {}, Traffic(), 13.0).members
    assert (a.after_s, a.train_s, a.loss, a.size_bytes) == (2.0, 0.5, 1.5, 7)
    assert (b.after_s, b.train_s, b.loss, b.size_bytes) == (None, None, None, 0)


def test_the_times_of_a_round_are_told_when_it_has_ended_and_are_no_metric() -> None:
    hosted = open_hosted(PLAN, MANIFEST, Opening(frozenset("ab"), Chosen(None, 2)), Traffic(), 10.0)
    for node, after_s, train_s in (("a", 2.0, 1.5), ("b", 4.0, 2.5)):
        told = said(node, Metric(split="train", name=TRAIN_S, total=train_s, weight=1.0))
        fold(hosted, Arrival(told, (), b"payload", False), 1.0, 10.0 + after_s)
    assert status_of(hosted, "gw", {}, Traffic(), 14.0).times is None
    hosted.round = replace(hosted.round, state="closed")
    status = status_of(hosted, "gw", {}, Traffic(), 14.0)
    assert status.times == Times(train_s=2.0, transfer_s=1.0, wait_s=1.0)
    assert status.metrics == {}


def test_nobody_speaks_for_another_not_even_of_a_round_that_is_over() -> None:
    """Else its parent would answer the other, which forgets what it has for that round."""
    hosted = open_hosted(PLAN, MANIFEST, Opening(frozenset("ab"), Chosen(None, 2)), Traffic(), 0.0)
    over = said("b", key=RoundKey(run="r", round=0))
    with pytest.raises(WireError, match="sender: b on the topic of a"):
        checked_tensors(over, "a", hosted)
    assert checked_tensors(over, "b", hosted) == ()


def test_a_late_control_variate_counts_whole() -> None:
    """Half of the step of a late update is taken, and all of what its device's control variate has moved by."""
    learning = Learning(strategy=Strategy(name="scaffold"))
    plan = PLAN.model_copy(update={"task": "train", "learning": learning})
    hosted = open_hosted(plan, manifest(1), Opening(members=frozenset({"d1"})), Traffic(), 0.0)
    late = Delta.model_construct(key=KEY, sender="d1", task="train", weight=2.0, examples=1, devices=1)
    fold(
        hosted, Arrival(late, (np.array([8.0], np.float32), np.array([6.0], np.float32)), b"d", is_kept=False), 0.5, 0.0
    )
    assert [tensor.tolist() for tensor in hosted.sum.mean()] == [[2.0], [3.0]]


# ── a model that lost weights ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("round_", [2, 3], ids=["before the mask", "behind it"])
def test_an_update_is_read_by_what_was_left_when_its_plan_began(round_: int) -> None:
    """The mask came with the end of round 2; in round 4 an update of either side of it may still be under way."""
    about, mask = manifest(4), np.array([True, False, True, False])
    learning = Learning(uplink=Compression(codec="topk", values="fp32", fraction=1.0), pruning=PRUNING)
    update = np.array([5, 6, 7, 8], np.float32) if round_ == 2 else np.array([5, 0, 7, 0], np.float32)
    masks = () if round_ == 2 else (mask,)
    plan = PLAN.model_copy(update={"task": "train", "learning": learning, "key": KEY.model_copy(update={"round": 4})})
    old = plan.model_copy(update={"key": KEY.model_copy(update={"round": round_})})
    empty = Delta.model_construct(key=old.key, sender="d1", task="train", weight=1.0, examples=1, devices=1)
    sent = going(empty, (update,), Link(old, about, learning.uplink, masks), {}, np.random.default_rng(0)).delta
    late = plan.model_copy(update={"max_staleness": 5})
    hosted = open_hosted(late, about, Opening(members=frozenset({"d1"}), masks=(mask,)), Traffic(), 0.0)
    (found,) = checked_tensors(sent, "d1", hosted)
    assert found.tolist() == update.tolist()
