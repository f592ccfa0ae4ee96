"""Law: one plan from above becomes κ2 edge rounds below, and one delta goes up with the gateway as its sender.

    w_0 ← model of the plan
    for k in 1..κ2:  w_k ← w_{k-1} + (Σ w_i·Δ_i) / (Σ w_i)      over the cluster
    send w·(w_κ2 − w_0) with the cluster's weight w                 HierFAVG, Liu et al. 2020, algorithm 1

With κ2 = 1 the cluster's sum goes up as it is, so that the tree equals flat FedAvg; where the run says so it is encoded
anew. Metrics of the received model come from the first edge round, training metrics from all of them. None of it needs
the way up: a gateway that has lost its parent goes on to the end of its plan, and keeps what came of it.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import numpy as np

from headwater.core.aggregate import Parameters
from headwater.core.optimise import cluster, with_steps
from headwater.gateway.course import Course, Told, read, written
from headwater.gateway.uplink import Uplink
from headwater.node.child import Assignment, Decline
from headwater.node.hosting import RoundResult
from headwater.node.journal import JournalFull
from headwater.node.logs import about
from headwater.node.parent import Parent
from headwater.node.places import own
from headwater.node.store import NodeStore
from headwater.node.tasks import Background
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Delta, ObjectRef, Plan, RoundKey
from headwater.schemas.tensors import Array, TensorError, encode_tensors, models_of
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore

log = logging.getLogger("headwater.gateway")

MAX_REFUSALS_NOTED: Final = 16
"""At once; more is not on its way up."""

DEADLINE_SHARE: Final = 0.8
"""Of the time that the parent allows; the rest is for the way up."""


def edge_plan(plan: Plan, index: int, model: ObjectRef, remaining_s: float, node: str) -> Plan:
    """The cluster's plan of edge round `index`: numbered so that steps grow within the round at any depth.

    `remaining_s` is shared evenly by the edge rounds that are left; the received model is evaluated once. A cluster is
    synchronous, whatever the run: versions of the model are made at the top, so only there can an update be of an old
    one. Its devices learn as fast as the run says for this gateway.
    """
    return plan.model_copy(
        update={
            "key": plan.key.model_copy(update={"step": plan.key.step * plan.edge_rounds + index}),
            "model": model,
            "patch": plan.patch if model == plan.model else None,
            "edge_rounds": 1,
            "learning_rate": plan.learning_rate * plan.learning.pace.cluster_rates.get(node, 1.0),
            "evaluate": plan.evaluate and index == 0,
            "deadline_s": remaining_s / (plan.edge_rounds - index),
            "max_staleness": 0,
            "buffer": 0,
        }
    )


class Relay:
    """The gateway's work on one plan: host the edge rounds, sum up.

    Args:
        objects: where the cluster's models are served from.
        store: where the course of the edge rounds outlives a reboot.
    """

    def __init__(self, node: str, parent: Parent, objects: ObjectStore, store: NodeStore) -> None:
        self._node = node
        self._parent = parent
        self._objects = objects
        self._store = store
        self._uplink = Uplink(store)
        self._noting = Background(MAX_REFUSALS_NOTED)

    async def work(self, assignment: Assignment) -> Delta | Decline:
        """The delta of one plan, or why there is none. A plan that an earlier process began goes on where it was."""
        try:
            assignment = self._of_its_place(assignment)
            models = models_of(assignment.bundle.manifest, assignment.model)
        except TensorError as error:
            return Decline(error.reason, f"model: {error}")
        # The children's births have come before the connection is proven.
        await self._parent.session.wait_connected()
        plan = assignment.plan
        if plan.task != "train" or plan.edge_rounds == 1:
            return await self._once(assignment, len(models))
        return await self._averaged(assignment, models)

    def _of_its_place(self, assignment: Assignment) -> Assignment:
        """Where each place has a model of its own the cluster gets that one, as if there were no others."""
        placed = own(assignment, self._node)
        if placed is not assignment:
            self._objects.put(encode(placed.model))
        return placed

    def refused(self, key: RoundKey) -> None:
        """The parent did not take the sum of this plan."""
        self._noting.start(self._uplink.refused(key))

    async def _once(self, assignment: Assignment, models: int) -> Delta | Decline:
        plan = assignment.plan
        result = await self._host(assignment, 0, plan.model, models)
        if not result.closed:
            return self._no_quorum()
        return await self._delta(assignment, Told().after(result), cluster.as_it_is(result.sum))

    async def _averaged(self, assignment: Assignment, base: Sequence[Parameters]) -> Delta | Decline:
        plan, manifest = assignment.plan, assignment.bundle.manifest
        course = await self._resumed(plan, manifest) or Course(cluster.begin(base))
        while course.edge.done < plan.edge_rounds:
            model = self._model(assignment, course)
            result = await self._host(assignment, course.edge.done, model, len(base))
            if not result.closed:
                break
            course = course.after(plan.learning, manifest, result)
            await self._keep(plan, course)
        if not course.edge.done:
            return self._no_quorum()
        total = cluster.total(plan.learning, manifest, course.edge, base)
        told = course.told.of_one_round(course.edge.done)
        if plan.learning.strategy.local_rule == "normalised":
            told = told.model_copy(update={"metrics": with_steps(told.metrics, total.local_steps, total.weight)})
        return await self._delta(assignment, told, total)

    async def _host(self, assignment: Assignment, index: int, model: ObjectRef, models: int) -> RoundResult:
        plan = edge_plan(assignment.plan, index, model, self._remaining_s(assignment), self._node)
        with about(plan.key):
            return await self._parent.host(plan, assignment.bundle.manifest, models=models, masks=assignment.masks)

    def _model(self, assignment: Assignment, course: Course) -> ObjectRef:
        """What an edge round begins with: the received model, and then the cluster's own."""
        if not course.edge.done:
            return assignment.plan.model
        tensors = encode_tensors(value for parameters in course.edge.models for value in parameters)
        return self._objects.put(encode(assignment.model.model_copy(update={"tensors": tensors})))

    async def _resumed(self, plan: Plan, manifest: Manifest) -> Course | None:
        payload = await asyncio.to_thread(self._store.course, plan.key)
        course = read(payload, plan.learning, manifest) if payload is not None else None
        if course is not None:
            log.info("round %d goes on behind edge round %d of %d", plan.key.round, course.edge.done, plan.edge_rounds)
        return course

    async def _keep(self, plan: Plan, course: Course) -> None:
        """Without room for it a restart does these edge rounds again, with what the cluster was acknowledged."""
        try:
            await asyncio.to_thread(self._store.keep_course, plan.key, written(course))
        except JournalFull as error:
            log.warning("edge round %d of round %d is in memory alone: %s", course.edge.done, plan.key.round, error)

    def _no_quorum(self) -> Decline:
        return Decline("training_failed", f"no quorum in the cluster of {self._node}")

    def _remaining_s(self, assignment: Assignment) -> float:
        """Never nothing: a plan that comes late still gets a moment, and the parent's own deadline decides."""
        elapsed_s = asyncio.get_running_loop().time() - assignment.arrived_at
        return max(0.05, assignment.plan.deadline_s * DEADLINE_SHARE - elapsed_s)

    async def _delta(self, assignment: Assignment, told: Told, total: cluster.Total) -> Delta:
        plan = assignment.plan
        travelling = np.float64 if plan.task == "statistics" else np.float32
        terms: tuple[Array, ...] = tuple(tensor.astype(travelling) for tensor in total.terms)
        delta = Delta.model_construct(
            key=plan.key,
            sender=self._node,
            task=plan.task,
            weight=total.weight,
            examples=told.examples,
            devices=told.devices,
            metrics=told.metrics,
            tallies=told.tallies,
            shares=total.shares,
        )
        return await self._uplink.encoded(delta, terms, assignment)
