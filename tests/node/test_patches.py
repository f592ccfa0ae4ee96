"""Patches over a real broker: who cannot use one has the whole model, and whoever is in the round gives the same sum."""

from typing import Any

import numpy as np
import pytest

from headwater.core.compress.prune import write_masks
from headwater.node import identity as identity_module
from headwater.node.child import Assignment, Decline
from headwater.node.patching import Downlink, patch
from headwater.schemas.learning import Compression
from headwater.schemas.manifest import Manifest
from headwater.schemas.messages import Delta, PatchRef, Plan
from headwater.schemas.wire import reference
from headwater.transport.objects import ObjectStore
from support.deltas import adds_one, manifest
from support.fleets import BUNDLE, MANIFEST, Fleet, contributors, hosted, model, plan, present

EXACT = Compression(codec="topk", fraction=1.0, values="fp32")


def leads_to(version: int, of: Manifest = MANIFEST, step: float = 1.0) -> bytes:
    size = of.parameters[0].shape
    payload, _, _ = patch(Downlink("r", version, EXACT, 0), of, [(np.full(size, step),)], ())
    return payload


def by_patch(round_: int, payload: bytes, objects: ObjectStore, *, whole: bool = True, **changes: Any) -> Plan:
    """A round whose model is a step from the one before. Not `whole`: the parent has nothing but the patch."""
    named = PatchRef(base=reference(model(round_ - 2)), patch=objects.put(payload), codec="topk")
    if whole:
        return plan(round_, objects, patch=named, **changes)
    objects.put(BUNDLE)
    return plan(round_, ObjectStore(10**6), patch=named, **changes)


async def test_who_has_the_last_model_needs_only_the_patch(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    parent = fleet.parent("top", objects=objects)
    fleet.device("d0", "top")
    await present(parent, "d0")
    await hosted(parent, plan(1, objects))
    result = await hosted(parent, by_patch(2, leads_to(1), objects, whole=False))
    assert contributors(result) == {"d0"}


@pytest.mark.parametrize(
    "payload",
    [leads_to(1, step=2.0), leads_to(1, manifest(5)), b"no message"],
    ids=["leads elsewhere", "of another model", "no message"],
)
async def test_a_patch_that_does_not_fit_costs_the_whole_model_and_no_round(fleet: Fleet, payload: bytes) -> None:
    objects = ObjectStore(10**7)
    parent = fleet.parent("top", objects=objects)
    child = fleet.device("d0", "top")
    await present(parent, "d0")
    await hosted(parent, plan(1, objects))
    about = by_patch(2, payload, objects)
    assert contributors(await hosted(parent, about)) == {"d0"}
    assert child._objects.get(about.model) == model(1)


async def test_where_one_cannot_decode_it_the_model_goes_out_whole(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = ObjectStore(10**7)
    parent = fleet.parent("top", objects=objects)
    fleet.device("d0", "top")
    await present(parent, "d0")
    monkeypatch.setattr(identity_module, "CODECS", ("none", "int8"))
    fleet.device("d1", "top")
    await present(parent, "d0", "d1")
    await hosted(parent, plan(1, objects))
    result = await hosted(parent, by_patch(2, leads_to(1), objects))
    assert result.plan.patch is None
    assert contributors(result) == {"d0", "d1"}


async def test_a_gateway_that_was_rebooted_has_no_patch_for_its_cluster_and_asks_for_none(fleet: Fleet) -> None:
    """Its device holds the last model and could use one; the gateway, which does not, was sent the model."""
    objects = ObjectStore(10**7)
    cloud = fleet.parent("top", objects=objects)
    below = fleet.gateway("gw", "top")
    fleet.device("d0", "gw")
    await present(below, "d0")
    await present(cloud, "gw")
    await hosted(cloud, plan(1, objects))
    assert contributors(await hosted(cloud, by_patch(2, leads_to(1), objects))) == {"d0"}
    await fleet.kill("gw")
    below = fleet.gateway("gw", "top")
    await present(below, "d0")
    await present(cloud, "gw")
    assert contributors(await hosted(cloud, by_patch(3, leads_to(2), objects, deadline_s=5.0))) == {"d0"}


# ── masks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_latecomer_gets_the_mask_of_a_pruned_model(fleet: Fleet) -> None:
    """It went out with the first round that needs it; who was not there asks for it, as for a model."""
    objects = ObjectStore(10**7)
    parent = fleet.parent("top", objects=objects)
    mask = np.array([True, False, True, True])
    seen: dict[str, list[bool]] = {}

    def sees(node: str) -> None:
        async def work(assignment: Assignment) -> Delta | Decline:
            seen[node] = assignment.masks[0].tolist()
            return adds_one(assignment, node)

        fleet.doing(node, "top", work)

    sees("d0")
    await present(parent, "d0")
    about = {"mask": objects.put(write_masks((mask,)))}
    await hosted(parent, plan(1, objects, **about))
    sees("d1")
    await present(parent, "d0", "d1")
    assert contributors(await hosted(parent, plan(2, objects, **about))) == {"d0", "d1"}
    assert seen == {"d0": mask.tolist(), "d1": mask.tolist()}


async def test_a_mask_that_is_none_is_declined_with_the_reason(fleet: Fleet) -> None:
    objects = ObjectStore(10**7)
    parent = fleet.parent("top", objects=objects)
    fleet.device("d0", "top")
    await present(parent, "d0")
    result = await hosted(parent, plan(1, objects, mask=objects.put(b"of another model"), deadline_s=1.0))
    assert not result.closed
    assert [(refused.node, refused.reason) for refused in result.refusals] == [("d0", "malformed")]
    assert "mask" in result.refusals[0].detail
