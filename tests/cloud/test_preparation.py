"""From a run's description to verified graphs: every kind of model, and every option on its way to the compiler."""

from typing import Any

import pytest

from headwater.cloud.plans import needs_statistics
from headwater.cloud.preparation import prepare, variant_of
from headwater.core.models import NORMALISER_NAMES, mlp
from headwater.device.runtime.guard import check_graph
from headwater.schemas.messages import Bundle
from headwater.schemas.run import RunDescription
from headwater.schemas.wire import decode_object

GRU: dict[str, Any] = {"kind": "gru", "features": 3, "time": 5, "classes": 4, "hidden": 6}


def described(model: dict[str, Any], **options: Any) -> RunDescription:
    return RunDescription.model_validate(
        {"name": "n", "data": "d", "rounds": 1, "model": model} | options, strict=False
    )


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        (GRU, "cross_entropy"),
        ({"kind": "cnn1d", "channels": 2, "window": 8, "classes": 1, "filters": [4]}, "binary_cross_entropy"),
        ({"kind": "logistic", "features": 3, "classes": 2}, "huber"),
        ({"kind": "cnn1d", "channels": 2, "window": 9, "classes": 2, "batch_norm": True}, "cross_entropy"),
        ({"kind": "cnn2d", "height": 8, "width": 8, "classes": 2, "filters": [4]}, "mae"),
        ({"kind": "ds_cnn", "height": 12, "width": 8, "classes": 3, "filters": 4, "blocks": 1}, "cross_entropy"),
        ({"kind": "transformer", "features": 3, "time": 4, "classes": 2, "width": 8, "heads": 2}, "mse"),
        (
            {"kind": "transformer", "features": 3, "time": 4, "classes": 2, "width": 8, "heads": 2, "dropout": 0.1},
            "mse",
        ),
        ({"kind": "autoencoder", "features": 5}, "reconstruction"),
        ({"kind": "autoencoder1d", "channels": 2, "window": 8, "filters": [4]}, "reconstruction"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else value,
)
def test_every_kind_is_prepared_and_a_device_allows_its_graphs(model: dict[str, Any], objective: str) -> None:
    prepared = prepare("r", described(model, objective=objective), None)
    bundle = decode_object(prepared.bundle, Bundle)
    assert bundle.manifest == prepared.manifest
    for graph in bundle.graphs.values():
        check_graph(graph)
    assert prepared.manifest.objective == objective
    assert prepared.verification.checks >= 2


def test_what_the_run_says_reaches_the_compiler() -> None:
    description = described(
        GRU | {"normalise": True, "frozen": ["gru1.input_weight"], "personal": ["head.*"]},
        local={"optimiser": "adam", "weight_decay": 0.01},
        loss={"label_smoothing": 0.1},
    )
    manifest = prepare("r", description, None).manifest
    assert {p.name for p in manifest.parameters if not p.moves} == {*NORMALISER_NAMES, "gru1.input_weight"}
    assert {p.name for p in manifest.parameters if p.personal} == {"head.weight", "head.bias"}
    assert any(slot.name.endswith("head.weight") for slot in manifest.slots)
    plain = prepare("r", described(GRU), None)
    smooth = prepare("r", described(GRU, loss={"label_smoothing": 0.1}), None)
    assert plain.bundle != smooth.bundle


@pytest.mark.parametrize(
    ("sections", "variant"),
    [
        ({}, "plain"),
        ({"strategy": {"name": "fedadam"}}, "plain"),
        ({"strategy": {"name": "fednova"}}, "plain"),
        ({"strategy": {"name": "fedprox"}}, "proximal"),
        ({"strategy": {"name": "feddyn"}}, "proximal"),
        ({"strategy": {"name": "scaffold"}}, "corrected"),
        ({"personal": {"method": "fine_tune"}}, "plain"),
        ({"personal": {"method": "apfl"}}, "plain"),
        ({"personal": {"method": "fedper"}}, "plain"),
        ({"personal": {"method": "fedrep"}}, "alternating"),
        ({"personal": {"method": "ditto"}}, "proximal"),
        ({"personal": {"method": "pfedme"}}, "proximal"),
        ({"personal": {"method": "mocha"}}, "proximal"),
        ({"personal": {"method": "fine_tune"}, "strategy": {"name": "fedprox"}}, "proximal"),
        ({"personal": {"method": "fine_tune"}, "strategy": {"name": "scaffold"}}, "corrected"),
    ],
    ids=str,
)
def test_a_runs_methods_say_which_graph_it_needs(sections: dict[str, Any], variant: str) -> None:
    headed = sections.get("personal", {}).get("method") in ("fedper", "fedrep")
    assert variant_of(described(GRU | ({"personal": ["head.*"]} if headed else {}), **sections)) == variant


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (described(GRU), False),
        (described(GRU | {"normalise": True}), True),
        (described(GRU | {"normalise": True}, initial="run:other"), False),
        (described({"kind": "autoencoder", "features": 5}, objective="reconstruction"), False),
        (described({"kind": "onnx", "path": "m.onnx", "classes": 2}), False),
    ],
)
def test_a_pass_for_the_normaliser_comes_first_where_there_is_one(description: RunDescription, expected: bool) -> None:
    assert needs_statistics(description) is expected


def test_the_owners_model_goes_the_same_way() -> None:
    import numpy as np

    forward = mlp(3, (4,), 2, rng=np.random.default_rng(0))
    description = described({"kind": "onnx", "path": "m.onnx", "classes": 2, "frozen": ["layer1.*"]})
    assert {p.name for p in prepare("r", description, forward).manifest.trainable} == {"layer2.weight", "layer2.bias"}
