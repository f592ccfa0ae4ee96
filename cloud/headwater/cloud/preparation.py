"""Law: a run's description becomes graphs and a first model by its seed alone, and nothing unverified goes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headwater.core.aggregate import Parameters
from headwater.core.graph import Compiled, compile_bundle
from headwater.core.graph.gate import Verification, verify
from headwater.core.models import NORMALISER, build
from headwater.schemas.errors import RunFailed
from headwater.schemas.manifest import Manifest, Variant
from headwater.schemas.messages import Bundle, Model
from headwater.schemas.run import OnnxModel, RunDescription
from headwater.schemas.tensors import decode_tensors, encode_tensors
from headwater.schemas.wire import decode_object, encode

LIKENESS_SPREAD: Final = 1.0
"""How far the models of a clustered run begin from the first, in standard deviations of each tensor."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run begins with. `bundle` and `model` are encoded as they travel."""

    forward: bytes
    manifest: Manifest
    bundle: bytes
    model: bytes
    verification: Verification


def forward_model(description: RunDescription, forward: bytes | None) -> bytes:
    """The forward ONNX model: the owner's, or built from the description with the run's seed.

    Raises:
        RunFailed: the description is of the owner's model and its bytes are not there.
    """
    if not isinstance(description.model, OnnxModel):
        return build(description.model, description.seed)
    if forward is None:
        raise RunFailed(f"model.path: the bytes of {description.model.path} were not stored; start the run again")
    return forward


def compiled_for(description: RunDescription, forward: bytes) -> Compiled:
    """The graphs of a run, not yet verified. Raises UnsupportedModel."""
    return compile_bundle(
        forward,
        objective=description.objective,
        name=description.name,
        classes=description.classes,
        frozen=(*NORMALISER, *description.model.frozen),
        personal=description.model.personal,
        loss=description.loss,
        local=description.local,
        variant=variant_of(description),
    )


def variant_of(description: RunDescription) -> Variant:
    """Which train graph a run needs. A proximal one trains plainly too, where nothing pulls."""
    if description.strategy.local_rule == "scaffold":
        return "corrected"
    if description.personal.method == "fedrep":
        return "alternating"
    is_pulled = description.personal.method in ("ditto", "pfedme", "mocha")
    return "proximal" if is_pulled or description.strategy.local_rule in ("proximal", "dynamic") else "plain"


def parameters_in(model: bytes) -> Parameters:
    """Those of an encoded model, whatever their shapes."""
    tensors = decode_object(model, Model).tensors
    return tuple(decode_tensors(tensors, [("initial", tensor.shape, "float32") for tensor in tensors]))


def prepare(
    run: str,
    description: RunDescription,
    forward: bytes | None,
    initial: Parameters | None = None,
) -> Prepared:
    """Compile and verify a run's graphs.

    Args:
        initial: parameters to begin with in the manifest's order, or None for the forward model's own.

    Raises:
        UnsupportedModel: the model cannot be trained, or a gradient is wrong.
        RunFailed: `initial` does not fit the model.
    """
    source = forward_model(description, forward)
    compiled = compiled_for(description, source)
    verification = verify(compiled, rng=np.random.default_rng(description.seed))
    parameters = compiled.initial if initial is None else initial
    check_shapes(compiled.manifest, parameters)
    return Prepared(
        forward=source,
        manifest=compiled.manifest,
        bundle=encode(Bundle(manifest=compiled.manifest, graphs=compiled.bundle.graphs)),
        model=encode(_first(run, description, parameters)),
        verification=verification,
    )


def _first(run: str, description: RunDescription, parameters: Sequence[NDArray[np.float32]]) -> Model:
    """Version 0. Models that coexist by likeness must differ to begin with, or all devices would choose the first: each
    but that one is moved a little, at random (Ghosh et al. 2020, section 6, draw all of them)."""
    if description.clusters.by != "likeness":
        return Model(run=run, version=0, tensors=encode_tensors(parameters))
    names = tuple(f"likeness-{number}" for number in range(1, description.clusters.count + 1))
    tensors = [_moved(value, description.seed, number) for number in range(len(names)) for value in parameters]
    return Model(run=run, version=0, tensors=encode_tensors(tensors), clusters=names)


def _moved(value: NDArray[np.float32], seed: int, number: int) -> NDArray[np.float32]:
    """By a fraction of the tensor's own spread; what is constant, as a bias or a normaliser, stays."""
    if not number:
        return value
    drawn = np.random.default_rng([seed, number]).standard_normal(value.shape)
    return np.asarray(value + LIKENESS_SPREAD * value.std() * drawn, dtype=np.float32)


def check_shapes(manifest: Manifest, parameters: Parameters) -> None:
    """Raises RunFailed where these are no parameters of the model."""
    expected = [parameter.shape for parameter in manifest.parameters]
    found = [value.shape for value in parameters]
    if expected != found:
        raise RunFailed(f"initial: parameters of shapes {found} where the model has {expected}; take a model like it")
