"""Law: one plan from above becomes κ2 edge rounds below, and one delta goes up with the gateway as its sender.

    w_0 ← model of the plan
    for k in 1..κ2:  w_k ← w_{k-1} + (Σ w_i·Δ_i) / (Σ w_i)      over the cluster
    send w·(w_κ2 − w_0) with the cluster's weight w                 HierFAVG, Liu et al. 2020, algorithm 1

With κ2 = 1 the cluster's sum goes up as it is, so that the tree equals flat FedAvg. Metrics of the received model come
from the first edge round, training metrics from all of them.
"""

import asyncio
import logging
from typing import Final

import numpy as np

from headwater.core.aggregate import Parameters, Sums, WeightedSum, difference, shared, stepped
from headwater.node.child import Assignment, Decline
from headwater.node.hosting import RoundResult
from headwater.node.parent import Parent
from headwater.schemas.messages import Delta, Model, ObjectRef, Plan
from headwater.schemas.tensors import TensorError, decode_tensors, encode_tensors, parameter_specs
from headwater.schemas.wire import encode
from headwater.transport.objects import ObjectStore

log = logging.getLogger("headwater.gateway")

DEADLINE_SHARE: Final = 0.8
"""Of the time that the parent allows; the rest is for the way up."""


def edge_plan(plan: Plan, index: int, model: ObjectRef, remaining_s: float) -> Plan:
    """The cluster's plan of edge round `index`: numbered so that steps grow within the round at any depth.

    `remaining_s` is shared evenly by the edge rounds that are left; the received model is evaluated once.
    """
    return plan.model_copy(
        update={
            "key": plan.key.model_copy(update={"step": plan.key.step * plan.edge_rounds + index}),
            "model": model,
            "edge_rounds": 1,
            "evaluate": plan.evaluate and index == 0,
            "deadline_s": remaining_s / (plan.edge_rounds - index),
        }
    )


class Relay:
    """The gateway's work on one plan: host the edge rounds, sum up."""

    def __init__(self, node: str, parent: Parent, store: ObjectStore) -> None:
        self._node = node
        self._parent = parent
        self._store = store

    async def work(self, assignment: Assignment) -> Delta | Decline:
        plan, manifest = assignment.plan, assignment.bundle.manifest
        try:
            base = decode_tensors(assignment.model.tensors, parameter_specs(manifest.parameters))
        except TensorError as error:
            return Decline(error.reason, f"model: {error}")
        averages = plan.task == "train" and plan.edge_rounds > 1
        results: list[RoundResult] = []
        parameters, ref = base, plan.model
        for index in range(plan.edge_rounds if averages else 1):
            result = await self._parent.host(edge_plan(plan, index, ref, self._remaining_s(assignment)), manifest)
            if not result.closed:
                break
            results.append(result)
            if averages:
                parameters = stepped(manifest, parameters, result.sum.mean())
                ref = self._store.put(encode(_model(assignment.model, parameters)))
        if not results:
            return Decline("training_failed", f"no quorum in the cluster of {self._node}")
        if not averages:
            return self._delta(plan, results, results[0].sum.totals, results[0].sum.weight)
        weight = sum(result.sum.weight for result in results) / len(results)
        change = difference(shared(manifest, parameters), shared(manifest, base))
        return self._delta(plan, results, tuple(weight * tensor for tensor in change), weight)

    def _remaining_s(self, assignment: Assignment) -> float:
        """Never nothing: a plan that comes late still gets a moment, and the parent's own deadline decides."""
        elapsed_s = asyncio.get_running_loop().time() - assignment.arrived_at
        return max(0.05, assignment.plan.deadline_s * DEADLINE_SHARE - elapsed_s)

    def _delta(self, plan: Plan, results: list[RoundResult], sum_: Sums, weight: float) -> Delta:
        travelling = np.float64 if plan.task == "statistics" else np.float32
        told = _told(results)
        return Delta(
            key=plan.key,
            sender=self._node,
            task=plan.task,
            weight=weight,
            examples=results[-1].round.examples,
            devices=max(result.round.devices for result in results),
            tensors=encode_tensors(tensor.astype(travelling) for tensor in sum_),
            metrics=told.metrics,
            tallies=told.tallies,
        )


def _model(base: Model, parameters: Parameters) -> Model:
    return base.model_copy(update={"tensors": encode_tensors(parameters)})


def _told(results: list[RoundResult]) -> WeightedSum:
    """The metrics and tallies, summed over the edge rounds."""
    folded = WeightedSum(())
    for result in results:
        folded.add((), 0.0, result.sum.metrics, result.sum.tallies)
    return folded
