"""Law: what comes out has the module's parameters, each once, under the module's names, and predicts what it predicts.

An exporter joins tensors that happen to be equal, folds what stands still, and knows no batch but the example's. So a
copy of the module is exported in training mode, where normalisation and dropout stay what they are, with numbers in
it that are all different; the module's own are put back by name; and the result is held against the module.
"""

import copy
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from headwater.core.graph import UnsupportedModel
from headwater.core.graph.execution import Runnable
from headwater.schemas.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

TOLERANCE: Final = 1e-4
"""What two float32 computations of one prediction may differ by, relative to its size."""

OPSET: Final = 18

_BATCHES: Final = (1, 2, 5)


class NotExported(ModelError):
    """The module cannot be said in ONNX: an operator, a branch, a batch size that is baked in."""


class LeftOut(UserWarning):
    """A parameter that no prediction depends on, or a dropout that ONNX has no place for."""


def from_torch(module: "nn.Module", example: "torch.Tensor | NDArray[Any]") -> bytes:
    """A module as forward ONNX, which a run trains as `kind = "onnx"`; its parameters keep their names.

    Buffers that are no running statistics, and parameters with `requires_grad=False`, become constants: they never
    train. What the prediction does not depend on, and dropout between recurrent layers, is left out with a warning.

    Args:
        module: takes one float32 tensor, the batch first, and gives one.
        example: a batch of examples, any number of them from 1.

    Raises:
        NotExported: with the operator or the value that is at fault, and the mend.
        ConfigError: PyTorch is not installed.
    """
    torch = _torch()
    x = _checked(torch, module, example)
    failures: list[str] = []
    for whole in (True, False):
        try:
            model = _exported(torch, module, x, whole=whole)
            _named(torch, module, x, model)
            _held_against(torch, module, x, model)
        except NotExported as error:
            failures.append(str(error))
        else:
            _warn_of_dropout(torch, module)
            return bytes(model.SerializeToString())
    raise NotExported(failures[0])


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ConfigError("from_torch: PyTorch is not installed; pip install torch") from None
    return torch


def _checked(torch: Any, module: Any, example: Any) -> "torch.Tensor":
    """The example as a tensor with at least two rows, when the module takes it."""
    if not isinstance(module, torch.nn.Module):
        raise NotExported(f"module: {type(module).__name__} is no torch.nn.Module; give the model itself")
    try:
        copy.deepcopy(module)
    except Exception as error:
        # Whatever a module's own tensors raise.
        raise NotExported(
            f"module: it cannot be copied ({_brief(error)}); use torch.nn.utils.parametrizations for what is computed"
        ) from None
    x = torch.as_tensor(example)
    if x.dtype != torch.float32:
        raise NotExported(f"example: {x.dtype}; give float32, as devices do")
    if x.ndim < 2 or not len(x):
        raise NotExported(f"example: shape {list(x.shape)}; give a batch, [examples, …], at least one")
    for name, value in module.named_parameters():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise NotExported(f"parameter {name!r}: {value.dtype}; parameters must be float32, module.float() does so")
    x = x.detach().cpu()
    x = x if len(x) > 1 else torch.cat([x, x])
    try:
        prediction = _predicted(torch, module, x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise NotExported(f"example: shape {list(x.shape)} does not go through the module ({_brief(error)})") from None
    if not isinstance(prediction, torch.Tensor):
        kind = type(prediction).__name__
        raise NotExported(f"module: gives a {kind}; give one tensor, wrap the module in one that picks it")
    if prediction.shape[:1] != x.shape[:1]:
        raise NotExported(
            f"module: gives shape {list(prediction.shape)} for {len(x)} examples; its first axis must be the batch"
        )
    return x


def _predicted(torch: Any, module: "nn.Module", x: "torch.Tensor") -> Any:
    """As the module says in eval mode; the module itself is left as it was."""
    judged = copy.deepcopy(module).cpu().eval()
    with torch.no_grad():
        return judged(x)


# ── the export ──────────────────────────────────────────────────────────────────────────────────────────────────


def _exported(torch: Any, module: "nn.Module", x: "torch.Tensor", *, whole: bool) -> onnx.ModelProto:
    """The module by the exporter of traces, all weights different.

    Args:
        whole: export all of it in training mode, or only what must not be folded.
    """
    traced = copy.deepcopy(module).cpu()
    _set_mode(torch, traced, whole)
    _make_different(torch, traced)
    file = io.BytesIO()
    try:
        with _quiet(torch):
            torch.onnx.export(
                traced,
                (x,),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=["x"],
                output_names=["output"],
                dynamic_axes={"x": {0: "batch"}, "output": {0: "batch"}},
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
            )
        model = onnx.load_from_string(file.getvalue())
    except Exception as error:
        # The exporter's exceptions have no base of their own, nor have a module's.
        raise NotExported(
            f"module: PyTorch cannot write it as ONNX ({_brief(error)}); say that part otherwise"
        ) from None
    _for_inference(model)
    return model


def _set_mode(torch: Any, module: "nn.Module", whole: bool) -> None:
    """Training mode, or only for norms and dropout, which would be folded away; never for what drops out inside."""
    module.train(whole)
    kept = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    for part in module.modules():
        if isinstance(part, torch.nn.RNNBase) or getattr(part, "p", None) == 0:
            part.eval()
        elif isinstance(part, kept):
            part.train()


def _make_different(torch: Any, module: "nn.Module") -> None:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, value in _tensors(module):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=draw) * 0.1 + 0.05)


def _tensors(module: "nn.Module") -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@contextmanager
def _quiet(torch: Any) -> Iterator[None]:
    """Without the tracer's remarks and its dump of a failed graph: the result is held against the module anyway."""
    dump = getattr(torch._C, "_jit_onnx_log", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._C._jit_onnx_log = lambda *_: None
        try:
            yield
        finally:
            torch._C._jit_onnx_log = dump


def _for_inference(model: onnx.ModelProto) -> None:
    """Normalisation and dropout as they are outside of training; a training graph knows what to do with them."""
    for node in model.graph.node:
        if node.op_type not in ("BatchNormalization", "Dropout"):
            continue
        if node.op_type == "Dropout":
            del node.input[2:]
        kept = [attribute for attribute in node.attribute if attribute.name != "training_mode"]
        del node.attribute[:]
        node.attribute.extend(kept)
        del node.output[1:]
    model.graph.ClearField("value_info")


def _warn_of_dropout(torch: Any, module: "nn.Module") -> None:
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.RNNBase) and part.dropout:
            warnings.warn(
                f"{name or 'module'}: dropout={part.dropout} between its layers has no place in ONNX and is left out; "
                "use one layer each, with nn.Dropout between",
                LeftOut,
                stacklevel=3,
            )


# ── the module's own numbers ────────────────────────────────────────────────────────────────────────────────────


def _named(torch: Any, module: "nn.Module", x: "torch.Tensor", model: onnx.ModelProto) -> None:
    """The module's own numbers by name; what does not train becomes a constant.

    Raises:
        NotExported: a parameter is not there as it is.
    """
    values = dict(_tensors(module))
    running = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    trains = {name for name, value in module.named_parameters() if value.requires_grad}
    found = {tensor.name for tensor in model.graph.initializer}
    _check_all_there(torch, module, x, trains - found)
    constants, kept = [], []
    for tensor in model.graph.initializer:
        value = values.get(tensor.name)
        array = numpy_helper.to_array(tensor)
        if value is not None:
            array = value.detach().cpu().numpy()
            if array.shape != tuple(tensor.dims):
                raise NotExported(
                    f"parameter {tensor.name!r}: shape {list(tensor.dims)} in ONNX, {list(array.shape)} in the module; "
                    "the exporter folded it, use it as it is"
                )
        fresh = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), tensor.name)
        if tensor.name in trains or tensor.name in running:
            kept.append(fresh)
        else:
            constants.append(
                onnx.helper.make_node("Constant", [], [tensor.name], f"{tensor.name}.constant", value=fresh)
            )
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)


def _check_all_there(torch: Any, module: "nn.Module", x: "torch.Tensor", missing: set[str]) -> None:
    """A parameter that is not in the graph must be one that the prediction does not depend on."""
    if not missing:
        return
    asked = copy.deepcopy(module).cpu().eval()
    with torch.enable_grad():
        prediction = asked(x)
        # Weighted at random: a plain sum of probabilities depends on nothing.
        (prediction * torch.rand(prediction.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, value in asked.named_parameters():
        if name not in missing:
            continue
        if value.grad is not None and bool(value.grad.any()):
            raise NotExported(f"parameter {name!r}: the exporter folded it into others; use it as it is")
        warnings.warn(f"parameter {name!r}: no prediction depends on it; it is left out", LeftOut, stacklevel=4)


# ── the result against the module ───────────────────────────────────────────────────────────────────────────────


def _held_against(torch: Any, module: "nn.Module", x: "torch.Tensor", model: onnx.ModelProto) -> None:
    """The same predictions, for several inputs and batch sizes."""
    try:
        onnx.checker.check_model(model)
        runnable = Runnable(model.SerializeToString())
    except (UnsupportedModel, onnx.checker.ValidationError, ValueError) as error:
        raise NotExported(f"module: its ONNX does not run ({_brief(error)}); say that part otherwise") from None
    rng = np.random.default_rng(0)
    spread = float(x.std()) or 1.0
    inputs = [x.numpy()]
    inputs += [rng.normal(0, spread, (batch, *x.shape[1:])).astype(np.float32) for batch in _BATCHES]
    for value in inputs:
        expected = _predicted(torch, module, torch.from_numpy(value)).numpy()
        found = _run(runnable, {"x": value})
        if found.shape != expected.shape:
            raise NotExported(
                f"module: for {len(value)} examples its ONNX gives {list(found.shape)}, the module "
                f"{list(expected.shape)}; write sizes as x.shape[0] or -1, the batch is baked in"
            )
        off = float(np.abs(found - expected).max(initial=0.0))
        if not off <= TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
            raise NotExported(
                f"module: for {len(value)} examples its ONNX predicts otherwise, by {off:.2g}; a branch on values, on "
                "the batch size or on self.training is baked in, say it with torch.where"
            )


def _run(runnable: Runnable, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    try:
        return runnable.run(feed)["output"]
    except UnsupportedModel as error:
        raise NotExported(
            f"module: for {len(feed['x'])} examples its ONNX does not run ({_brief(error)}); write sizes as x.shape[0] "
            "or -1, the batch is baked in"
        ) from None


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
