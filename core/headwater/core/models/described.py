"""Law: each kind of model that a run can describe has one row here, and the seed decides its first weights."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from headwater.core.models.attention import transformer
from headwater.core.models.convolutional import autoencoder1d, cnn1d, cnn2d, ds_cnn
from headwater.core.models.dense import autoencoder, mlp
from headwater.core.models.recurrent import gru
from headwater.schemas.run import Described


def _logistic(features: int, classes: int, **rest: Any) -> bytes:
    return mlp(features, (), classes, **rest)


def _mlp(classes: int, **rest: Any) -> bytes:
    return mlp(outputs=classes, **rest)


BUILDERS: Final[Mapping[str, Callable[..., bytes]]] = {
    "autoencoder": autoencoder,
    "autoencoder1d": autoencoder1d,
    "cnn1d": cnn1d,
    "cnn2d": cnn2d,
    "ds_cnn": ds_cnn,
    "gru": gru,
    "logistic": _logistic,
    "mlp": _mlp,
    "transformer": transformer,
}
"""A builder takes the description's fields by their names."""


def build(description: Described, seed: int) -> bytes:
    """The forward ONNX model of a description."""
    fields = description.model_dump(exclude={"kind", "frozen", "personal"})
    return BUILDERS[description.kind](**fields, rng=np.random.default_rng(seed))
