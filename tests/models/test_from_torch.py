"""A PyTorch module comes in whole: every parameter once and by name, the same predictions, the same training steps."""

import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from headwater.core.graph import compile_bundle
from headwater.core.graph.gate import verify
from headwater.models import from_torch
from headwater.models.pytorch import LeftOut, NotExported

pytestmark = pytest.mark.oracle

RATE = 0.1


@pytest.fixture(autouse=True)
def _needs_torch(request: pytest.FixtureRequest) -> None:
    needed = ["torch", *(("pytorch_tcn", "mlp_mixer_pytorch") if "unseen" in request.node.name else ())]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        message = f"{', '.join(missing)} is not installed (pip install -e '.[oracle]')"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    import torch

    torch.manual_seed(0)


def recurrent(kind: str, **options: Any) -> Any:
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = getattr(nn, kind)(5, 6, batch_first=True, **options)
            self.head = nn.Linear(12 if options.get("bidirectional") else 6, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.cells(x)[0][:, -1])

    return Recurrent()


def encoder(**options: Any) -> Any:
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(5, 8)
            layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **options)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(self.embed(x)).mean(1))

    return Encoder()


def sequential(*layers: str) -> Any:
    """Layers as they are written."""
    from torch import nn

    return nn.Sequential(*(eval(layer, {"nn": nn}) for layer in layers))


def with_equal_biases() -> Any:
    """Two biases of zero, a norm whose bias is zero, its mean too: an exporter would make one tensor of all."""
    import torch

    module = sequential(
        "nn.Conv2d(1, 4, 3, bias=False)",
        "nn.BatchNorm2d(4)",
        "nn.ReLU()",
        "nn.Conv2d(4, 4, 3)",
        "nn.ReLU()",
        "nn.Flatten()",
        "nn.Linear(64, 4)",
        "nn.ReLU()",
        "nn.Linear(4, 4)",
    )
    with torch.no_grad():
        for place in (3, 6, 8):
            module[place].bias.zero_()
    return module


def tcn(**options: Any) -> Any:
    """A temporal convolutional network (Bai et al. 2018) from PyPI; nobody here wrote it."""
    from pytorch_tcn import TCN
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = TCN(5, [8, 8], kernel_size=3, dropout=0.0, input_shape="NLC", **options)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x)[:, -1])

    return Classifier()


def mixer() -> Any:
    """An MLP-Mixer (Tolstikhin et al. 2021) from PyPI; nobody here wrote it."""
    from mlp_mixer_pytorch import MLPMixer

    return MLPMixer(image_size=16, channels=1, patch_size=4, dim=16, depth=2, num_classes=3)


MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (lambda: sequential("nn.Linear(5, 8)", "nn.ReLU()", "nn.Linear(8, 3)"), (5,)),
    "batch norm and equal biases": (with_equal_biases, (1, 8, 8)),
    "depthwise": (
        lambda: sequential(
            "nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False)",
            "nn.BatchNorm2d(4)",
            "nn.ReLU6()",
            "nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)",
            "nn.BatchNorm2d(4)",
            "nn.Hardswish()",
            "nn.Conv2d(4, 6, 1)",
            "nn.AdaptiveAvgPool2d(1)",
            "nn.Flatten()",
            "nn.Linear(6, 3)",
        ),
        (2, 9, 9),
    ),
    "convolutions of a window": (
        lambda: sequential(
            "nn.Conv1d(3, 4, 3, padding='same')",
            "nn.SiLU()",
            "nn.AvgPool1d(2)",
            "nn.Conv1d(4, 4, 3)",
            "nn.ELU()",
            "nn.MaxPool1d(2)",
            "nn.Flatten()",
            "nn.Linear(12, 3)",
        ),
        (3, 16),
    ),
    "layer norm and gelu": (
        lambda: sequential("nn.Linear(5, 8)", "nn.LayerNorm(8)", "nn.GELU()", "nn.Linear(8, 3)"),
        (5,),
    ),
    "group norm": (
        lambda: sequential(
            "nn.Conv2d(1, 4, 3)", "nn.GroupNorm(2, 4)", "nn.Tanh()", "nn.Flatten()", "nn.Linear(144, 3)"
        ),
        (1, 8, 8),
    ),
    "gru": (lambda: recurrent("GRU"), (7, 5)),
    "gru of two layers": (lambda: recurrent("GRU", num_layers=2), (7, 5)),
    "bidirectional lstm": (lambda: recurrent("LSTM", bidirectional=True), (7, 5)),
    "transformer": (lambda: encoder(), (7, 5)),
    "transformer, norms first": (lambda: encoder(norm_first=True, activation="gelu"), (7, 5)),
    "unseen, mixer": (mixer, (1, 16, 16)),
    "unseen, batch norm": (lambda: tcn(use_norm="batch_norm"), (16, 5)),
    "unseen, not causal, skips": (lambda: tcn(use_norm="layer_norm", causal=False, use_skip_connections=True), (16, 5)),
}


def moved_by_torch(module: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """All tensors of the module after one step of plain SGD on the mean cross-entropy."""
    import torch

    module.train()
    loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
    module.zero_grad()
    loss.backward()
    torch.optim.SGD(module.parameters(), lr=RATE).step()
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def moved_by_graph(compiled: Any, x: np.ndarray, y: np.ndarray, steps: int = 1) -> dict[str, np.ndarray]:
    """What the train graph gives for so many steps over all examples, by name."""
    manifest = compiled.manifest
    feed = dict(zip((p.name for p in manifest.parameters), compiled.initial, strict=True))
    feed |= {
        "x": x,
        "y": y,
        "order": np.tile(np.arange(len(x)), (steps, 1)),
        "mask": np.ones((steps, len(x)), np.float32),
    }
    feed["learning_rate"] = np.full(steps, RATE, np.float32)
    feed |= {f"hyper_{name}": np.array(value, np.float32) for name, value in manifest.hyperparameters.items()}
    session = ort.InferenceSession(compiled.bundle.graphs["train"], providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return {name.removeprefix("new_"): value for name, value in zip(names, session.run(None, feed), strict=True)}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_trains_as_pytorch_trains_it(name: str) -> None:
    import torch

    build, shape = MODULES[name]
    module = build()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    forward = from_torch(module, torch.randn(2, *shape))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items()), "the module was touched"
    compiled = compile_bundle(forward, objective="cross_entropy", name="m")
    verify(compiled, rng=np.random.default_rng(0))
    manifest = compiled.manifest
    assert {p.name for p in manifest.trainable} == {key for key, _ in module.named_parameters()}
    for parameter, value in zip(manifest.parameters, compiled.initial, strict=True):
        np.testing.assert_array_equal(value, before[parameter.name].numpy(), err_msg=parameter.name)
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, (6, *shape)).astype(np.float32), rng.integers(0, 3, 6)
    expected, found = moved_by_torch(module, x, y), moved_by_graph(compiled, x, y)
    for parameter in manifest.moving:
        np.testing.assert_allclose(
            found[parameter.name], expected[parameter.name], atol=2e-6, rtol=1e-4, err_msg=parameter.name
        )


@pytest.mark.parametrize("name", ["unseen, mixer", "unseen, batch norm"])
def test_an_architecture_learns_without_a_change_to_the_code(name: str) -> None:
    import torch

    build, shape = MODULES[name]
    compiled = compile_bundle(from_torch(build(), torch.randn(2, *shape)), objective="cross_entropy", name="m")
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 48)
    x = rng.normal(0, 1, (48, *shape)).astype(np.float32)
    x[np.arange(48), ..., y] += 2.0
    first, after = (moved_by_graph(compiled, x, y, steps) for steps in (1, 60))
    assert after["loss"] / 60 < 0.5 * first["loss"]
    assert after["correct"] / (60 * 48) > 0.7


def test_dropout_stays_dropout_and_rests_outside_of_training() -> None:
    import torch

    module = sequential("nn.Linear(5, 8)", "nn.Dropout(0.25)", "nn.Linear(8, 3)")
    forward = from_torch(module, torch.randn(2, 5))
    (node,) = (n for n in onnx.load_from_string(forward).graph.node if n.op_type == "Dropout")
    assert len(node.input) == 2
    assert compile_bundle(forward, objective="mse", name="m").manifest.random


def test_what_does_not_train_is_a_constant() -> None:
    import torch
    from torch import nn

    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.ones(7, 5))
            self.still = nn.Parameter(torch.ones(5), requires_grad=False)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Any) -> Any:
            return self.head((x * self.still + self.places).mean(1))

    forward = from_torch(Placed(), torch.randn(3, 7, 5))
    assert {p.name for p in compile_bundle(forward, objective="mse", name="m").manifest.parameters} == {
        "head.weight",
        "head.bias",
    }


def test_a_tied_weight_is_one_parameter() -> None:
    import torch

    module = sequential("nn.Linear(5, 5)", "nn.Tanh()", "nn.Linear(5, 5)")
    module[2].weight = module[0].weight
    manifest = compile_bundle(from_torch(module, torch.randn(2, 5)), objective="mse", name="m").manifest
    assert {p.name for p in manifest.parameters} == {"0.weight", "0.bias", "2.bias"}


def test_what_no_prediction_depends_on_is_left_out_with_a_warning() -> None:
    import torch
    from torch import nn

    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(5, 3), nn.Linear(2, 2, bias=False)

        def forward(self, x: Any) -> Any:
            return self.used(x)

    with pytest.warns(LeftOut, match=r"parameter 'spare\.weight': no prediction depends on it"):
        from_torch(Spare(), torch.randn(2, 5))


def test_dropout_between_recurrent_layers_is_named() -> None:
    import torch

    with pytest.warns(LeftOut, match=r"cells: dropout=0\.2 between its layers"):
        from_torch(recurrent("GRU", num_layers=2, dropout=0.2), torch.randn(2, 7, 5))


def function(of: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """A module with one dense layer, and then this."""

    def build() -> Any:
        from torch import nn

        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dense = nn.Linear(5, 3)

            def forward(self, x: Any) -> Any:
                return of(self, self.dense(x))

        return Odd()

    return build


@pytest.mark.parametrize(
    ("build", "example", "says"),
    [
        pytest.param(
            lambda: sequential("nn.utils.weight_norm(nn.Linear(5, 3))"), (2, 5), "it cannot be copied", id="no copy"
        ),
        pytest.param(lambda: "a module", (2, 5), "module: str is no torch.nn.Module", id="no module"),
        pytest.param(
            function(lambda _, y: y), (2, 4), r"example: shape \[2, 4\] does not go through", id="wrong shape"
        ),
        pytest.param(function(lambda _, y: y), (5,), r"example: shape \[5\]; give a batch", id="no batch"),
        pytest.param(function(lambda _, y: (y, y)), (2, 5), "gives a tuple; give one tensor", id="two outputs"),
        pytest.param(function(lambda _, y: y.sum(0)), (2, 5), "its first axis must be the batch", id="no batch out"),
        pytest.param(function(lambda _, y: y.digamma()), (2, 5), "PyTorch cannot write it as ONNX", id="operator"),
        pytest.param(
            function(lambda _, y: y + 1 if len(y) > 3 else y),
            (2, 5),
            "a branch on values, on the batch size",
            id="branch",
        ),
        pytest.param(
            function(lambda _, y: y.reshape(int(y.shape[0]) + 0, 3) + y.new_ones(len(y.tolist()), 3)),
            (2, 5),
            "the batch is baked in",
            id="batch",
        ),
    ],
)
def test_what_cannot_come_in_is_named_with_its_mend(
    build: Callable[[], Any], example: tuple[int, ...], says: str
) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("error", LeftOut)
        warnings.simplefilter("ignore", FutureWarning)
        with pytest.raises(NotExported, match=says):
            from_torch(build(), torch.randn(*example))


def test_double_precision_is_refused_by_name() -> None:
    import torch

    with pytest.raises(NotExported, match=r"parameter '0\.weight': torch\.float64; parameters must be float32"):
        from_torch(sequential("nn.Linear(5, 3)").double(), torch.randn(2, 5))
