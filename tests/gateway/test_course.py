"""The edge rounds of a plan on the gateway's disk: a restart behind any of them sends what none would have."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headwater.core import round as rounds
from headwater.core.aggregate import WeightedSum
from headwater.core.optimise import cluster
from headwater.gateway.course import Course, Told, read, written
from headwater.node.hosting import RoundResult
from headwater.schemas.learning import Learning
from headwater.schemas.manifest import LOCAL_STEPS, TRAIN_S, WAIT_S
from headwater.schemas.messages import Metric, Plan, RoundKey
from headwater.schemas.statuses import RoundStatus, Times
from headwater.schemas.tensors import delta_specs
from headwater.schemas.wire import reference
from headwater.transport.session import Traffic
from support.deltas import manifest

MANIFEST = manifest(3)
REF = reference(b"of no interest here")
EDGE_ROUNDS = 3


def closed(learning: Learning, step: int, models: int) -> RoundResult:
    """An edge round of two devices, of each model one where there are several."""
    rng = np.random.default_rng(step)
    shapes = [shape for _, shape, _ in delta_specs("train", MANIFEST, learning)]
    total = WeightedSum(shapes, models)
    for device, weight in enumerate((1.0, 2.0)):
        terms = [weight * rng.normal(size=shape) for shape in shapes]
        shares = [weight if model == device else 0.0 for model in range(models)] if models > 1 else ()
        steps = Metric(split="train", name=LOCAL_STEPS, total=weight * (3 + step + device), weight=weight)
        total.add(terms, weight, (steps,), shares=shares)
    plan = Plan(key=RoundKey(run="r", round=1, step=step), task="train", data="d", model=REF, bundle=REF)
    opened = rounds.open_round(plan.key, ["d0", "d1"], quorum=1.0, deadline_s=1.0, now=0.0)
    round_ = replace(opened, examples=3, devices=2)
    return RoundResult(plan, round_, total, (), (), 0, 1.0, Traffic())


@pytest.mark.parametrize(
    ("sections", "models"),
    [
        ({}, 1),
        ({"strategy": {"name": "scaffold"}}, 1),
        ({"strategy": {"name": "fednova"}}, 1),
        ({"clusters": {"by": "likeness"}}, 2),
    ],
    ids=["plain", "control variates", "normalised steps", "two models"],
)
def test_a_gateway_that_begins_anew_behind_any_edge_round_sends_the_same(sections: dict[str, Any], models: int) -> None:
    learning = Learning.model_validate(sections)
    base = tuple((np.full(3, float(model), np.float32),) for model in range(models))
    straight = resumed = Course(cluster.begin(base))
    for step in range(EDGE_ROUNDS):
        result = closed(learning, step, models)
        straight = straight.after(learning, MANIFEST, result)
        found = read(written(resumed.after(learning, MANIFEST, result)), learning, MANIFEST)
        assert found is not None
        resumed = found
        assert (resumed.told, resumed.edge.done) == (straight.told, step + 1)
    one, other = (cluster.total(learning, MANIFEST, course.edge, base) for course in (straight, resumed))
    assert (one.weight, one.shares, one.local_steps) == (other.weight, other.shares, other.local_steps)
    assert len(one.terms) == models * len(delta_specs("train", MANIFEST, learning))
    for a, b in zip(one.terms, other.terms, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_devices_seconds_are_those_of_all_edge_rounds() -> None:
    """Two edge rounds in which each of two devices worked 3 s and waited 1 s: to the parent it is one round of 6 s and 2 s."""
    learning = Learning()
    told = Told()
    spent = Times(train_s=3.0, transfer_s=0.5, wait_s=1.0)
    for step in range(2):
        result = closed(learning, step, 1)
        result.sum.add((), 0.0, [Metric(split="train", name=TRAIN_S, total=6.0, weight=2.0)])
        result = replace(result, told=RoundStatus.model_construct(times=spent))
        told = told.after(result)
    seconds = {m.name: (m.total, m.weight) for m in told.of_one_round(2).metrics if m.name != LOCAL_STEPS}
    assert seconds == {TRAIN_S: (12.0, 2.0), WAIT_S: (4.0, 2.0)}


def test_what_is_damaged_or_of_another_model_is_none() -> None:
    learning = Learning()
    course = Course(cluster.begin([(np.zeros(3, np.float32),)])).after(learning, MANIFEST, closed(learning, 0, 1))
    payload = written(course)
    assert read(payload, learning, MANIFEST) is not None
    assert read(payload, learning, manifest(4)) is None
    assert read(payload[:-5], learning, MANIFEST) is None
    assert read(b"", learning, MANIFEST) is None
