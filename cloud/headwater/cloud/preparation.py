"""Law: a run's description becomes graphs and a first model by its seed alone, and nothing unverified goes out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headwater.core.graph import Compiled, compile_bundle
from headwater.core.graph.gate import Verification, verify
from headwater.core.models import NORMALISER, build
from headwater.schemas.errors import RunFailed
from headwater.schemas.manifest import Manifest, Variant
from headwater.schemas.messages import Bundle, Model
from headwater.schemas.run import OnnxModel, RunDescription
from headwater.schemas.tensors import encode_tensors
from headwater.schemas.wire import encode


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


def prepare(
    run: str,
    description: RunDescription,
    forward: bytes | None,
    initial: tuple[NDArray[np.float32], ...] | None = None,
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
    _check_shapes(compiled.manifest, parameters)
    return Prepared(
        forward=source,
        manifest=compiled.manifest,
        bundle=encode(Bundle(manifest=compiled.manifest, graphs=compiled.bundle.graphs)),
        model=encode(Model(run=run, version=0, tensors=encode_tensors(parameters))),
        verification=verification,
    )


def _check_shapes(manifest: Manifest, parameters: tuple[NDArray[np.float32], ...]) -> None:
    expected = [parameter.shape for parameter in manifest.parameters]
    found = [value.shape for value in parameters]
    if expected != found:
        raise RunFailed(f"initial: parameters of shapes {found} where the model has {expected}; take a model like it")
