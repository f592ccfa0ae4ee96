"""One model out of those of all places: it is read as if there were no others."""

from typing import Any

import numpy as np
import pytest

from headwater.node.child import Assignment
from headwater.node.places import own
from headwater.schemas.learning import Clusters, Learning
from headwater.schemas.messages import Errors, Model, PatchRef
from headwater.schemas.tensors import TensorError, decode_tensor, encode_tensors
from headwater.schemas.wire import encode, reference
from headwater.transport.objects import ObjectStore
from support.fleets import BUNDLE, plan

ERRORS = (Errors(split="test", first=3, counts=(1.0,)),)
REF = reference(b"of no interest here")
PLACES = ("gw1", "gw2")


def assigned(clusters: tuple[str, ...] = PLACES, tensors: int = 2, by: Any = "place") -> Assignment:
    values = [np.full(4, float(number), np.float32) for number in range(tensors)]
    model = Model(run="r", version=2, tensors=encode_tensors(values), clusters=clusters)
    learning = Learning(clusters=Clusters(by=by))
    patch = PatchRef(base=REF, patch=REF, codec="int8")
    about = plan(3, ObjectStore(10**6), model=reference(encode(model)), learning=learning, patch=patch, errors=ERRORS)
    return Assignment(about, model, BUNDLE, 0.0)  # type: ignore[arg-type]


def test_a_place_has_its_own_model_and_knows_of_no_others() -> None:
    placed = own(assigned(), "gw2")
    assert [decode_tensor(tensor).tolist() for tensor in placed.model.tensors] == [[1.0] * 4]
    assert placed.model.clusters == ()
    assert placed.plan.model == reference(encode(placed.model))
    assert not placed.plan.learning.has_places
    # A patch is of all places' models; the fleet's errors are everybody's.
    assert (placed.plan.patch, placed.plan.errors) == (None, ERRORS)
    assert own(placed, "d0") is placed


@pytest.mark.parametrize(
    ("assignment", "node", "says"),
    [
        (assigned(), "gw3", "no model for gw3 yet; the next round has one"),
        (assigned(tensors=3), "gw1", "3 are not those of 2 models"),
    ],
    ids=["a new place", "a torn model"],
)
def test_without_a_model_of_its_own_a_place_declines(assignment: Assignment, node: str, says: str) -> None:
    with pytest.raises(TensorError, match=says):
        own(assignment, node)


def test_models_by_likeness_are_everybodys() -> None:
    assignment = assigned(by="likeness")
    assert own(assignment, "gw1") is assignment
