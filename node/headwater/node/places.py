"""Law: where each child of the cloud has a model of its own, who is below it sees that one and knows of no others."""

from dataclasses import replace

from headwater.node.child import Assignment
from headwater.schemas.learning import Clusters
from headwater.schemas.limits import MAX_CLUSTERS
from headwater.schemas.messages import Model, Tensor
from headwater.schemas.tensors import TensorError
from headwater.schemas.wire import encode, reference


def own(assignment: Assignment, node: str) -> Assignment:
    """The assignment with the node's own model in place of all places', or as it is where there are none.

    Raises:
        TensorError: there is no model for this node yet, or the tensors are not as many as there are models.
    """
    plan, model = assignment.plan, assignment.model
    if not (plan.learning.has_places and model.clusters):
        return assignment
    if node not in model.clusters:
        raise TensorError("wrong_shape", no_model_for(node))
    place, places = model.clusters.index(node), len(model.clusters)
    cut = Model(
        run=model.run,
        version=model.version,
        tensors=_part(model.tensors, place, places),
        companions=_part(model.companions, place, places),
    )
    learning = plan.learning.model_copy(update={"clusters": Clusters()})
    plan = plan.model_copy(update={"model": reference(encode(cut)), "learning": learning, "patch": None})
    return replace(assignment, plan=plan, model=cut)


def no_model_for(node: str) -> str:
    """Why a node cannot take part."""
    return f"there is no model for {node} yet; the next round has one, unless {MAX_CLUSTERS} others do"


def _part(tensors: tuple[Tensor, ...], place: int, places: int) -> tuple[Tensor, ...]:
    if len(tensors) % places:
        raise TensorError("wrong_shape", f"tensors: {len(tensors)} are not those of {places} models")
    each = len(tensors) // places
    return tensors[place * each : (place + 1) * each]
