"""The plan of an edge round: what of the cloud's word a cluster hears, and what is its gateway's own."""

from typing import Any

import pytest

from headwater.gateway.relay import edge_plan
from headwater.schemas.learning import Learning, Pace
from headwater.schemas.messages import Errors, PatchRef, Plan, RoundKey
from headwater.schemas.wire import reference

MODEL, OWN, PATCH = (reference(name) for name in (b"the cloud's", b"the cluster's", b"a patch"))
ERRORS = (Errors(split="test", first=3, counts=(1.0,)),)
PLAN = Plan(
    key=RoundKey(run="r", round=4, step=2),
    task="train",
    data="d",
    model=MODEL,
    bundle=MODEL,
    edge_rounds=3,
    learning_rate=0.1,
    evaluate=True,
    max_staleness=5,
    buffer=2,
    learning=Learning(pace=Pace(cluster_rates={"gw1": 0.5})),
    patch=PatchRef(base=OWN, patch=PATCH, codec="int8"),
    mask=PATCH,
    errors=ERRORS,
)


@pytest.mark.parametrize(
    ("index", "model", "expected"),
    [
        (0, MODEL, {"evaluate": True, "patch": PLAN.patch, "deadline_s": 10.0}),
        (1, OWN, {"evaluate": False, "patch": None, "deadline_s": 15.0}),
    ],
    ids=["the received model", "the cluster's own"],
)
def test_a_cluster_hears_the_clouds_word_but_for_what_is_its_gateways(
    index: int, model: Any, expected: dict[str, Any]
) -> None:
    """A patch leads to the received model alone; how far off the fleet is, and what is left of a model, is the cloud's."""
    made = edge_plan(PLAN, index, model, 30.0, "gw1")
    ours = {
        "key",
        "model",
        "edge_rounds",
        "learning_rate",
        "evaluate",
        "deadline_s",
        "max_staleness",
        "buffer",
        "patch",
    }
    assert made.key == RoundKey(run="r", round=4, step=6 + index)
    assert (made.model, made.edge_rounds, made.learning_rate) == (model, 1, 0.05)
    assert (made.max_staleness, made.buffer) == (0, 0)
    assert {name: getattr(made, name) for name in expected} == expected
    assert made.model_dump(exclude=ours) == PLAN.model_dump(exclude=ours)
    assert made.errors == ERRORS
