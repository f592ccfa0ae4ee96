"""Every kind of model that a run describes: its size, its first weights, what it computes, and that it can be trained."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from pydantic import TypeAdapter, ValidationError

from headwater.core.graph import compile_bundle
from headwater.core.graph.gate import verify
from headwater.core.models import NORMALISER, NORMALISER_NAMES, build
from headwater.core.normalise import normalised
from headwater.schemas.run import Described, RunDescription

KINDS: dict[str, tuple[dict[str, Any], tuple[int, ...], int]] = {
    "logistic": ({"kind": "logistic", "features": 6, "classes": 3}, (6,), 21),
    "mlp": ({"kind": "mlp", "features": 6, "classes": 3}, (6,), 643),
    "cnn1d": ({"kind": "cnn1d", "channels": 6, "window": 64, "classes": 7}, (6, 64), 11_751),
    "cnn1d, batch norm": (
        {"kind": "cnn1d", "channels": 6, "window": 64, "classes": 7, "batch_norm": True},
        (6, 64),
        11_847,
    ),
    "cnn2d": ({"kind": "cnn2d", "height": 8, "width": 8, "classes": 10}, (1, 8, 8), 13_706),
    "ds_cnn": ({"kind": "ds_cnn"}, (1, 49, 10), 23_180),
    "ds_cnn, no batch norm": ({"kind": "ds_cnn", "batch_norm": False}, (1, 49, 10), 22_604),
    "gru": ({"kind": "gru", "features": 6, "time": 8, "classes": 5}, (8, 6), 4_005),
    "gru, two layers": ({"kind": "gru", "features": 6, "time": 8, "classes": 5, "layers": 2}, (8, 6), 10_341),
    "transformer": ({"kind": "transformer", "features": 6, "time": 16, "classes": 4}, (16, 6), 18_020),
    "transformer, dropout": (
        {"kind": "transformer", "features": 6, "time": 16, "classes": 4, "dropout": 0.1, "activation": "relu"},
        (16, 6),
        18_020,
    ),
    "autoencoder": ({"kind": "autoencoder", "features": 20}, (20,), 1_884),
    "autoencoder1d": ({"kind": "autoencoder1d", "channels": 3, "window": 32}, (3, 32), 4_547),
}
"""Name: description, shape of an example, parameters that train."""

CLASSIFIERS = [name for name in KINDS if "autoencoder" not in name]


def described(fields: dict[str, Any]) -> Described:
    return TypeAdapter(Described).validate_python(fields)


def run_of(fields: dict[str, Any], objective: str = "cross_entropy") -> RunDescription:
    return RunDescription.model_validate(
        {"name": "n", "data": "d", "rounds": 1, "model": fields, "objective": objective}, strict=False
    )


def objective_of(name: str) -> Any:
    return "reconstruction" if "autoencoder" in name else "cross_entropy"


def weights_of(model: bytes) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load_from_string(model).graph.initializer}


def outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_its_size_and_can_be_trained(name: str) -> None:
    fields, shape, size = KINDS[name]
    model = build(described(fields), 0)
    compiled = compile_bundle(model, objective=objective_of(name), name="m", classes=fields.get("classes", 0))
    manifest = compiled.manifest
    assert manifest.x.shape == shape
    assert sum(int(np.prod(p.shape)) for p in manifest.trainable) == size
    assert all("running" in p.name for p in manifest.parameters if not p.trainable)
    verify(compiled, rng=np.random.default_rng(0), points=1)


@pytest.mark.parametrize("name", KINDS)
def test_the_seed_alone_decides(name: str) -> None:
    model = described(KINDS[name][0])
    assert build(model, 3) == build(model, 3)
    assert build(model, 3) != build(model, 4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_normaliser_is_filled_by_sums_over_any_shape(name: str) -> None:
    fields, shape, _ = KINDS[name]
    plain, normalising = (build(described(fields | {"normalise": on}), 1) for on in (False, True))
    x = np.random.default_rng(2).normal(3, 2, (64, *shape)).astype(np.float32)
    np.testing.assert_array_equal(outputs(normalising, x), outputs(plain, x))
    compiled = compile_bundle(normalising, objective="cross_entropy", name="m", frozen=NORMALISER)
    frozen = {p.name: p.shape for p in compiled.manifest.parameters if not p.moves}
    assert frozen == dict.fromkeys(NORMALISER_NAMES, shape)
    wide = x.astype(np.float64)
    filled = normalised(compiled.manifest, compiled.initial, (wide.sum(0), (wide**2).sum(0)), len(x))
    session = ort.InferenceSession(compiled.bundle.graphs["infer"], providers=["CPUExecutionProvider"])
    feed = dict(zip((p.name for p in compiled.manifest.parameters), filled, strict=True))
    expected = outputs(plain, ((x - x.mean(0)) / x.std(0)).astype(np.float32))
    np.testing.assert_allclose(session.run(["prediction"], feed | {"x": x})[0], expected, atol=1e-4, rtol=1e-3)


def test_first_weights_follow_their_rules() -> None:
    cnn = weights_of(build(described(KINDS["cnn1d"][0] | {"filters": (64, 256)}), 5))
    assert cnn["block2.weight"].var() == pytest.approx(2 / (64 * 5), rel=0.03)
    gru = weights_of(build(described(KINDS["gru"][0] | {"hidden": 64}), 5))
    for gate in gru["gru1.state_weight"][0].reshape(3, 64, 64):
        np.testing.assert_allclose(gate @ gate.T, np.eye(64), atol=1e-5)
    bound = np.sqrt(6 / (6 + 64))
    assert bound * 0.95 < np.abs(gru["gru1.input_weight"]).max() <= bound
    attention = weights_of(build(described(KINDS["transformer"][0] | {"width": 128}), 5))
    assert attention["block1.query.weight"].var() == pytest.approx(2 / 256, rel=0.03)
    assert attention["position.weight"].std() == pytest.approx(0.02, rel=0.1)


def test_an_autoencoder_of_windows_gives_back_the_shape_that_it_took() -> None:
    x = np.random.default_rng(6).normal(0, 1, (2, 3, 32)).astype(np.float32)
    assert outputs(build(described(KINDS["autoencoder1d"][0]), 0), x).shape == x.shape


# ── what they compute, in PyTorch's words ───────────────────────────────────────────────────────────────────────


def torch_cnn1d(torch: Any, w: dict[str, Any], x: Any) -> Any:
    f = torch.nn.functional
    for block in ("block1", "block2"):
        x = f.max_pool1d(f.conv1d(x, w[f"{block}.weight"], w[f"{block}.bias"], padding=2).relu(), 2)
    return x.mean(-1) @ w["head.weight"] + w["head.bias"]


def torch_cnn2d(torch: Any, w: dict[str, Any], x: Any) -> Any:
    f = torch.nn.functional
    for block in ("block1", "block2"):
        x = f.max_pool2d(f.conv2d(x, w[f"{block}.weight"], w[f"{block}.bias"], padding=1).relu(), 2)
    return (x.flatten(1) @ w["hidden.weight"] + w["hidden.bias"]).relu() @ w["head.weight"] + w["head.bias"]


def torch_ds_cnn(torch: Any, w: dict[str, Any], x: Any) -> Any:
    f = torch.nn.functional

    def conv(x: Any, name: str, **moving: Any) -> Any:
        parts = (w[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return f.batch_norm(f.conv2d(x, w[f"{name}.weight"], **moving), *parts).relu()

    x = conv(f.pad(x, (1, 1, 4, 5)), "stem", stride=2)
    assert x.shape[1:] == (64, 25, 5)
    for block in range(1, 5):
        x = conv(x, f"block{block}.depthwise", padding=1, groups=64)
        x = conv(x, f"block{block}.pointwise")
    return x.mean((2, 3)) @ w["head.weight"] + w["head.bias"]


def torch_gru(torch: Any, w: dict[str, Any], x: Any) -> Any:
    """ONNX has its gates in the order z, r, h; PyTorch r, z, n."""
    layers = [name.split(".")[0] for name in w if name.endswith("input_weight")]
    module = torch.nn.GRU(x.shape[-1], w["head.weight"].shape[0], len(layers), batch_first=True)

    def turned(value: Any) -> Any:
        z, r, h = value.chunk(3)
        return torch.cat([r, z, h])

    with torch.no_grad():
        for place, name in enumerate(layers):
            getattr(module, f"weight_ih_l{place}").copy_(turned(w[f"{name}.input_weight"][0]))
            getattr(module, f"weight_hh_l{place}").copy_(turned(w[f"{name}.state_weight"][0]))
            bias = w[f"{name}.bias"][0].chunk(2)
            getattr(module, f"bias_ih_l{place}").copy_(turned(bias[0]))
            getattr(module, f"bias_hh_l{place}").copy_(turned(bias[1]))
        return module(x)[0][:, -1] @ w["head.weight"] + w["head.bias"]


def torch_transformer(torch: Any, w: dict[str, Any], x: Any) -> Any:
    """PyTorch's own layer with the same weights; the head is ours."""
    width, f = w["embed.weight"].shape[1], torch.nn.functional
    x = x @ w["embed.weight"] + w["embed.bias"] + w["position.weight"]
    for block in ("block1", "block2"):
        layer = torch.nn.TransformerEncoderLayer(
            width, 4, w[f"{block}.expand.weight"].shape[1], 0.0, "gelu", batch_first=True, norm_first=True
        )
        names = ("query", "key", "value")
        own = {
            "self_attn.in_proj_weight": torch.cat([w[f"{block}.{part}.weight"].T for part in names]),
            "self_attn.in_proj_bias": torch.cat([w[f"{block}.{part}.bias"] for part in names]),
        }
        for theirs, ours in (("self_attn.out_proj", "project"), ("linear1", "expand"), ("linear2", "contract")):
            own |= {f"{theirs}.weight": w[f"{block}.{ours}.weight"].T, f"{theirs}.bias": w[f"{block}.{ours}.bias"]}
        for norm in ("norm1", "norm2"):
            own |= {f"{norm}.{part}": w[f"{block}.{norm}.{part}"] for part in ("weight", "bias")}
        layer.load_state_dict(own)
        x = layer.eval()(x)
    x = f.layer_norm(x, [width], w["norm.weight"], w["norm.bias"])
    return x.mean(1) @ w["head.weight"] + w["head.bias"]


def torch_autoencoder1d(torch: Any, w: dict[str, Any], x: Any) -> Any:
    f = torch.nn.functional
    for layer in ("encode1", "encode2"):
        x = f.conv1d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], stride=2, padding=1).relu()
    x = f.conv_transpose1d(x, w["decode1.weight"], w["decode1.bias"], stride=2, padding=1).relu()
    return f.conv_transpose1d(x, w["decode2.weight"], w["decode2.bias"], stride=2, padding=1)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cnn1d", torch_cnn1d),
        ("cnn2d", torch_cnn2d),
        ("ds_cnn", torch_ds_cnn),
        ("gru", torch_gru),
        ("gru, two layers", torch_gru),
        ("transformer", torch_transformer),
        ("autoencoder1d", torch_autoencoder1d),
    ],
)
def test_a_kind_computes_what_pytorch_does(name: str, said: Callable[..., Any]) -> None:
    if importlib.util.find_spec("torch") is None:
        message = "PyTorch is not installed (pip install -e '.[oracle]')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    import torch

    fields, shape, _ = KINDS[name]
    model, rng = onnx.load_from_string(build(described(fields), 7)), np.random.default_rng(8)
    for tensor in model.graph.initializer:
        # Biases and statistics away from 0 and 1, so that each shows.
        value = onnx.numpy_helper.to_array(tensor) + np.abs(rng.normal(0, 0.1, tuple(tensor.dims)))
        tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), tensor.name))
    payload = model.SerializeToString()
    x = rng.normal(0, 1, (3, *shape)).astype(np.float32)
    with torch.no_grad():
        w = {key: torch.from_numpy(value.copy()) for key, value in weights_of(payload).items()}
        expected = said(torch, w, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(outputs(payload, x), expected, atol=1e-4, rtol=1e-4)


# ── descriptions ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "objective", "says"),
    [
        (KINDS["cnn1d"][0] | {"window": 3}, "cross_entropy", "window: 3 cannot be halved 2 times; take 4 or more"),
        (KINDS["cnn2d"][0] | {"width": 2}, "cross_entropy", "width: 2 cannot be halved 2 times"),
        (
            KINDS["autoencoder1d"][0] | {"window": 30},
            "reconstruction",
            "window: 30 cannot be halved 2 times; take a mul",
        ),
        (KINDS["transformer"][0] | {"heads": 3}, "cross_entropy", "heads: 3 do not share a width of 32"),
        (KINDS["transformer"][0] | {"dropout": 1.0}, "cross_entropy", "dropout"),
        (KINDS["gru"][0] | {"layers": 0}, "cross_entropy", "layers"),
        (KINDS["autoencoder"][0], "cross_entropy", "an autoencoder gives no classes; take reconstruction"),
        (KINDS["gru"][0], "reconstruction", "needs an output like its input, which kind 'gru' has not"),
        (KINDS["gru"][0] | {"classes": 1}, "cross_entropy", "cross-entropy needs at least 2"),
        ({"kind": "onnx", "path": "m.onnx"}, "cross_entropy", "cross-entropy needs at least 2"),
    ],
)
def test_a_description_that_cannot_be_is_refused_with_its_mend(
    fields: dict[str, Any], objective: str, says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        run_of(fields, objective)


@pytest.mark.parametrize(
    ("fields", "objective", "classes"),
    [
        (KINDS["gru"][0], "cross_entropy", 5),
        (KINDS["gru"][0] | {"classes": 1}, "binary_cross_entropy", 0),
        (KINDS["gru"][0] | {"classes": 1}, "huber", 0),
        (KINDS["mlp"][0] | {"classes": 6}, "reconstruction", 0),
        (KINDS["autoencoder"][0], "reconstruction", 0),
        (KINDS["autoencoder"][0], "mae", 0),
        ({"kind": "onnx", "path": "m.onnx"}, "reconstruction", 0),
        ({"kind": "onnx", "path": "m.onnx", "classes": 3}, "cross_entropy", 3),
    ],
)
def test_an_objective_asks_for_classes_only_where_targets_are_labels(
    fields: dict[str, Any], objective: str, classes: int
) -> None:
    assert run_of(fields, objective).classes == classes
