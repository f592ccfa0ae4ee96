"""Law: one plan from above becomes κ2 edge rounds below, and one delta goes up with the gateway as its sender.

    w_0 ← model of the plan
    for k in 1..κ2:  w_k ← w_{k-1} + (Σ w_i·Δ_i) / (Σ w_i)      over the cluster
    send w·(w_κ2 − w_0) with the cluster's weight w                 HierFAVG, Liu et al. 2020, algorithm 1

With κ2 = 1 the cluster's sum goes up as it is, so that the tree equals flat FedAvg. Metrics of the received model come
from the first edge round, training metrics from all of them. None of it needs the way up: a gateway that has lost its
parent goes on to the end of its plan, and keeps what came of it.
"""

import asyncio
import logging
from typing import Final

import numpy as np

from headwater.core.aggregate import Parameters, Sums, difference, shared, stepped
from headwater.gateway.course import Course, Told, read, written
from headwater.node.child import Assignment, Decline
from headwater.node.hosting import RoundResult
from headwater.node.journal import JournalFull
from headwater.node.parent import Parent
from headwater.node.store import NodeStore
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Delta, ObjectRef, Plan
from headwater.schemas.tensors import TensorError, decode_tensors, encode_tensors, parameter_specs
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore

log = logging.getLogger("headwater.gateway")

DEADLINE_SHARE: Final = 0.8
"""Of the time that the parent allows; the rest is for the way up."""


def edge_plan(plan: Plan, index: int, model: ObjectRef, remaining_s: float) -> Plan:
    """The cluster's plan of edge round `index`: numbered so that steps grow within the round at any depth.

    `remaining_s` is shared evenly by the edge rounds that are left; the received model is evaluated once. A cluster is
    synchronous, whatever the run: versions of the model are made at the top, so only there can an update be of an old
    one.
    """
    return plan.model_copy(
        update={
            "key": plan.key.model_copy(update={"step": plan.key.step * plan.edge_rounds + index}),
            "model": model,
            "edge_rounds": 1,
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

    async def work(self, assignment: Assignment) -> Delta | Decline:
        """The delta of one plan, or why there is none. A plan that an earlier process began goes on where it was."""
        plan, manifest = assignment.plan, assignment.bundle.manifest
        try:
            base = decode_tensors(assignment.model.tensors, parameter_specs(manifest.parameters))
        except TensorError as error:
            return Decline(error.reason, f"model: {error}")
        # The children's births have come before the connection is proven.
        await self._parent.session.wait_connected()
        if plan.task != "train" or plan.edge_rounds == 1:
            return await self._once(assignment)
        return await self._averaged(assignment, base)

    async def _once(self, assignment: Assignment) -> Delta | Decline:
        plan = assignment.plan
        result = await self._host(assignment, 0, plan.model)
        if not result.closed:
            return self._no_quorum()
        return self._delta(plan, Told().after(result), result.sum.totals, result.sum.weight)

    async def _averaged(self, assignment: Assignment, base: Parameters) -> Delta | Decline:
        plan, manifest = assignment.plan, assignment.bundle.manifest
        course = await self._resumed(plan, manifest) or Course(base)
        while course.done < plan.edge_rounds:
            result = await self._host(assignment, course.done, self._model(assignment, course))
            if not result.closed:
                break
            course = Course(stepped(manifest, course.parameters, result.sum.mean()), course.told.after(result))
            await self._keep(plan, course)
        if not course.done:
            return self._no_quorum()
        change = difference(shared(manifest, course.parameters), shared(manifest, base))
        return self._delta(plan, course.told, tuple(course.weight * tensor for tensor in change), course.weight)

    async def _host(self, assignment: Assignment, index: int, model: ObjectRef) -> RoundResult:
        plan = edge_plan(assignment.plan, index, model, self._remaining_s(assignment))
        return await self._parent.host(plan, assignment.bundle.manifest)

    def _model(self, assignment: Assignment, course: Course) -> ObjectRef:
        """What an edge round begins with: the received model, and then the cluster's own."""
        if not course.done:
            return assignment.plan.model
        cluster = assignment.model.model_copy(update={"tensors": encode_tensors(course.parameters)})
        return self._objects.put(encode(cluster))

    async def _resumed(self, plan: Plan, manifest: Manifest) -> Course | None:
        payload = await asyncio.to_thread(self._store.course, plan.key)
        course = read(payload, manifest) if payload is not None else None
        if course is not None:
            log.info("round %d goes on behind edge round %d of %d", plan.key.round, course.done, plan.edge_rounds)
        return course

    async def _keep(self, plan: Plan, course: Course) -> None:
        """Without room for it a restart does these edge rounds again, with what the cluster was acknowledged."""
        try:
            await asyncio.to_thread(self._store.keep_course, plan.key, written(course))
        except JournalFull as error:
            log.warning("edge round %d of round %d is in memory alone: %s", course.done, plan.key.round, error)

    def _no_quorum(self) -> Decline:
        return Decline("training_failed", f"no quorum in the cluster of {self._node}")

    def _remaining_s(self, assignment: Assignment) -> float:
        """Never nothing: a plan that comes late still gets a moment, and the parent's own deadline decides."""
        elapsed_s = asyncio.get_running_loop().time() - assignment.arrived_at
        return max(0.05, assignment.plan.deadline_s * DEADLINE_SHARE - elapsed_s)

    def _delta(self, plan: Plan, told: Told, sum_: Sums, weight: float) -> Delta:
        travelling = np.float64 if plan.task == "statistics" else np.float32
        return Delta(
            key=plan.key,
            sender=self._node,
            task=plan.task,
            weight=weight,
            examples=told.examples,
            devices=told.devices,
            tensors=encode_tensors(tensor.astype(travelling) for tensor in sum_),
            metrics=told.metrics,
            tallies=told.tallies,
        )
